"""An event loop in a thread of its own, for code that must work from outside and from inside of running loops."""

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
    """A private event loop that runs in a daemon thread, started at first use.

    A process that forks gets a loop of its own at its next use. Ctrl-C in a waiting thread cancels what it waits for.

    Args:
        name: of the thread, for those who look at it with a debugger.
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
        """The coroutine's result; the calling thread waits for it.

        Raises:
            EngineError: the loop is closed, or is closed meanwhile.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError as cause:
            raise EngineError("the engine was closed during the request") from cause
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits for it any more
            raise

    async def arun(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """The coroutine's result, for a caller in another loop; cancelling the caller cancels the coroutine.

        Raises:
            EngineError: the loop is closed, or is closed meanwhile.
        """
        future = self.submit(coroutine)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError as cause:
            if self._closed:
                raise EngineError("the engine was closed during the request") from cause
            raise

    def on_close(self, cleanup: Callable[[], Awaitable[object]]) -> None:
        """Have something awaited in the loop before it ends; it must not hold the owner of this object."""
        self._cleanups.append(cleanup)

    def close(self) -> None:
        """Cancel what runs, clean up, and end the thread. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            finalizer, self._finalizer, self._loop = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def submit(self, coroutine: Coroutine[Any, Any, Value]) -> concurrent.futures.Future[Value]:
        """Have the coroutine run, and go on; cancelling the future cancels it.

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
            # The thread stayed in the parent, and so did every task of its loop.
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
