"""Dynamic batching: searches of concurrent requests share engine calls.

The first search waits up to `max_wait_s` for others to join its batch. While the engine is busy, arriving searches
queue up, and go out as one batch as soon as it is free:

    requests   a  b c      d e f g        h
    engine        [ a b c        ][ d e f g      ][ h ...
               |--| max_wait_s    ^ free again: the next batch starts immediately

The engine runs in its own threads, so the event loop stays free, and an engine that hangs cannot keep the process
alive.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..checks import check_number, check_whole_number
from ..engines.base import SearchEngine
from ..errors import EngineError, ZeroSearchError
from ..retrieve_api.codec import RequestError
from ..types import SearchRequest, SearchResult
from .metrics import Metrics

Outcome = SearchResult | ZeroSearchError
_Job = Callable[[], None]
_Entry = tuple[SearchRequest, "asyncio.Future[SearchResult]"]

_log = logging.getLogger(__name__)


def search_apart(engine: SearchEngine, requests: Sequence[SearchRequest]) -> list[Outcome]:
    """Search a batch such that a request the engine rejects does not fail the others.

    An `EngineError` applies to all requests: the engine as a whole failed. After any other exception the two halves of
    the batch are searched separately, and so on, until the request that causes it is isolated.

    Returns:
        One result or error per request, in order. Exceptions from outside this package become an `EngineError`.
    """
    try:
        results = engine.search(requests)
    except EngineError as error:
        return [error] * len(requests)
    except BaseException as cause:  # native code may panic with BaseException; Ctrl-C and exit never reach this thread
        if len(requests) > 1:
            half = len(requests) // 2
            return [*search_apart(engine, requests[:half]), *search_apart(engine, requests[half:])]
        if isinstance(cause, ZeroSearchError):
            return [cause]
        _log.exception("the engine raised for %r", requests[0])
        return [EngineError(f"{type(engine).__name__} raised {type(cause).__name__}: {cause}")]
    if len(results) != len(requests):
        wrong = EngineError(f"{type(engine).__name__} returned {len(results)} results for {len(requests)} requests")
        return [wrong] * len(requests)
    return list(results)


class Batcher:
    """Batches the searches of many callers in one event loop.

    Args:
        engine: the search engine; closed by `close`.
        metrics: counts the calls.
        max_batch: maximum number of searches per engine call.
        max_wait_s: how long the first search waits for others while the engine is free, in seconds.
        max_calls: maximum number of concurrent engine calls. More than 1 needs a thread-safe engine, and helps if a
            call waits for another machine.
        max_waiting: maximum number of waiting searches, and of searches per request; more are rejected.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        engine: SearchEngine,
        metrics: Metrics,
        *,
        max_batch: int = 256,
        max_wait_s: float = 0.003,
        max_calls: int = 1,
        max_waiting: int = 20_000,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_calls", max_calls), ("max_waiting", max_waiting)):
            check_whole_number(name, value)
        self._engine = engine
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_wait_s = check_number("max_wait_s", max_wait_s, least=0)
        self._max_waiting = max_waiting
        self._waiting: deque[_Entry] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._free = max_calls
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = max_calls
        for number in range(max_calls):
            threading.Thread(target=_work, args=(self._jobs,), name=f"engine-{number}", daemon=True).start()
        metrics.waiting = self._waiting.__len__

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer the searches of one caller, batched with those of others.

        Raises:
            RequestError: the request has too many searches (status 413), or too many are already waiting (503).
            EngineError: the engine failed.
            ZeroSearchError: the engine rejected one of these requests.
        """
        if len(requests) > self._max_waiting:
            raise RequestError(
                f"a request may hold at most {self._max_waiting} queries, got {len(requests)}; split it",
                413,
                "too_large",
            )
        if len(self._waiting) + len(requests) > self._max_waiting:
            raise RequestError(
                f"overloaded: {len(self._waiting)} searches wait for the engine; try again later", 503, "overloaded"
            )
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[SearchResult]] = [loop.create_future() for _ in requests]
        self._waiting.extend(zip(requests, futures, strict=True))
        self._schedule(loop)
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        results = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
        return results

    async def close(self, timeout_s: float) -> bool:
        """Close the engine and end its threads.

        Args:
            timeout_s: maximum time for the engine's `close`, in seconds.

        Returns:
            False if it did not return in time.

        Raises:
            Exception: whatever the engine's `close` raised.
        """
        for _ in range(self._threads):
            self._jobs.put(None)
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        error: list[Exception] = []

        def run() -> None:
            try:
                self._engine.close()
            except Exception as cause:
                error.append(cause)
            _tell(loop, done.set)

        # Not in one of the engine's threads, which may hang.
        threading.Thread(target=run, name="engine-close", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), timeout_s)
        except TimeoutError:
            return False
        if error:
            raise error[0]
        return True

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            return
        if self._timer is None and not self._due:
            self._timer = loop.call_later(self._max_wait_s, self._waited, loop)
        self._send(loop)

    def _waited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._due = None, True
        self._send(loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start calls while a thread is free and a batch is full or has waited long enough."""
        while self._free and self._waiting and (self._due or len(self._waiting) >= self._max_batch):
            size = min(self._max_batch, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            live = [(request, future) for request, future in batch if not future.done()]
            if live:
                self._free -= 1
                self._jobs.put(functools.partial(self._call, loop, live))
        if not self._waiting:
            self._due = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _call(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Entry]) -> None:
        """Run one call in an engine thread, and pass its results to the event loop."""
        began = time.perf_counter()
        outcomes = search_apart(self._engine, [request for request, _ in batch])
        _tell(loop, self._deliver, loop, batch, outcomes, time.perf_counter() - began)

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Entry], outcomes: Sequence[Outcome], seconds: float
    ) -> None:
        self._free += 1
        self._metrics.engine_call(len(batch), seconds)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, ZeroSearchError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._send(loop)


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        # The server has stopped: no one is left to notify.
        if not loop.is_closed():
            raise
