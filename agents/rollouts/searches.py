"""Running the searches of rollouts: directly, or in the background while other episodes generate."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from zerosearch_env.engines import SearchEngine, engine_parts
from zerosearch_env.engines.concurrent_searches import ConcurrentSearches
from zerosearch_env.engines.run import run_searches
from zerosearch_env.types import SearchRequest, SearchResult

from ..sampling.protocol import TurnSampler

SearchKey = int | tuple[int, int]
"""The number of an episode; with several searches in one turn, this number and the position of the search."""
Answer = tuple[SearchKey, SearchResult]


class SearchDesk(Protocol):
    """Accepts searches and returns results. All methods are called from one thread, except `wake`."""

    def submit(self, key: SearchKey, request: SearchRequest) -> None:
        """Submit a search; its result is returned with `key`."""
        ...

    def collect(self, *, wait: bool) -> list[Answer]:
        """Return the finished results; with `wait`, at least one, or none after `wake`.

        Use `wait` only while searches are pending.
        """
        ...

    def wake(self) -> None:
        """Make a waiting `collect` (or the next one) return soon. Callable from any thread."""
        ...

    def close(self) -> None:
        """Abandon pending searches."""
        ...


class DirectDesk:
    """Searches in the calling thread: all searches submitted since the last `collect` are one call to the engine.

    For engines that compute in this process: a separate thread would only compete with the sampler, and the batches
    would depend on timing.
    """

    def __init__(self, engine: SearchEngine) -> None:
        self._engine = engine
        self._keys: list[SearchKey] = []
        self._requests: list[SearchRequest] = []

    def submit(self, key: SearchKey, request: SearchRequest) -> None:
        """See `SearchDesk.submit`."""
        self._keys.append(key)
        self._requests.append(request)

    def collect(self, *, wait: bool) -> list[Answer]:
        """See `SearchDesk.collect`."""
        keys, requests = self._keys, self._requests
        self._keys, self._requests = [], []
        return list(zip(keys, run_searches(self._engine, requests), strict=True))

    def wake(self) -> None:
        """Does nothing: `collect` never waits here."""

    def close(self) -> None:
        """See `SearchDesk.close`."""
        self._keys, self._requests = [], []


class BackgroundDesk:
    """Searches in the background while the calling thread continues; each result arrives when it is ready.

    Args:
        engine: the search engine.
        on_ready: called from another thread when a result is ready.
    """

    def __init__(self, engine: SearchEngine, on_ready: Callable[[], object]) -> None:
        self._searches = ConcurrentSearches(engine)
        self._on_ready = on_ready
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._pending: set[Future[SearchResult]] = set()  # an event loop holds its tasks only weakly

    def submit(self, key: SearchKey, request: SearchRequest) -> None:
        """See `SearchDesk.submit`."""

        def deliver(done: Future[SearchResult]) -> None:
            self._pending.discard(done)
            if not done.cancelled():
                self._answers.put((key, done.result()))
                self._on_ready()

        future = self._searches.submit(request)
        self._pending.add(future)
        future.add_done_callback(deliver)

    def collect(self, *, wait: bool) -> list[Answer]:
        """See `SearchDesk.collect`."""
        results: list[Answer] = []
        while True:
            try:
                answer = self._answers.get(block=wait and not results)
            except queue.Empty:
                return results
            if answer is None:
                wait = False
                continue
            results.append(answer)

    def wake(self) -> None:
        """See `SearchDesk.wake`."""
        self._answers.put(None)

    def close(self) -> None:
        """See `SearchDesk.close`."""
        self._searches.close()


def make_desk(engine: SearchEngine, sampler: TurnSampler) -> SearchDesk:
    """Make the desk for an engine: in the background (waking the sampler) if the engine `waits`, otherwise direct."""
    return BackgroundDesk(engine, sampler.wake) if engine_parts(engine).waits else DirectDesk(engine)
