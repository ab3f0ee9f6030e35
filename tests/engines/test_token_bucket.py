from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from zerosearch_env.engines.remote.token_bucket import Meter, TokenBucket
from zerosearch_env.errors import ConfigError, QuotaError


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def bucket(clock: Clock, rate: float, burst: int | None = 1) -> TokenBucket:
    return TokenBucket(rate, burst, clock=clock, sleep=clock.sleep)


def leave(tokens: TokenBucket, clock: Clock, count: int) -> list[float]:
    """When each of `count` callers got its token, in seconds from now."""
    began, times = clock.now, []

    async def caller() -> None:
        await tokens.acquire()
        times.append(clock.now - began)

    async def main() -> None:
        await asyncio.gather(*(caller() for _ in range(count)))

    asyncio.run(main())
    return times


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    times = leave(bucket(clock, 4.0, 3), clock, 9)
    assert times == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5])


@pytest.mark.parametrize(("rate", "burst"), [(1.0, 1), (3.0, 2), (0.1, 5), (7.3, 4), (1000.0, 10)])
def test_no_span_has_more_than_burst_plus_rate(rate: float, burst: int) -> None:
    clock = Clock()
    tokens = bucket(clock, rate, burst)
    times: list[float] = []
    began = clock.now
    for pause in (0.0, 0.3 / rate, 100.0 / rate, 0.0, 1.7 / rate):
        clock.now += pause
        offset = clock.now - began
        times += [offset + time for time in leave(tokens, clock, 12)]
    for i, first in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= burst + rate * (times[j] - first) + 1e-6
    assert times[-1] - times[-12 + burst] == pytest.approx((11 - burst) / rate, rel=0.01)


def test_saved_tokens_are_bounded() -> None:
    clock = Clock()
    tokens = bucket(clock, 10.0, 2)
    clock.now += 3600
    assert leave(tokens, clock, 4) == pytest.approx([0, 0, 0.1, 0.2])


@pytest.mark.parametrize(("rate", "at_once"), [(0.5, 1), (1.0, 1), (5.5, 5), (1e12, 1000)])
def test_without_a_burst_it_is_a_seconds_worth(rate: float, at_once: int) -> None:
    clock = Clock()
    times = leave(bucket(clock, rate, None), clock, at_once + 1)
    assert times[at_once - 1] == 0
    assert times[at_once] == pytest.approx(1 / rate)


def test_an_infinite_rate_never_waits() -> None:
    clock = Clock()
    assert leave(bucket(clock, math.inf), clock, 1000) == [0.0] * 1000
    assert clock.slept == []


def test_callers_get_their_tokens_in_order_and_a_cancelled_one_takes_none() -> None:
    gates: list[asyncio.Future[None]] = []
    clock = Clock()

    async def sleep(seconds: float) -> None:
        gates.append(asyncio.get_running_loop().create_future())
        await gates[-1]
        clock.now += seconds

    async def main() -> list[str]:
        tokens = TokenBucket(1.0, 1, clock=clock, sleep=sleep)
        order: list[str] = []

        async def caller(name: str) -> None:
            await tokens.acquire()
            order.append(name)

        tasks = {name: asyncio.create_task(caller(name)) for name in "abcd"}
        await turns()
        assert order == ["a"]
        tasks["b"].cancel()  # the one that sleeps
        await turns()
        tasks["c"].cancel()  # and the next in line
        await turns()
        gates[-1].set_result(None)
        await tasks["d"]
        assert clock.now == 101.0, "only one second has passed for the only token that was taken"
        return order

    assert asyncio.run(main()) == ["a", "d"]


def test_every_loop_has_a_line_of_its_own() -> None:
    clock = Clock()
    tokens = bucket(clock, 1.0)
    for _ in range(3):
        assert len(leave(tokens, clock, 2)) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenBucket(0), "rate"),
        (lambda: TokenBucket(-1.0), "rate"),
        (lambda: TokenBucket(math.nan), "rate"),
        (lambda: TokenBucket(math.nan, None), "rate"),
        (lambda: TokenBucket(True), "rate"),
        (lambda: TokenBucket("5", None), "rate"),  # type: ignore[arg-type]
        (lambda: TokenBucket(1.0, 0), "burst"),
        (lambda: TokenBucket(1.0, 1.5), "burst"),  # type: ignore[arg-type]
        (lambda: TokenBucket(1.0, True), "burst"),
        (lambda: meter(max_requests=-1), "max_requests"),
        (lambda: meter(max_requests=1.5), "max_requests"),
        (lambda: meter(max_requests=True), "max_requests"),
        (lambda: meter(price_per_1000=-0.1), "price_per_1000"),
        (lambda: meter(price_per_1000=math.inf), "price_per_1000"),
        (lambda: meter(price_per_1000="1"), "price_per_1000"),
    ],
)
def test_arguments_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def meter(**options: Any) -> Meter:
    return Meter(bucket(Clock(), math.inf), **options)


def test_a_meter_counts_requests_and_their_price() -> None:
    counter = meter(price_per_1000=2.5)
    assert (counter.left, counter.cost) == (None, 0.0)

    async def main() -> None:
        for _ in range(4):
            await counter.admit()

    asyncio.run(main())
    assert counter.requests == 4
    assert counter.cost == pytest.approx(0.01)


def test_a_budget_is_never_overdrawn_by_those_who_wait() -> None:
    async def main() -> list[object]:
        results = await asyncio.gather(*(counter.admit() for _ in range(7)), return_exceptions=True)
        return list(results)

    clock = Clock()
    counter = Meter(bucket(clock, 10.0, 2), max_requests=4)
    results = asyncio.run(main())
    assert results[:4] == [None] * 4
    assert all(isinstance(result, QuotaError) and result.attempts == 0 for result in results[4:])
    assert (counter.requests, counter.left) == (4, 0)
    with pytest.raises(QuotaError, match="max_requests=0"):
        asyncio.run(meter(max_requests=0).admit())


def test_a_cancelled_request_gives_its_place_in_the_budget_back() -> None:
    async def never(_: float) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        counter = Meter(TokenBucket(1.0, 1, clock=Clock(), sleep=never), max_requests=2)
        await counter.admit()
        waiting = asyncio.create_task(counter.admit())
        await turns()
        assert (counter.requests, counter.left) == (1, 0)
        waiting.cancel()
        await turns()
        assert (counter.requests, counter.left) == (1, 1)

    asyncio.run(main())


async def turns() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)
