"""Several servers with the same service: round robin over those that work, and one circuit breaker per server.

A breaker is closed while its server works. After `failures` consecutive failures it opens, and the server is not called
for `cooldown_s` seconds. Then one request may try (half-open): success closes the breaker, failure opens it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class Breaker:
    """Circuit breaker of one server. Used from one event loop only."""

    failures: int
    """Consecutive failures after which it opens, at least 1."""
    cooldown_s: float
    """Seconds it stays open."""
    clock: Callable[[], float] = time.monotonic
    _failed: int = 0
    _opened_at: float | None = None
    _probing: bool = False

    @property
    def state(self) -> str:
        """`"closed"`, `"open"`, or `"half-open"` if a probe is due or in progress."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self.wait_s() <= 0 else "open"

    def wait_s(self) -> float:
        """Seconds until the cool-down ends; 0 or less if it is over or the breaker is closed."""
        return 0.0 if self._opened_at is None else self._opened_at + self.cooldown_s - self.clock()

    def admits(self) -> bool:
        """Whether a request may be sent to the server now."""
        return self._opened_at is None or (not self._probing and self.wait_s() <= 0)

    def begin(self) -> bool:
        """Record that a request is sent; return whether it is the probe of a half-open breaker."""
        probe = self._opened_at is not None
        self._probing = self._probing or probe
        return probe

    def succeed(self) -> None:
        """Record that the server answered."""
        self._failed, self._opened_at, self._probing = 0, None, False

    def fail(self, *, probe: bool = False) -> None:
        """Record that the server did not answer, or answered with a server error.

        A request that was sent before the breaker opened and fails afterwards neither ends a probe nor restarts the
        cool-down.
        """
        self._failed += 1
        if probe or (self._opened_at is None and self._failed >= self.failures):
            self._opened_at = self.clock()
        self._probing = self._probing and not probe

    def abandon(self, *, probe: bool = False) -> None:
        """Record that the request was cancelled: this says nothing about the server, and a new probe may be sent."""
        self._probing = self._probing and not probe


@dataclass
class Replica:
    """One server."""

    url: str
    breaker: Breaker
    sent: int = 0
    """Number of requests sent to it."""


@dataclass
class ReplicaSet:
    """All servers of a client. Used from one event loop only."""

    replicas: Sequence[Replica]
    _next: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def pick(self, avoid: Collection[str] = (), prefer: str = "") -> tuple[Replica, bool] | None:
        """Return the next available server in turn, preferably one not in `avoid`; None if no server is available.

        The server with the address `prefer` comes first, unless it is in `avoid`.

        Returns:
            The server, and whether this request is the probe of its breaker.
        """
        count = len(self.replicas)
        turn = [self.replicas[(self._next + offset) % count] for offset in range(count)]
        ready = [replica for replica in turn if replica.breaker.admits()]
        if not ready:
            return None
        chosen = min(ready, key=lambda one: (one.url in avoid, one.url != prefer))  # the first in turn among equals
        self._next = (self._next + turn.index(chosen) + 1) % count
        chosen.sent += 1
        return chosen, chosen.breaker.begin()

    async def wait(self, longest_s: float) -> None:
        """Wait until a server may be available again: a cool-down has ended, or a probe has finished."""
        cooldowns = [replica.breaker.wait_s() for replica in self.replicas]
        pause = min([longest_s, *(seconds for seconds in cooldowns if seconds > 0)])
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), max(pause, 0.001))
        except TimeoutError:
            return

    def notify(self) -> None:
        """Wake everyone who waits for a server, because a request has finished."""
        self._changed.set()
        self._changed = asyncio.Event()
