"""Several servers with the same service: round robin over those that work, and a circuit breaker for each.

A breaker is closed while its server works. After `failures` failures in a row it opens: nobody calls the server for
`cooldown_s` seconds. Then one request may try (half-open): its success closes the breaker, its failure opens it again.
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
    """Failures in a row after which it opens, at least 1."""
    cooldown_s: float
    """Seconds for which it stays open."""
    clock: Callable[[], float] = time.monotonic
    _failed: int = 0
    _opened_at: float | None = None
    _probing: bool = False

    @property
    def state(self) -> str:
        """`"closed"`, `"open"`, or `"half-open"` when a probe is due or on its way."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self.wait_s() <= 0 else "open"

    def wait_s(self) -> float:
        """Seconds until the cool-down ends; 0 or less when it is over, or the breaker closed."""
        return 0.0 if self._opened_at is None else self._opened_at + self.cooldown_s - self.clock()

    def admits(self) -> bool:
        """Whether a request may go to the server now."""
        return self._opened_at is None or (not self._probing and self.wait_s() <= 0)

    def begin(self) -> bool:
        """A request goes out; whether it is the probe of a half-open breaker."""
        probe = self._opened_at is not None
        self._probing = self._probing or probe
        return probe

    def succeed(self) -> None:
        """The server answered."""
        self._failed, self._opened_at, self._probing = 0, None, False

    def fail(self, *, probe: bool = False) -> None:
        """The server did not answer, or answered with an error of its own.

        A request that went out before the breaker opened, and fails after it, neither ends a probe nor starts the
        cool-down anew.
        """
        self._failed += 1
        if probe or (self._opened_at is None and self._failed >= self.failures):
            self._opened_at = self.clock()
        self._probing = self._probing and not probe

    def abandon(self, *, probe: bool = False) -> None:
        """The request was cancelled: nothing was learnt, and a probe's place is free again."""
        self._probing = self._probing and not probe


@dataclass
class Replica:
    """One server."""

    url: str
    breaker: Breaker
    sent: int = 0
    """Requests sent to it."""


@dataclass
class ReplicaSet:
    """All servers of a client. Used from one event loop only."""

    replicas: Sequence[Replica]
    _next: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def pick(self, avoid: Collection[str] = (), prefer: str = "") -> tuple[Replica, bool] | None:
        """The next server in turn that may be called, one outside `avoid` where there is one; None when all are out.

        The one at the address `prefer` comes before its turn, unless it is to be avoided.

        Returns:
            The server, and whether the request is the probe of its breaker.
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
        """Wait until a server may be callable again: a cool-down has ended, or a probe has come back."""
        cooldowns = [replica.breaker.wait_s() for replica in self.replicas]
        pause = min([longest_s, *(seconds for seconds in cooldowns if seconds > 0)])
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), max(pause, 0.001))
        except TimeoutError:
            return

    def notify(self) -> None:
        """A request has come back: wake those who wait for a server."""
        self._changed.set()
        self._changed = asyncio.Event()
