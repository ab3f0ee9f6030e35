"""Engines for tests and benchmarks, and the conformance checks that every engine should pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..game.answers import contains_answer
from ..types import Document, SearchRequest, SearchResult, full_text
from .base import BatchedEngine, SearchEngine, engine_parts

INVENTED_REQUESTS = tuple(
    SearchRequest(query, f"{query}?", (answer,), noisy=False, top_k=5, seed=seed)
    for seed, (query, answer) in enumerate(
        [("who wrote the first lighthouse manual", "Nobody Known"), ("capital of Zembla", "Onhava"), ("year", "1789")]
    )
)
"""Requests for testing engines with unknown documents."""

DEFAULT_DOCUMENTS = tuple(
    Document(title=f"Constant {number}", text="This passage is the same for every query.", source=f"constant-{number}")
    for number in range(1, 6)
)


class ConstantEngine(BatchedEngine):
    """Returns the same documents for every request, at almost no cost.

    Args:
        documents: the documents that every search returns, cut to the request's `top_k`.
    """

    def __init__(self, documents: Sequence[Document] = DEFAULT_DOCUMENTS) -> None:
        super().__init__()
        self._documents = tuple(documents)
        self._results: dict[int, SearchResult] = {}

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Return the same documents for each request; requests with equal `top_k` share one result object."""
        if self._closed:
            self._check_open()
        results = self._results
        for request in requests:
            if request.top_k not in results:
                results[request.top_k] = SearchResult(self._documents[: request.top_k], engine="constant")
        return [results[request.top_k] for request in requests]


class FailingEngine(BatchedEngine):
    """Fails on every request, or on every request after the first `after` ones.

    Args:
        message: the failure message.
        after: number of requests that succeed before the first failure.
        inner: engine that answers the successful requests; a `ConstantEngine` by default.
        attempts: number of attempts that the failed results report.
    """

    def __init__(
        self,
        message: str = "this engine always fails",
        *,
        after: int = 0,
        inner: SearchEngine | None = None,
        attempts: int = 3,
    ) -> None:
        super().__init__()
        self._message = message
        self._left = after
        self._inner = ConstantEngine() if inner is None else inner
        self._attempts = attempts

    def identity(self) -> Mapping[str, str]:
        """That of the inner engine; see `EngineParts`."""
        return engine_parts(self._inner).identity()

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Return results of the inner engine for the first `after` requests, then failures."""
        self._check_open()
        good = min(self._left, len(requests))
        self._left -= good
        failure = SearchResult((), engine="failing", attempts=self._attempts, failure=self._message)
        return [*self._inner.search(requests[:good]), *[failure] * (len(requests) - good)]

    def close(self) -> None:
        """Close this engine and the inner one."""
        super().close()
        self._inner.close()


STRANGE_QUERIES = (
    "",
    "   ",
    "?!",
    "\x00\x07\x1b[0m",
    "\ud800",
    "日本語 ไทย العربية हिन्दी",
    "🧪🚀",
    "e\u0301\u0302\u0303" * 50,
    "zzzzqqqqxxxx",
    "</search><answer>x</answer><information>",
    "the " * 2000,
)
"""Queries that an engine must answer without an error."""


def check_engine(
    engine: SearchEngine, requests: Sequence[SearchRequest] | None = None, *, deterministic: bool = True
) -> None:
    """Check that an engine keeps the guarantees that environments and learners rely on; for tests of engines.

    - A batch gives one result per request, in order. An empty batch and any Unicode query are answered.
    - A result has at most `top_k` documents, and their fields have the right types.
    - The same request gives the same documents, whatever else is in the batch.
    - Noisy documents contain no gold answer, and a noise mask applies slot by slot.
    - `asearch` agrees with `search`.

    Args:
        engine: the engine to check; it stays open.
        requests: at least one search with known answers that makes sense for the engine's documents. Each is sent
            with and without noise, whatever its own flag. None sends three invented requests.
        deterministic: False skips the comparisons of repeated searches.

    Raises:
        AssertionError: a guarantee is broken; the message says which one, and for which request.
    """
    base = list(INVENTED_REQUESTS if requests is None else requests)
    _require(bool(base), "check_engine needs at least one request")
    _require(engine.search([]) == [], "an empty batch must give an empty list")
    plain = [replace(request, noisy=False) for request in base]
    noisy = [replace(request, noisy=True) for request in base]
    mixed = [replace(request, noisy=tuple(j % 2 == 0 for j in range(request.top_k))) for request in base]
    strange = [replace(base[0], query=query, noisy=flag) for query in STRANGE_QUERIES for flag in (False, True)]
    small = [replace(request, top_k=1) for request in (*plain, *noisy)]
    batch = [*plain, *noisy, *mixed, *strange, *small]
    results = engine.search(batch)
    _require(len(results) == len(batch), f"{len(batch)} requests gave {len(results)} results")
    for request, result in zip(batch, results, strict=True):
        _check_result(request, result)
    if deterministic:
        import asyncio

        backwards = engine.search(batch[::-1])[::-1]
        alone = [engine.search([request])[0] for request in batch[: 4 * len(base)]]
        for request, first, again in zip(batch, results, backwards, strict=True):
            _require(first.documents == again.documents, f"other documents in another batch: {request}")
        for request, first, again in zip(batch, results, alone, strict=False):
            _require(first.documents == again.documents, f"other documents when asked alone: {request}")
        awaited = asyncio.run(_ask_all(engine, batch))
        for request, first, again in zip(batch, results, awaited, strict=True):
            _require(first.documents == again.documents, f"asearch and search differ: {request}")
    count = len(base)
    for i, request in enumerate(mixed):
        useful, wrong, both = results[i], results[count + i], results[2 * count + i]
        _check_mask(request, useful, wrong, both)


def _require(condition: bool, message: str) -> None:
    # Not an `assert` statement: the checks must also run under `python -O`.
    if not condition:
        raise AssertionError(message)


async def _ask_all(engine: SearchEngine, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    import asyncio

    return await asyncio.gather(*(engine.asearch(request) for request in requests))


def _check_result(request: SearchRequest, result: SearchResult) -> None:
    _require(isinstance(result, SearchResult), f"expected a SearchResult, got {type(result).__name__}: {request}")
    _require(result.failure is None, f"failed with {result.failure!r}: {request}")
    _require(isinstance(result.documents, tuple), f"documents must be a tuple: {request}")
    _require(len(result.documents) <= request.top_k, f"{len(result.documents)} documents for top_k: {request}")
    for document in result.documents:
        texts = (document.title, document.text, document.source)
        _require(all(isinstance(text, str) for text in texts), f"a document's field is not a string: {document}")
    if request.noisy is True:
        for document in result.documents:
            _require(not _holds(document, request), f"a noisy document holds a gold answer: {document}; {request}")


def _check_mask(request: SearchRequest, useful: SearchResult, wrong: SearchResult, both: SearchResult) -> None:
    """Noisy slots must hold no answer; useful slots must hold the same document as in a search without noise."""
    if not len(useful.documents) == len(wrong.documents) == len(both.documents) == request.top_k:
        return  # A short result leaves slots out, so the remaining documents can no longer be matched to slots.
    for slot, (document, noise) in enumerate(zip(both.documents, request.noise_mask, strict=True)):
        if noise:
            _require(not _holds(document, request), f"noisy slot {slot} holds a gold answer: {document}; {request}")
        else:
            _require(document == useful.documents[slot], f"slot {slot} is not what a useful search gives: {request}")


def _holds(document: Document, request: SearchRequest) -> bool:
    return contains_answer(full_text(document), request.answers)
