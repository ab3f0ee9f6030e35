"""`Deduplicator`: work that several callers request at the same time is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class Deduplicator(Generic[Value]):
    """Running tasks by key. Use it from one event loop at a time.

    It forgets a result when the work is done. Results that are kept must be stored by the work itself, which must also
    look for them first: another caller's may have been stored since this caller looked.

    If a caller is cancelled, the work continues for the others; when the last caller is cancelled, so is the work.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[Value]] = {}

    def __reduce__(self) -> tuple[type[Deduplicator[Value]], tuple[()]]:
        """A copy has no running tasks."""
        return type(self), ()

    async def join(self, key: bytes, start: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Wait for the work with this key, and start it if it is not running. Returns its result."""
        flight = self._flights.get(key)
        if flight is None or flight.task.done() or flight.task.get_loop() is not asyncio.get_running_loop():
            flight = self._flights[key] = _Flight(asyncio.ensure_future(start()))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()  # No effect if the task is done.
