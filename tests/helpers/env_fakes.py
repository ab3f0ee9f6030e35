"""A small dataset and engines that record what they are asked, shared by the tests of the environment."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from zerosearch_env.engines import BatchedEngine
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.types import Dataset, Document, Question, SearchRequest, SearchResult

SEARCH = "<think>look it up</think><search>the lake of {}</search>"
ANSWER = "<answer>The lake</answer>"


def make_dataset(count: int = 40) -> Dataset:
    questions = tuple(
        Question(f"q{i}", f"What is thing number {i}?", (f"thing {i}", "lake") if i % 2 else (f"thing {i}",))
        for i in range(count)
    )
    passages = tuple(Document(f"Page {i}", f"Some words about thing {i}.") for i in range(count))
    return Dataset("fake", "train", questions, passages)


class EchoEngine(BatchedEngine):
    """Documents that say what was asked, with which noise and seed; keeps the sizes of all batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.closed = 0

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        self.batches.append(len(requests))
        return [
            SearchResult(
                tuple(
                    Document(
                        f"{request.query} {rank}",
                        f"noisy={request.noisy} seed={request.seed}",
                        f"d{rank}",
                        1.0 / (1 + rank),
                    )
                    for rank in range(request.top_k)
                )
            )
            for request in requests
        ]

    def close(self) -> None:
        self.closed += 1
        super().close()


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def _raises(error: BaseException) -> Callable[[list[SearchResult]], Any]:
    def misbehave(results: list[SearchResult]) -> Any:
        raise error

    return misbehave


def _document(**wrong: Any) -> Callable[[list[SearchResult]], Any]:
    return lambda results: [SearchResult((replace(results[0].documents[0], **wrong),)), *results[1:]]


MISBEHAVIOURS: dict[str, Callable[[list[SearchResult]], Any]] = {
    "None": lambda results: None,
    "a generator": lambda results: (result for result in results),
    "a string": lambda results: "results",
    "a mapping": lambda results: dict(enumerate(results)),
    "too few": lambda results: results[1:],
    "too many": lambda results: [*results, results[0]],
    "no results": lambda results: [None, *results[1:]],
    "documents of no type": lambda results: [SearchResult(None), *results[1:]],
    "documents that are strings": lambda results: [SearchResult(("text",)), *results[1:]],
    "documents from a generator": lambda results: [SearchResult(d for d in results[0].documents), *results[1:]],
    "a text that is None": _document(text=None),
    "a title of bytes": _document(title=b"title"),
    "a source that is a number": _document(source=7),
    "a score that is a string": _document(score="high"),
    "a failure that is an exception": lambda results: [SearchResult((), failure=ValueError("no")), *results[1:]],
    "a bug": _raises(KeyError("a bug")),
    "an invalid request": _raises(ConfigError("top_k is too large")),
    "a panic of native code": _raises(type("PanicException", (BaseException,), {})("panicked")),
    "an exit": _raises(SystemExit("out")),
    "a cancelled future": _raises(CancelledError()),
    "an exception without text": _raises(UnprintableError()),
    "a failure of the engine": _raises(EngineError("down", 2)),
}
"""What an engine does wrong with its proper results; at least the first search must fail."""


class BadEngine(EchoEngine):
    """Misbehaves in batches that hold the query "bad"."""

    def __init__(self, misbehaviour: str) -> None:
        super().__init__()
        self.misbehave = MISBEHAVIOURS[misbehaviour]

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        results = super().search(requests)
        return self.misbehave(results) if "bad" in [request.query for request in requests] else results
