"""`Deduplicator`: what several callers want at the same time is done once."""

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
    """Work under way, by key. To be used from one event loop at a time.

    A caller that is cancelled leaves the work to the others; when the last one is, the work is cancelled too.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[Value]] = {}

    async def join(self, key: bytes, start: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """The result of the work under a key, which is started where it is not under way."""
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
                flight.task.cancel()  # without effect on one that is done
