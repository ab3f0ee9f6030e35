"""An event loop in its own thread, for code that must work both outside and inside running event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ...errors import EngineError

Value = TypeVar("Value")
_JOIN_S = 5.0


class LoopThread:
    """A private event loop in a daemon thread, started at first use.

    A forked process gets its own loop at the next use. Ctrl-C in a waiting thread cancels the coroutine it waits for.

    Args:
        name: the thread's name, as shown by debuggers.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cleanups: list[Callable[[], Awaitable[object]]] = []
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._pid = os.getpid()
        self._closed = False

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

    def on_close(self, cleanup: Callable[[], Awaitable[object]]) -> None:
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

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise EngineError("the engine is closed; build a new one to search again", attempts=0)
        if self._pid != os.getpid():
            # After a fork the thread and all tasks of its loop exist only in the parent.
            self._pid, self._loop, self._cleanups = os.getpid(), None, []
            if self._finalizer is not None:
                self._finalizer.detach()
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
            thread.start()
            self._finalizer = weakref.finalize(self, _shut_down, loop, thread, self._cleanups, self._pid)
        return self._loop


def _shut_down(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    cleanups: list[Callable[[], Awaitable[object]]],
    pid: int,
) -> None:
    if os.getpid() != pid or not thread.is_alive():
        return

    async def wind_up() -> None:
        tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(cleanup() for cleanup in cleanups), return_exceptions=True)
        await loop.shutdown_default_executor()

    ending = asyncio.run_coroutine_threadsafe(wind_up(), loop)
    if threading.current_thread() is thread:  # the last reference was dropped inside the loop itself
        ending.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        return
    try:
        ending.result(_JOIN_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_JOIN_S)
        if not thread.is_alive():
            loop.close()
