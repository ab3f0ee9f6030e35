"""The search engine protocol, and a base class that batches concurrent callers.

An engine answers a batch of requests in order. Subclasses of `BatchedEngine` implement `search` and inherit `asearch`
and the defaults of the optional parts.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigError, EngineError
from ..game.noise_kinds import split_kind
from ..types import Document, Question, SearchRequest, SearchResult
from .batching import Batcher
from .stats import SearchCounts


@runtime_checkable
class SearchEngine(Protocol):
    """Anything that answers searches. A result never depends on the other requests of its batch.

    An engine may also have the parts that `EngineParts` describes: `waits`, `is_quick`, `required_fields`,
    `noise_kinds`, `written_kinds`, `check_top_k`, `try_out`, `identity`, `stats`.
    """

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order."""
        ...

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request; concurrent callers are batched."""
        ...

    def close(self) -> None:
        """Release the engine's resources. Calling it twice is fine; searching afterwards is an error."""
        ...


class EngineParts:
    """The optional parts of an engine, with their defaults. `engine_parts` reads them from any engine."""

    waits: bool = False
    """Whether a search waits for another process or machine. If True, rollouts continue in the meantime, and agents
    search at the same time, so `search` and `asearch` must be thread-safe. If False, the engine computes in this
    process and each search is answered before the rollouts continue, so that the composition of a batch of theirs never
    depends on timing."""
    required_fields: Collection[str] = ()
    """Fields of `SearchRequest` without which the engine cannot answer, any of `"question"` and `"answers"`:
    `zerosearch serve` refuses requests that lack them."""
    noise_kinds: Collection[str] = ("distractor",)
    """Names of the kinds of noise that may be requested. `add_noise_kinds` gives an engine more."""
    written_kinds: Collection[str] = ()
    """Kinds of noise whose documents the engine writes itself if a noisy request has this `noise_kind`. Every other
    kind is made from its useful and noisy documents (`KindsEngine`)."""

    def is_quick(self, requests: Sequence[SearchRequest]) -> bool:
        """Whether `search` answers these requests within a few milliseconds, waiting for nothing. By default not.

        Handing requests to another thread costs about as much as such a search, so `asearch` then searches on the event
        loop of its callers, possibly while a thread runs another call: `search` must be thread-safe.
        """
        return False

    def check_top_k(self, top_k: int, *, noise: bool = False) -> None:
        """Check that the engine can return `top_k` documents, before anything is searched. By default it can.

        Args:
            top_k: number of documents per result.
            noise: whether noisy results will be requested; these need further passages in addition to the useful ones.

        Raises:
            ConfigError: the engine has too few passages; the message gives both numbers.
        """

    def try_out(self, questions: Sequence[Question], top_k: int) -> str | None:
        """Try a few searches before the first real one, as commands do when they start. By default none is tried.

        Args:
            questions: the questions that will be asked; may be empty.
            top_k: documents per search.

        Returns:
            How they went, in one line; None if nothing was tried.

        Raises:
            EngineError: none of them was answered.
        """
        return None

    def identity(self) -> Mapping[str, str]:
        """The files and data that results depend on: name -> hash of the content (see `zerosearch_env.identity`).

        An evaluation or a run that is continued compares them. By default there are none.
        """
        return {}

    def stats(self) -> SearchCounts | None:
        """The counts so far, in this process; None if the engine does not count."""
        return None


_PARTS = (
    *("waits", "is_quick", "required_fields", "noise_kinds", "written_kinds"),
    *("check_top_k", "try_out", "identity", "stats"),
)


def engine_parts(engine: SearchEngine) -> EngineParts:
    """The optional parts of an engine. For a part that the engine lacks, the default."""
    parts = EngineParts()
    for name in _PARTS:
        part = getattr(engine, name, None)
        # An engine of another author may have an attribute `stats` instead of the method.
        if part is not None and callable(part) == callable(getattr(parts, name)):
            setattr(parts, name, part)
    return parts


def check_noise_kinds(engine: SearchEngine, kinds: Iterable[str]) -> None:
    """Check that an engine gives the kinds of noise that will be requested: another one would return distractors.

    Args:
        engine: the engine.
        kinds: kinds of noise, with or without their number.

    Raises:
        ConfigError: it does not give one of them.
    """
    possible = engine_parts(engine).noise_kinds
    if missing := [kind for kind in kinds if split_kind(kind)[0] not in possible]:
        raise ConfigError(
            f"{type(engine).__name__} does not return noise of the kind {missing[0]!r}: give it the kinds first, with "
            f"engine = add_noise_kinds(engine, {list(missing)!r}, questions)."
        )


