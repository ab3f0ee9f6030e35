"""A small dataset and engines that record what they are asked, shared by the tests of the environment."""

from __future__ import annotations

from collections.abc import Sequence

from zerosearch_env.engines import BatchedEngine, ConstantEngine
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


class ShortEngine(ConstantEngine):
    """Breaks the contract: one result too few."""

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return super().search(requests)[1:]
