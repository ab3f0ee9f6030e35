"""The server's counters. `prometheus_client` writes them as text.

Each counter is updated from one thread at a time, so no locks are needed. Counting costs about a microsecond per
request, because the library only reads the counters, at each GET of `/metrics`; its counters would cost five times as
much.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ..types import Json

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """Counts observations in buckets with fixed bounds.

    Args:
        bounds: inclusive upper bounds of the buckets, ascending; a last bucket without a bound is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The upper bound of each bucket, and the number of observations up to it."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean of the observations; 0 if there are none."""
        return self.total / self.count if self.count else 0.0


class Metrics:
    """The server's counters."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.requests: Counter[tuple[str, int]] = Counter()
        """By (dialect, HTTP status)."""
        self.errors: Counter[str] = Counter()
        """By kind."""
        self.noisy = 0
        """Answered searches with noise in at least one document."""
        self.unguarded = 0
        """Noisy searches for which no answers are known, not even of questions near the query: they may hold one."""
        self.waiting: Callable[[], int] = lambda: 0
        """Searches waiting for an engine call."""
        self.in_flight = 0
        """Requests being answered."""
        self.batch_sizes = Histogram(_SIZES)
        self.engine_seconds = Histogram(_SECONDS)
        self.request_seconds = Histogram(_SECONDS)

    def finish(self, dialect: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests[dialect, status] += 1
        self.request_seconds.observe(seconds)

    def engine_call(self, size: int, seconds: float) -> None:
        """Count an engine call, with its number of searches and its duration."""
        self.batch_sizes.observe(size)
        self.engine_seconds.observe(seconds)

    @property
    def searches(self) -> int:
        """Searches given to the engine."""
        return int(self.batch_sizes.total)

    def summary(self) -> dict[str, Json]:
        """The figures of `/stats`."""
        return {
            "uptime_s": round(time.monotonic() - self.started, 3),
            "requests": sum(self.requests.values()),
            "errors": dict(self.errors),
            "searches": self.searches,
            "noisy_searches": self.noisy,
            "unguarded_noisy_searches": self.unguarded,
            "engine_calls": self.batch_sizes.count,
            "searches_per_engine_call": round(self.batch_sizes.mean, 3),
            "request_seconds_mean": round(self.request_seconds.mean, 6),
            "engine_seconds_mean": round(self.engine_seconds.mean, 6),
            "waiting_searches": self.waiting(),
            "requests_in_flight": self.in_flight,
        }

    def prometheus(self) -> bytes:
        """The text of `/metrics`."""
        from prometheus_client import generate_latest

        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The metrics, for `prometheus_client`, which calls this method of a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("zerosearch_requests", "Answered requests.", labels=("dialect", "status"))
        for (dialect, status), count in sorted(self.requests.items()):
            requests.add_metric((dialect, str(status)), count)
        yield requests
        errors = CounterMetricFamily("zerosearch_errors", "Failed requests.", labels=("kind",))
        for kind, count in sorted(self.errors.items()):
            errors.add_metric((kind,), count)
        yield errors
        calls = self.batch_sizes.count
        yield CounterMetricFamily("zerosearch_searches", "Searches given to the engine.", self.searches)
        yield CounterMetricFamily("zerosearch_noisy_searches", "Answered searches with noise.", self.noisy)
        text = "Noisy searches without known answers, whose documents may hold one."
        yield CounterMetricFamily("zerosearch_unguarded_noisy_searches", text, self.unguarded)
        yield CounterMetricFamily("zerosearch_engine_calls", "Calls of the engine.", calls)
        yield GaugeMetricFamily("zerosearch_waiting_searches", "Searches that wait for the engine.", self.waiting())
        yield GaugeMetricFamily("zerosearch_requests_in_flight", "Requests being answered.", self.in_flight)
        for name, text, histogram in (
            ("engine_batch_size", "Searches of one engine call.", self.batch_sizes),
            ("engine_seconds", "Duration of an engine call.", self.engine_seconds),
            ("request_seconds", "Time from a request's head to its answer.", self.request_seconds),
        ):
            yield HistogramMetricFamily(f"zerosearch_{name}", text, histogram.buckets, histogram.total)
