"""A token bucket: how many requests a second may leave, and what they cost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from ...errors import ConfigError, QuotaError

_ENOUGH = 1 - 1e-9
"""A level that counts as a whole token: after the exact wait rounding may leave it a little below."""


class TokenBucket:
    """Lets `burst` requests through at once, and `rate` a second in the long run.

    In every span of t seconds at most `burst + rate * t` callers get a token. They get them in the order in which they
    came. A caller that is cancelled while it waits takes none. To be used from one event loop at a time.

    Args:
        rate: tokens a second, above 0; `math.inf` limits nothing.
        burst: tokens that may be saved up, at least 1; None: a second's worth.
        clock: seconds that never go back.
        sleep: waits for some seconds.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        rate: float,
        burst: int | None = 1,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ConfigError(f"rate must be a number of requests a second above 0, got {rate!r}")
        if burst is None:
            burst = max(1, int(min(rate, 1e6)))
        if isinstance(burst, bool) or not isinstance(burst, int) or burst < 1:
            raise ConfigError(f"burst must be an integer of at least 1, got {burst!r}")
        self._rate, self._burst = float(rate), burst
        self._clock, self._sleep = clock, sleep
        self._level, self._filled_at = float(burst), clock()
        self._queue: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def wait_s(self) -> float:
        """Seconds until a token is there; 0 when one is."""
        level = self._fill()
        return 0.0 if level >= _ENOUGH else (1 - level) / self._rate

    async def acquire(self) -> None:
        """Wait for a token and take it."""
        async with self._line():
            while (pause := self.wait_s()) > 0:
                await self._sleep(pause)
            self._level -= 1

    def _fill(self) -> float:
        now = self._clock()
        if math.isinf(self._rate):
            self._level = float(self._burst)
        else:
            self._level = min(float(self._burst), self._level + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._level

    def _line(self) -> asyncio.Lock:
        """Those who wait, in order; a process that forked has a loop, and a line, of its own."""
        loop = asyncio.get_running_loop()
        if self._queue is None or self._queue[0] is not loop:
            self._queue = loop, asyncio.Lock()
        return self._queue[1]


class Meter:
    """Counts requests against a budget and a price, and keeps them to a rate.

    Args:
        bucket: the rate.
        max_requests: the budget; None is without bound.
        price_per_1000: of a thousand requests, in any currency.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(self, bucket: TokenBucket, *, max_requests: int | None = None, price_per_1000: float = 0.0) -> None:
        whole = isinstance(max_requests, int) and not isinstance(max_requests, bool) and max_requests >= 0
        if max_requests is not None and not whole:
            raise ConfigError(f"max_requests must be an integer of at least 0, or None, got {max_requests!r}")
        number = isinstance(price_per_1000, int | float) and not isinstance(price_per_1000, bool)
        if not number or not 0 <= price_per_1000 < math.inf:
            raise ConfigError(f"price_per_1000 must be a price of at least 0, got {price_per_1000!r}")
        self._bucket, self._max, self._price = bucket, max_requests, float(price_per_1000)
        self._waiting = 0
        self.requests = 0
        """Requests that were let through."""

    @property
    def left(self) -> int | None:
        """Requests that the budget still holds for those who do not wait already; None without a budget."""
        return None if self._max is None else self._max - self.requests - self._waiting

    @property
    def cost(self) -> float:
        """The price of the requests let through."""
        return self.requests * self._price / 1000

    async def admit(self) -> None:
        """Wait until a request may leave, and count it; one that is cancelled while it waits is not counted.

        Those who wait have their place in the budget: it is never overdrawn.

        Raises:
            QuotaError: the budget is used up.
        """
        if self.left == 0:
            raise QuotaError(
                f"the budget of max_requests={self._max} is used up; raise it, or search with cache=PATH", attempts=0
            )
        self._waiting += 1
        try:
            await self._bucket.acquire()
        finally:
            self._waiting -= 1
        self.requests += 1
