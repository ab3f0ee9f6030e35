"""One engine call for all searches of a step, with a check of the number of results."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import EngineError
from ..types import SearchRequest, SearchResult
from .base import SearchEngine


def run_searches(engine: SearchEngine, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Call the engine once for all requests; if the call raises `EngineError`, each request gets a failed result.

    Without requests the engine is not called.

    Raises:
        EngineError: the engine did not return one result per request, which a retry cannot fix.
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
            "it must return one result per request, in order."
        )
    return results
