"""Searches that run at once, started from any thread: of agents that are played concurrently, and of rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from ..errors import ZeroSearchError
from ..llm.http.loop import LoopThread
from ..types import SearchRequest, SearchResult
from .base import BatchedEngine, SearchEngine, engine_parts
from .batching import Batcher
from .run import as_result, is_quick, run_search, run_searches


class ConcurrentSearches:
    """Runs many searches at once: concurrently if the engine waits for other machines, else in batches.

    It is an engine for threads that each search for themselves (`run.Engine`).

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

    def submit(self, request: SearchRequest) -> Future[SearchResult]:
        """Start a search from any thread; whatever the engine does wrong becomes a failed result.

        Raises:
            EngineError: these searches are closed.
        """
        if self._batcher is None:
            return self._loop.submit(run_search(self._engine, request))
        result: Future[SearchResult] = Future()
        self._batcher.submit(request).add_done_callback(lambda done: result.set_result(self._result(done)))
        return result

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Search for all requests at once, and wait for the results. Quick searches need no other thread."""
        if is_quick(self._engine, requests):
            return run_searches(self._engine, requests)
        return [future.result() for future in [self.submit(request) for request in requests]]

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Search, and await the result."""
        return await asyncio.wrap_future(self.submit(request))

    def close(self) -> None:
        """End the threads. The engine is not closed."""
        self._loop.close()
        if self._batcher is not None:
            self._batcher.close()

    def _result(self, done: Future[SearchResult]) -> SearchResult:
        try:
            return done.result()
        except ZeroSearchError as error:
            return as_result(self._engine, error)
