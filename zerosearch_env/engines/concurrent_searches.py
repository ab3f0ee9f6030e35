"""Searches of many threads at once: for agents that are played concurrently, each in its own thread."""

from __future__ import annotations

from ..errors import ZeroSearchError
from ..llm.http.loop import LoopThread
from ..types import SearchRequest, SearchResult
from .base import BatchedEngine, SearchEngine, engine_parts
from .batching import Batcher
from .run import as_result, run_search


class ConcurrentSearches:
    """Runs the searches of many threads: concurrently if the engine waits for other machines, else in batches.

    Args:
        engine: the search engine. If it waits and has its own `asearch`, that is called for each search, all in one
            event loop.
    """

    def __init__(self, engine: SearchEngine) -> None:
        self._engine = engine
        self._loop = LoopThread("zerosearch-searches")
        batched = isinstance(engine, BatchedEngine) and type(engine).asearch is BatchedEngine.asearch
        # That `asearch` would only take a detour through the event loop.
        self._batcher = Batcher(engine) if batched or not engine_parts(engine).waits else None

    def run(self, request: SearchRequest) -> SearchResult:
        """Search, and wait for the result; whatever the engine does wrong becomes a failed result."""
        if self._batcher is None:
            return self._loop.run(run_search(self._engine, request))
        try:
            return self._batcher.submit(request).result()
        except ZeroSearchError as error:
            return as_result(self._engine, error)

    def close(self) -> None:
        """End the threads. The engine is not closed."""
        self._loop.close()
        if self._batcher is not None:
            self._batcher.close()
