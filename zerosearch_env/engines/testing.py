"""Engines for tests and benchmarks, and the conformance suite that every engine should pass."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Document, SearchRequest, SearchResult
from .base import BatchedEngine, SearchEngine

DEFAULT_DOCUMENTS = tuple(
    Document(title=f"Constant {number}", text="This passage is the same for every query.", source=f"constant-{number}")
    for number in range(1, 6)
)


class ConstantEngine(BatchedEngine):
    """Returns the same documents for every request; costs next to nothing.

    Args:
        documents: what every search returns, cut to the request's `top_k`.
    """

    def __init__(self, documents: Sequence[Document] = DEFAULT_DOCUMENTS) -> None:
        super().__init__()
        self._documents = tuple(documents)
        self._results: dict[int, SearchResult] = {}

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """The same documents for each request; the result objects are shared."""
        if self._closed:
            self._check_open()
        results = self._results
        for request in requests:
            if request.top_k not in results:
                results[request.top_k] = SearchResult(self._documents[: request.top_k], engine="constant")
        return [results[request.top_k] for request in requests]


class FailingEngine(BatchedEngine):
    """Fails: from the first request on, or after a number of requests that another engine answers.

    Args:
        message: the failure's text.
        after: how many requests succeed before the first failure.
        inner: answers the requests that succeed; a `ConstantEngine` by default.
        attempts: what the failed results report as attempts.
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

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Results of the inner engine while some are left, failures afterwards."""
        self._check_open()
        good = min(self._left, len(requests))
        self._left -= good
        failure = SearchResult((), engine="failing", attempts=self._attempts, failure=self._message)
        return [*self._inner.search(requests[:good]), *[failure] * (len(requests) - good)]

    def close(self) -> None:
        """Close this engine and the inner one."""
        super().close()
        self._inner.close()


def check_engine(engine: SearchEngine, requests: Sequence[SearchRequest] | None = None) -> None:
    """Skeleton: being written."""
    raise NotImplementedError
