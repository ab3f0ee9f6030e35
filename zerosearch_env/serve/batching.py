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
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..checks import check_number, check_whole_number
from ..engines.base import SearchEngine
from ..engines.run import Outcome, search_each
from ..errors import EngineError, ZeroSearchError
from ..retrieve_api.codec import RequestError
from ..types import SearchRequest, SearchResult
from .metrics import Metrics

_Job = Callable[[], None]
_Entry = tuple[SearchRequest, "asyncio.Future[SearchResult]"]


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
        self._running: list[float] = []  # when each running call began
        self._failed: tuple[float, str] | None = None
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

    def stuck_s(self, limit_s: float) -> float:
        """Seconds since the latest engine call began, if every thread is in a call longer than `limit_s`; else 0."""
        latest = time.monotonic() - max(self._running) if self._running and not self._free else 0.0
        return latest if latest > limit_s else 0.0

    def failure(self, within_s: float) -> str | None:
        """The error of the latest engine call, if all its searches failed and it was within the last `within_s`."""
        if self._failed is None or time.monotonic() - self._failed[0] > within_s:
            return None
        return self._failed[1]

    async def close(self, timeout_s: float) -> str | None:
        """Close the engine and end its threads.

        Args:
            timeout_s: maximum time for the engine's `close`, in seconds.

        Returns:
            Why the engine could not be closed; None if it is closed.
        """
        for _ in range(self._threads):
            self._jobs.put(None)
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[str | None] = loop.create_future()

        def run() -> None:
            problem = None
            try:
                self._engine.close()
            except BaseException as cause:  # native code may raise BaseException
                problem = f"{type(cause).__name__}: {cause}"
            _tell(loop, closed.set_result, problem)

        # Not in one of the engine's threads, which may hang.
        threading.Thread(target=run, name="engine-close", daemon=True).start()
        await asyncio.wait([closed], timeout=timeout_s)
        return closed.result() if closed.done() else f"it took longer than {timeout_s:g} s"

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
                began = time.monotonic()
                self._running.append(began)
                self._jobs.put(functools.partial(self._call, loop, live, began))
        if not self._waiting:
            self._due = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _call(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Entry], began: float) -> None:
        """Run one call in an engine thread, and pass its results to the event loop."""
        outcomes = search_each(self._engine, [request for request, _ in batch])
        _tell(loop, self._deliver, loop, batch, outcomes, began)

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Entry], outcomes: Sequence[Outcome], began: float
    ) -> None:
        now = time.monotonic()
        self._free += 1
        self._running.remove(began)
        self._metrics.engine_call(len(batch), now - began)
        failures = [_failure(outcome) for outcome in outcomes]
        self._failed = None if None in failures else (now, str(failures[0]))
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, ZeroSearchError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._send(loop)


def _failure(outcome: Outcome) -> str | None:
    """Why the engine failed; None for a result, and for a request that the engine rejected."""
    if isinstance(outcome, SearchResult):
        return outcome.failure
    return str(outcome) if isinstance(outcome, EngineError) else None


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
