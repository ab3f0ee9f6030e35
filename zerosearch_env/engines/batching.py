"""Dynamic batching: searches of many callers share engine calls, whatever threads and event loops they come from.

An engine that is free starts at once. While it is busy, arriving searches queue up, and go out as one batch when the
call ends. If nothing has queued up although the last batch held several callers, they are probably preparing their
next searches: the first one then waits for the others, at most `max_wait_s`. A caller that is alone never waits.

    searches   a   b c      d e f g           b    c    d
    engine     [ a ][ b c        ][ d e f g ]            [ b c d ...
                                            |--- at most max_wait_s

An engine that computes in this process gets one call at a time. One that waits for another machine (`waits`) gets
several.

Searches that are quick (`is_quick`) need no thread: those that arrive in one iteration of an event loop are answered on
it, in calls of a few milliseconds, between which the loop does its other work. Handing a search to a thread costs about
as much as the search itself, and many searches in a thread would keep the loop waiting for its turn with the
interpreter after every system call.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from ..checks import check_number, check_whole_number
from ..errors import ZeroSearchError
from ..types import SearchRequest, SearchResult
from .run import Engine, Outcome, is_quick, search_each

OnCall = Callable[[int, float, Sequence[Outcome]], object]
"""Called after each engine call with the number of searches, the seconds that it took, and its outcomes."""

if TYPE_CHECKING:
    import asyncio

_Caller: TypeAlias = "Future[SearchResult] | asyncio.Future[SearchResult]"
_Entry: TypeAlias = tuple[SearchRequest, _Caller, bool]
"""A request, the future of its result, and whether it is the first one of its caller."""

_CALLS_THAT_WAIT = 16
"""Default number of concurrent calls of an engine that waits for another machine."""
_QUICK_BATCH = 16
"""Maximum number of searches in a call on an event loop."""
_IDLE_S = 2.0
"""A thread without work ends after this time, in seconds."""


class Batcher:
    """Batches the searches of many callers; see the module docstring.

    The engine runs in daemon threads, which start at the first search and end when there is no work. So event loops
    stay free, and an engine that hangs does not keep the process alive. Only quick searches run on the event loop of
    their callers. A forked process starts without callers.

    Args:
        engine: the search engine.
        max_batch: maximum number of searches per call.
        max_wait_s: how long the first search waits for the others of the last batch, in seconds; 0: never.
        max_calls: maximum number of concurrent calls. More than 1 needs a thread-safe engine. None: 16 if the engine
            waits for another machine, else 1.
        on_call: called after each engine call, never twice at the same time.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 1024,
        max_wait_s: float = 0.002,
        max_calls: int | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        self._engine = engine
        self._max_batch = check_whole_number("max_batch", max_batch)
        self._max_wait_s = check_number("max_wait_s", max_wait_s, least=0)
        self._max_calls = None if max_calls is None else check_whole_number("max_calls", max_calls)
        self._on_call = on_call
        self._closed = False
        self._reset()

    def submit(self, request: SearchRequest) -> Future[SearchResult]:
        """Submit a search from any thread. The future's result, or its error, is that of `asearch`."""
        future: Future[SearchResult] = Future()
        self._add([(request, future, True)])
        self._start()
        return future

    async def asearch(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer the searches of one caller.

        Raises:
            EngineError: the engine failed.
            ZeroSearchError: the engine rejected one of the requests.
        """
        import asyncio  # when it is used: it takes a tenth of the time of a command's help

        if not requests:
            return []
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[SearchResult]] = [loop.create_future() for _ in requests]
        firsts = (True, *[False] * (len(requests) - 1))
        self._add(list(zip(requests, futures, firsts, strict=True)))
        self._start_soon(loop)  # callers in the same iteration of the event loop share a call
        if len(futures) == 1:
            return [await futures[0]]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes  # type: ignore[return-value]

    @property
    def waiting(self) -> int:
        """Number of searches that wait for a call."""
        return len(self._waiting)

    @property
    def busy_since(self) -> float | None:
        """When the latest of the running calls began (`time.monotonic`); None if another call could start."""
        running = list(self._running)
        return max(running) if len(running) >= self._limit else None

    def close(self) -> None:
        """End the threads as soon as no search waits. The engine is not closed."""
        with self._lock:
            self._closed = True
            self._arrived.notify_all()

    @property
    def _limit(self) -> int:
        if self._max_calls is not None:
            return self._max_calls
        return _CALLS_THAT_WAIT if getattr(self._engine, "waits", False) else 1

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)  # an idle thread is needed
        self._joined = threading.Condition(self._lock)  # another caller for the batch that is gathered
        self._waiting: deque[_Entry] = deque()
        self._callers = 0  # of the searches that wait
        self._last_callers = 0  # of the last batch
        self._gathering = False
        self._threads = self._idle = 0
        self._running: list[float] = []  # when each running call began
        self._counting = threading.Lock()  # for `on_call`
        self._starting: asyncio.AbstractEventLoop | None = None  # the latest on which `_start_on` will run

    def _add(self, entries: Sequence[_Entry]) -> None:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            self._waiting.extend(entries)
            self._callers += 1

    def _start(self) -> None:
        """Make sure that a thread takes the searches that wait, unless all are busy."""
        with self._lock:
            self._start_locked()

    def _start_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._starting is not loop:
            self._starting = loop
            loop.call_soon(self._start_on, loop)

    def _start_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the first of the searches that wait on this event loop if they are quick, else in a thread."""
        if self._starting is loop:
            self._starting = None
        with self._lock:
            quick = self._quick()
            if not quick:
                self._start_locked()
                return
            batch = self._take(quick)
            began = self._begin()
        self._call(batch, began, loop)
        if self._waiting:
            self._start_soon(loop)  # after the callers that have their results now

    def _quick(self) -> int:
        """How many of the first searches that wait are quick together; 0 if even the first is not."""
        count = min(_QUICK_BATCH, self._max_batch, len(self._waiting))
        requests = [request for request, _, _ in islice(self._waiting, count)]
        while requests and not is_quick(self._engine, requests):
            del requests[len(requests) // 2 :]
        return len(requests)

    def _start_locked(self) -> None:
        if not self._waiting:
            return
        if self._gathering:
            self._joined.notify()
        elif self._idle:
            self._arrived.notify()
        elif self._threads < self._limit:
            self._threads += 1
            threading.Thread(target=self._work, name="zerosearch-engine", daemon=True).start()

    def _work(self) -> None:
        """Make calls until there is no work for a while."""
        while True:
            with self._lock:
                while not self._waiting:
                    if not self._wait_for_work():
                        self._threads -= 1
                        return
                batch = self._take(self._max_batch)
                began = self._begin()
                self._start_locked()  # for the rest, if the batch is full
            self._call(batch, began)
            del batch  # an idle thread keeps no documents

    def _begin(self) -> float:
        began = time.monotonic()
        self._running.append(began)
        return began

    def _call(self, batch: Sequence[_Entry], began: float, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Call the engine in this thread, which runs `loop`, if given, and deliver the outcomes."""
        try:
            outcomes = search_each(self._engine, [request for request, _, _ in batch])
        finally:
            with self._lock:
                self._running.remove(began)
        if self._on_call is not None and batch:
            with self._counting:
                self._on_call(len(batch), time.monotonic() - began, outcomes)
        _deliver(batch, outcomes, loop)

    def _wait_for_work(self) -> bool:
        """Wait for a search and, if there may be more, for company; False if none came."""
        self._idle += 1
        self._arrived.wait_for(lambda: self._waiting or self._closed, _IDLE_S)
        self._idle -= 1
        if not self._waiting:
            return False
        if self._last_callers > 1 and not self._gathering:
            self._gathering = True
            self._joined.wait_for(
                lambda: self._callers >= self._last_callers or len(self._waiting) >= self._max_batch, self._max_wait_s
            )
            self._gathering = False
        return True

    def _take(self, most: int) -> list[_Entry]:
        """The next batch, without the searches that no one waits for any more."""
        batch = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._last_callers = sum(first for _, _, first in batch)
        self._callers -= self._last_callers
        return [entry for entry in batch if not entry[1].done()]


def _deliver(
    batch: Sequence[_Entry], outcomes: Sequence[Outcome], running: asyncio.AbstractEventLoop | None = None
) -> None:
    """Give each caller its result or its error, with one call into each event loop that this thread does not run."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[_Caller, Outcome]]] = {}
    for (_, future, _), outcome in zip(batch, outcomes, strict=True):
        loop = None if isinstance(future, Future) else future.get_loop()
        by_loop.setdefault(loop, []).append((future, outcome))
    for loop, pairs in by_loop.items():
        if loop is None or loop is running:
            _settle(pairs)
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed: no one is left to notify
                loop.call_soon_threadsafe(functools.partial(_settle, pairs))


def _settle(pairs: Sequence[tuple[_Caller, Outcome]]) -> None:
    for future, outcome in pairs:
        if future.done():
            continue
        if isinstance(outcome, ZeroSearchError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
