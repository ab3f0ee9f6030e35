"""A token bucket that limits the requests per second, and a meter that counts requests and their cost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from ...checks import check_number, check_whole_number
from ...errors import QuotaError

_ENOUGH = 1 - 1e-9
"""Level that counts as a full token: after waiting the exact time, rounding may leave the level slightly below 1."""


class TokenBucket:
    """Lets `burst` requests through immediately, and `rate` requests per second in the long run.

    In any interval of t seconds at most `burst + rate * t` callers get a token, in the order of their arrival. A
    caller that is cancelled while it waits takes no token. Use it from one event loop at a time.

    Args:
        rate: tokens per second, above 0; `math.inf` means no limit.
        burst: maximum number of saved tokens, at least 1; None means the tokens of one second.
        clock: a monotonic clock, in seconds.
        sleep: waits for a number of seconds.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        rate: float,
        burst: int | None = 1,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rate = check_number("rate", rate, above=0, most=math.inf, hint="It is in requests per second.")
        self._burst = max(1, int(min(rate, 1e6))) if burst is None else check_whole_number("burst", burst)
        self._clock, self._sleep = clock, sleep
        self._level, self._filled_at = float(self._burst), clock()
        self._queue: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def wait_s(self) -> float:
        """Seconds until a token is available; 0 if there is one now."""
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
        """The queue of waiting callers, in order of arrival; a forked process has its own loop and queue."""
        loop = asyncio.get_running_loop()
        if self._queue is None or self._queue[0] is not loop:
            self._queue = loop, asyncio.Lock()
        return self._queue[1]


class Meter:
    """Counts requests and their cost, and enforces a budget and a rate.

    Args:
        bucket: limits the rate.
        max_requests: the budget; None means no limit.
        price_per_1000: price of a thousand requests, in any currency.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, bucket: TokenBucket, *, max_requests: int | None = None, price_per_1000: float = 0.0) -> None:
        if max_requests is not None:
            check_whole_number("max_requests", max_requests, 0, hint="None means no limit.")
        self._bucket, self._max = bucket, max_requests
        self._price = check_number("price_per_1000", price_per_1000, least=0)
        self._waiting = 0
        self.requests = 0
        """Requests that were let through."""

    @property
    def left(self) -> int | None:
        """Number of requests left in the budget, after those that are already waiting; None without a budget."""
        return None if self._max is None else self._max - self.requests - self._waiting

    @property
    def cost(self) -> float:
        """The price of the requests let through."""
        return self.requests * self._price / 1000

    async def admit(self) -> None:
        """Wait until a request may be sent, and count it. A request cancelled while it waits is not counted.

        Waiting requests are reserved in the budget, so it is never exceeded.

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
