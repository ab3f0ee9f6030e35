"""The server's counters, and their text for Prometheus (exposition format 0.0.4).

All updates come from the event loop's thread, so no locks are needed.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

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

    def summary(self) -> dict[str, Any]:
        """The figures of `/stats`."""
        return {
            "uptime_s": round(time.monotonic() - self.started, 3),
            "requests": sum(self.requests.values()),
            "errors": dict(self.errors),
            "searches": self.searches,
            "noisy_searches": self.noisy,
            "engine_calls": self.batch_sizes.count,
            "searches_per_engine_call": round(self.batch_sizes.mean, 3),
            "request_seconds_mean": round(self.request_seconds.mean, 6),
            "engine_seconds_mean": round(self.engine_seconds.mean, 6),
            "waiting_searches": self.waiting(),
            "requests_in_flight": self.in_flight,
        }

    def prometheus(self) -> str:
        """The text of `/metrics`."""
        lines = [
            *_metric(
                "requests_total",
                "counter",
                "Answered requests.",
                [(f'dialect="{dialect}",status="{status}"', n) for (dialect, status), n in self.requests.items()],
            ),
            *_metric(
                "errors_total",
                "counter",
                "Failed requests.",
                [(f'kind="{kind}"', n) for kind, n in self.errors.items()],
            ),
            *_metric("searches_total", "counter", "Searches given to the engine.", [("", self.searches)]),
            *_metric("noisy_searches_total", "counter", "Answered searches with noise.", [("", self.noisy)]),
            *_metric("engine_calls_total", "counter", "Calls of the engine.", [("", self.batch_sizes.count)]),
            *_metric("waiting_searches", "gauge", "Searches that wait for the engine.", [("", self.waiting())]),
            *_metric("requests_in_flight", "gauge", "Requests being answered.", [("", self.in_flight)]),
            *_histogram("engine_batch_size", "Searches of one engine call.", self.batch_sizes),
            *_histogram("engine_seconds", "Duration of an engine call.", self.engine_seconds),
            *_histogram("request_seconds", "Time from a request's head to its answer.", self.request_seconds),
        ]
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: Iterable[tuple[str, float]]) -> list[str]:
    full = f"zerosearch_{name}"
    # Labels are our own names (dialects, error kinds), so nothing needs escaping.
    rows = [f"{full}{{{labels}}} {value}" if labels else f"{full} {value}" for labels, value in sorted(values)]
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *rows]


def _histogram(name: str, text: str, histogram: Histogram) -> list[str]:
    full, below, lines = f"zerosearch_{name}", 0, []
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        below += count
        lines.append(f'{full}_bucket{{le="{bound}"}} {below}')
    head = [f"# HELP {full} {text}", f"# TYPE {full} histogram"]
    return [*head, *lines, f"{full}_sum {histogram.total}", f"{full}_count {histogram.count}"]