def check_corpus(engine: SearchEngine, questions: Iterable[Question], top_k: int, *, noise: bool) -> None:
    """Check now, instead of at the first search, that an engine's corpus has enough passages.

    Args:
        engine: the engine.
        questions: the questions that will be asked. Those with their own paragraphs need no corpus.
        top_k: documents per search.
        noise: whether searches can be noisy.

    Raises:
        ConfigError: the corpus is too small; the message gives both numbers.
    """
    if any(not question.paragraphs for question in questions):
        engine_parts(engine).check_top_k(top_k, noise=noise)


def try_engine(engine: SearchEngine, questions: Sequence[Question], top_k: int) -> None:
    """Let an engine try a few searches, and print on stderr how they went (see `EngineParts.try_out`).

    Raises:
        EngineError: none of them was answered.
    """
    line = engine_parts(engine).try_out(questions, top_k)
    if line is not None:
        print(line, file=sys.stderr, flush=True)


class BatchedEngine(EngineParts, ABC):
    """Base class of engines: a subclass implements `search`; `asearch` and `close` are provided here.

    Concurrent callers of `asearch` share `search` calls, which run in another thread unless they are quick
    (`EngineParts.is_quick`), so event loops stay free (see `batching.py`). There is one call at a time, or up to 16 if
    the engine `waits` for another machine.

    Args:
        max_wait_s: how long a search waits for those that the last batch makes probable, in seconds; 0: never. A
            caller that is alone never waits.
        max_batch: maximum number of requests per call.
    """

    def __init__(self, *, max_wait_s: float = 0.002, max_batch: int = 1024) -> None:
        self._batching = (max_wait_s, max_batch)
        self._batcher = self._new_batcher()
        self._closed = False

    @abstractmethod
    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order.

        Raises:
            EngineError: when the engine is closed.
        """

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request, batched with those of other callers.

        Whatever `search` does wrong fails the callers concerned (see `run.search_each`).

        Raises:
            EngineError: the engine is closed, or `search` failed.
            ConfigError: the engine rejected the request.
        """
        self._check_open()
        (result,) = await self._batcher.asearch([request])
        return result

    def close(self) -> None:
        """Release the engine's resources. Calling it twice is fine; searching afterwards raises EngineError."""
        self._closed = True
        self._batcher.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pending callers and their threads, so that an engine can be sent to worker processes."""
        return {name: value for name, value in self.__dict__.items() if name != "_batcher"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state; pending callers are not copied."""
        self.__dict__ |= state
        self._batcher = self._new_batcher()

    def _new_batcher(self) -> Batcher:
        max_wait_s, max_batch = self._batching
        return Batcher(self, max_wait_s=max_wait_s, max_batch=max_batch)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"{type(self).__name__} is closed; build a new one to search again", attempts=0)


def check_size(passages: int, top_k: int, *, noise: bool) -> None:
    """Check that there are enough passages for a result, and with noise for a second result that shares none of them.

    Raises:
        ConfigError: there are too few passages; the message gives both numbers.
    """
    needed = 2 * top_k if noise else top_k
    if passages < needed:
        why = f"{top_k} useful ones and as many noisy ones" if noise else "the documents of one result"
        raise ConfigError(
            f"the corpus has {passages} passages and top_k={top_k} needs at least {needed} ({why}). "
            "Give a larger corpus or a smaller top_k."
        )


def results_of(
    engine: str,
    requests: Sequence[SearchRequest],
    find: Callable[[SearchRequest], tuple[Document, ...]],
    *,
    began: float,
) -> list[SearchResult]:
    """Answer requests one by one; an `EngineError` becomes the failure of its request.

    Args:
        engine: name of the engine.
        requests: the batch, in order.
        find: returns the documents of one request.
        began: `time.perf_counter()` at the start of the batch; the latency of all results is the time since then.
    """
    found: list[tuple[tuple[Document, ...], str | None]] = []
    for request in requests:
        try:
            found.append((find(request), None))
        except EngineError as error:
            found.append(((), str(error)))
    elapsed = time.perf_counter() - began
    return [SearchResult(shown, engine=engine, latency_s=elapsed, failure=failure) for shown, failure in found]


def check_mask(request: SearchRequest) -> None:
    """Check that a request asks for at least one document, and that a noise mask has one flag per document.

    Raises:
        ConfigError: `top_k` is below 1, or the length of the mask is not `top_k`.
    """
    if request.top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {request.top_k}")
    if not isinstance(request.noisy, bool) and len(request.noisy) != request.top_k:
        raise ConfigError(f"a noise mask has {len(request.noisy)} flags for top_k={request.top_k} documents")
