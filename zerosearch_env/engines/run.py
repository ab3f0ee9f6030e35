"""One engine call for the searches of a step, with the engine's answer checked."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import EngineError
from ..types import SearchRequest, SearchResult
from .base import SearchEngine


def run_searches(engine: SearchEngine, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """One engine call for all requests; an `EngineError` of the whole call becomes the failure of each of them.

    Without a request the engine is not called.

    Raises:
        EngineError: when the engine does not return one result a request, which no retry mends.
    """
    if not requests:
        return []
    try:
        results = engine.search(requests)
    except EngineError as error:
        failed = SearchResult((), engine=type(engine).__name__, attempts=error.attempts, failure=str(error))
        return [failed] * len(requests)
    if len(results) != len(requests):
        raise EngineError(
            f"{type(engine).__name__}.search returned {len(results)} results for {len(requests)} requests; "
            "it must return one result a request, in order."
        )
    return results
