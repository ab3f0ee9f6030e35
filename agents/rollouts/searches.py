"""Where rollouts hand in their searches: answered at once, or in the background while others generate."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from zerosearch_env.engines import SearchEngine
from zerosearch_env.engines.run import run_searches
from zerosearch_env.errors import EngineError
from zerosearch_env.llm.http.loop import LoopThread
from zerosearch_env.types import SearchRequest, SearchResult

from ..sampling.protocol import TurnSampler

Answer = tuple[int, SearchResult]


class SearchDesk(Protocol):
    """Takes searches, gives results; all from one thread, except `wake`."""

    def submit(self, key: int, request: SearchRequest) -> None:
        """Hand in a search; its result comes with `key`."""
        ...

    def collect(self, *, wait: bool) -> list[Answer]:
        """Results that are there; with `wait`, one at least, or none after `wake`.

        To be waited for only while searches are pending.
        """
        ...

    def wake(self) -> None:
        """Have a `collect` that waits (or the next one) return soon. From any thread."""
        ...

    def close(self) -> None:
        """Give up what is pending."""
        ...


class DirectDesk:
    """Answers in the calling thread: everything handed in since the last time is one call of the engine.

    For engines that compute in this process: a thread of their own would only take turns with the sampler, and what is
    computed together would depend on chance.
    """

    def __init__(self, engine: SearchEngine) -> None:
        self._engine = engine
        self._keys: list[int] = []
        self._requests: list[SearchRequest] = []

    def submit(self, key: int, request: SearchRequest) -> None:
        """See `SearchDesk.submit`."""
        self._keys.append(key)
        self._requests.append(request)

    def collect(self, *, wait: bool) -> list[Answer]:
        """See `SearchDesk.collect`."""
        keys, requests = self._keys, self._requests
        self._keys, self._requests = [], []
        return list(zip(keys, run_searches(self._engine, requests), strict=True))

    def wake(self) -> None:
        """Nothing waits here: the engine computes."""

    def close(self) -> None:
        """See `SearchDesk.close`."""
        self._keys, self._requests = [], []


class BackgroundDesk:
    """Answers while the calling thread goes on; each search comes back at its own time.

    The engine's `asearch` is called for each, all in one event loop, so what is handed in together is batched as far as
    the engine batches.

    Args:
        engine: answers.
        on_ready: called, from another thread, when a result has come.
    """

    def __init__(self, engine: SearchEngine, on_ready: Callable[[], object]) -> None:
        self._engine = engine
        self._on_ready = on_ready
        self._loop = LoopThread("zerosearch-searches")
        self._answers: queue.SimpleQueue[tuple[int, SearchResult | BaseException] | None] = queue.SimpleQueue()
        self._pending: set[Future[None]] = set()

    def submit(self, key: int, request: SearchRequest) -> None:
        """See `SearchDesk.submit`."""
        self._pending = {future for future in self._pending if not future.done()}
        self._pending.add(self._loop.submit(self._search(key, request)))

    def collect(self, *, wait: bool) -> list[Answer]:
        """See `SearchDesk.collect`.

        Raises:
            Exception: whatever an engine raised that is no `EngineError`.
        """
        found: list[Answer] = []
        while True:
            try:
                answer = self._answers.get(block=wait and not found)
            except queue.Empty:
                return found
            if answer is None:
                wait = False
                continue
            key, result = answer
            if isinstance(result, BaseException):
                raise result
            found.append((key, result))

    def wake(self) -> None:
        """See `SearchDesk.wake`."""
        self._answers.put(None)

    def close(self) -> None:
        """See `SearchDesk.close`."""
        self._loop.close()

    async def _search(self, key: int, request: SearchRequest) -> None:
        try:
            result: SearchResult | BaseException = await self._engine.asearch(request)
        except EngineError as error:
            name = type(self._engine).__name__
            result = SearchResult((), engine=name, attempts=error.attempts, failure=str(error))
        except Exception as error:
            result = error
        self._answers.put((key, result))
        self._on_ready()


def make_desk(engine: SearchEngine, sampler: TurnSampler) -> SearchDesk:
    """A desk that answers in the background, and wakes the sampler, where the engine waits for others; else at once."""
    return BackgroundDesk(engine, sampler.wake) if getattr(engine, "waits", False) else DirectDesk(engine)
