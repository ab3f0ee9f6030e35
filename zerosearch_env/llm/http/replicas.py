"""Several servers with the same service: round robin over those that work, with a circuit breaker each.

A server that has failed several times in a row is not called for a cool-down. Then one request may try it per
cool-down, until it answers again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class Replica:
    """One server and its circuit breaker. Used from one event loop only."""

    url: str
    failures: int
    """Consecutive failures after which the breaker opens, at least 1."""
    cooldown_s: float
    """Seconds that it stays open."""
    clock: Callable[[], float] = time.monotonic
    _failed: int = 0
    _closed_to: float = float("-inf")
    """No request is sent before this time."""

    @property
    def state(self) -> str:
        """`"closed"` while the server works, `"open"`, or `"half-open"` if the next request may try it."""
        if self._failed < self.failures:
            return "closed"
        return "half-open" if self.admits() else "open"

    def wait_s(self) -> float:
        """Seconds until a request may be sent; 0 or less if it may be sent now."""
        return self._closed_to - self.clock()

    def admits(self) -> bool:
        """Whether a request may be sent to the server now."""
        return self.wait_s() <= 0

    def begin(self) -> None:
        """Record that a request is sent. A probe keeps others away for a cool-down, or until the server answers."""
        if self._failed >= self.failures:
            self._closed_to = self.clock() + self.cooldown_s

    def succeed(self) -> None:
        """Record that the server answered."""
        self._failed, self._closed_to = 0, float("-inf")

    def fail(self) -> None:
        """Record that the server did not answer, or answered with a server error.

        A request that was sent before the breaker opened and fails afterwards does not prolong the cool-down.
        """
        self._failed += 1
        if self.admits():
            self.begin()


@dataclass
class ReplicaSet:
    """All servers of a client. Used from one event loop only."""

    replicas: Sequence[Replica]
    _next: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def pick(self, avoid: Collection[str] = (), prefer: str = "") -> Replica | None:
        """Return the next available server in turn, preferably one not in `avoid`; None if no server is available.

        The server with the address `prefer` comes first, unless it is in `avoid`.
        """
        count = len(self.replicas)
        turn = [self.replicas[(self._next + offset) % count] for offset in range(count)]
        ready = [replica for replica in turn if replica.admits()]
        if not ready:
            return None
        chosen = min(ready, key=lambda replica: (replica.url in avoid, replica.url != prefer))
        self._next = (self._next + turn.index(chosen) + 1) % count
        chosen.begin()
        return chosen

    async def wait(self, longest_s: float) -> None:
        """Wait until a server may be available again: a cool-down has ended, or a request has finished."""
        pause = min([longest_s, *(replica.wait_s() for replica in self.replicas)])
        try:
            await asyncio.wait_for(self._changed.wait(), max(pause, 0.001))
        except TimeoutError:
            return

    def notify(self) -> None:
        """Wake everyone who waits for a server, because a request has finished."""
        self._changed.set()
        self._changed = asyncio.Event()
