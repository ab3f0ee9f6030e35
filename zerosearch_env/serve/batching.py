"""Dynamic batching: searches of concurrent requests share engine calls.

The first search waits `max_wait_s` for company; while the engine is busy, company gathers by itself and goes out
together as soon as the engine is free. The engine runs in threads of its own, so the event loop stays free and an
engine that hangs cannot keep the process alive.
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

from ..engines.base import SearchEngine
from ..errors import ConfigError, EngineError, ZeroSearchError
from ..retrieve_api.codec import RequestError
from ..types import SearchRequest, SearchResult
from .metrics import Metrics

Outcome = SearchResult | ZeroSearchError
_Job = Callable[[], None]
_Entry = tuple[SearchRequest, "asyncio.Future[SearchResult]"]

_log = logging.getLogger(__name__)


def search_apart(engine: SearchEngine, requests: Sequence[SearchRequest]) -> list[Outcome]:
    """Search a batch so that a request which the engine refuses does not take its company down.

    An `EngineError` is everybody's: the engine failed as a whole. After any other exception the halves of the batch
    are searched by themselves, until the request that causes it stands alone.

    Returns:
        One result or error a request, in order; an exception that is not of this package comes as an `EngineError`.
    """
    try:
        results = engine.search(requests)
    except EngineError as error:
        return [error] * len(requests)
    except BaseException as cause:  # native code panics with BaseException; here no Ctrl-C or exit can arrive
        if len(requests) > 1:
            half = len(requests) // 2
            return [*search_apart(engine, requests[:half]), *search_apart(engine, requests[half:])]
        if isinstance(cause, ZeroSearchError):
            return [cause]
        _log.exception("the engine raised for %r", requests[0])
        return [EngineError(f"{type(engine).__name__} raised {type(cause).__name__}: {cause}")]
    if len(results) != len(requests):
        wrong = EngineError(f"{type(engine).__name__} gave {len(results)} results for {len(requests)} requests")
        return [wrong] * len(requests)
    return list(results)


class Batcher:
    """Searches for many callers of one event loop.

    Args:
        engine: what answers; closed by `close`.
        metrics: where calls are counted.
        max_batch: most searches of one call.
        max_wait_s: how long the first search waits for company while the engine is free, in seconds.
        max_calls: calls that may run at the same time. More than 1 needs an engine that can be called from several
            threads, and pays where a call waits for another machine.
        max_waiting: searches that may wait, and that one request may hold; more are refused.

    Raises:
        ConfigError: an argument cannot be used.
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
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not max_wait_s >= 0:
            raise ConfigError(f"max_wait_s must be at least 0 seconds, got {max_wait_s!r}")
        self._engine = engine
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
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
        """Answer the searches of one caller, together with those of others.

        Raises:
            RequestError: too many searches at once (status 413), or too many wait already (503).
            EngineError: the engine failed.
            ZeroSearchError: the engine refused one of these requests.
        """
        if len(requests) > self._max_waiting:
            raise RequestError(
                f"a request may hold {self._max_waiting} queries, got {len(requests)}; send several", 413, "too_large"
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
            timeout_s: how long its `close` may take, in seconds.

        Returns:
            False when it did not return in time.

        Raises:
            Exception: what the engine's `close` raised.
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

        # Not one of the engine's own threads: these may hang.
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
        """Start calls while there is a free thread, and a batch that is full or has waited long enough."""
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
        """In a thread of the engine: one call, and its results to the event loop."""
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
        # The server has stopped meanwhile: nobody is left to be told.
        if not loop.is_closed():
            raise
