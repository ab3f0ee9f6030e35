"""An event loop in its own thread, for code that must work both outside and inside running event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from ...errors import EngineError

Cleanup = Callable[[], Awaitable[object]]
Value = TypeVar("Value")
_JOIN_S = 5.0


class LoopThread:
    """A private event loop in a daemon thread, started at first use.

    A forked process gets its own loop at the next use. Ctrl-C in a waiting thread cancels the coroutine it waits for.

    Args:
        name: the thread's name, as shown by debuggers.
    """

    _lock: threading.Lock
    _loop: asyncio.AbstractEventLoop | None
    _cleanups: list[Cleanup]
    _finalizer: weakref.finalize[Any, Any] | None

    def __init__(self, name: str) -> None:
        self._name = name
        self._closed = False
        self._reset()
        _loop_threads.add(self)

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Run the coroutine and return its result; blocks the calling thread.

        Raises:
            EngineError: the loop is closed, or was closed during the call.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError as cause:
            raise EngineError("the engine was closed during the request") from cause
        except BaseException:
            future.cancel()  # Ctrl-C: no one waits for it any more
            raise

    async def arun(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Run the coroutine for a caller in another loop; cancelling the caller cancels the coroutine.

        Raises:
            EngineError: the loop is closed, or was closed during the call.
        """
        future = self.submit(coroutine)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError as cause:
            if self._closed:
                raise EngineError("the engine was closed during the request") from cause
            raise

    def on_close(self, cleanup: Cleanup) -> None:
        """Register a cleanup to await in the loop before it ends. It must not reference the owner of this object."""
        self._cleanups.append(cleanup)

    def close(self) -> None:
        """Cancel running coroutines, clean up, and end the thread. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            finalizer, self._finalizer, self._loop = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def submit(self, coroutine: Coroutine[Any, Any, Value]) -> concurrent.futures.Future[Value]:
        """Start the coroutine without waiting for it; cancelling the future cancels it.

        Raises:
            EngineError: the loop is closed.
        """
        try:
            with self._lock:
                return asyncio.run_coroutine_threadsafe(coroutine, self._started())
        except BaseException:
            coroutine.close()
            raise

    def __reduce__(self) -> tuple[type[LoopThread], tuple[str]]:
        """A copy starts its own loop."""
        return type(self), (self._name,)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise EngineError("the engine is closed; build a new one to search again", attempts=0)
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            stop = asyncio.Event()
            work = partial(_run_loop, loop, stop, self._cleanups)
            thread = threading.Thread(target=work, name=self._name, daemon=True)
            thread.start()
            self._finalizer = weakref.finalize(self, _shut_down, loop, stop, thread)
        return self._loop

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._cleanups = []
        self._loop = self._finalizer = None

    def _leave_to_the_parent(self) -> None:
        """Start again in a forked process, where the loop's thread does not exist.

        The loop's list of sockets (epoll) is shared with the parent. A loop or client that is garbage-collected here
        would remove its sockets from that list, and the parent would wait for responses forever. An object with one
        extra reference is never finalized.
        """
        if self._finalizer is not None:
            self._finalizer.detach()
        for inherited in (self._loop, self._cleanups):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
        self._reset()


_loop_threads: weakref.WeakSet[LoopThread] = weakref.WeakSet()


def _after_fork() -> None:
    for loop_thread in _loop_threads:
        loop_thread._leave_to_the_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _run_loop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, cleanups: list[Cleanup]) -> None:
    async def main() -> None:
        await stop.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(cleanup() for cleanup in cleanups), return_exceptions=True)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def _shut_down(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(stop.set)
    if threading.current_thread() is not thread:  # it is if the last reference was dropped inside the loop itself
        thread.join(_JOIN_S)
