"""Confidence intervals for means and paired differences: pure functions of per-question scores.

A score that is 0 or 1 (EM, subEM) gets Wilson's interval (Wilson 1927, "Probable inference, the law of succession,
and statistical inference"), which stays inside [0, 1] and has a positive width even when all scores are 0 or all are
1, where the textbook interval has width zero. Any other score (F1, searches per episode) gets a percentile bootstrap
over questions (Efron 1979). Two agents that answered the same questions are compared by a paired bootstrap of the
per-question differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DEFAULT_CONFIDENCE = 0.95
DEFAULT_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval. If `n == 0`, all three figures are NaN."""

    mean: float
    low: float
    high: float
    n: int
    """Number of questions that the mean is taken over."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values; NaN becomes None."""
        figures = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: None if math.isnan(value) else value for name, value in figures.items()} | {"n": self.n}

    @classmethod
    def from_dict(cls, values: dict[str, float | int | None]) -> Interval:
        """The inverse of `as_dict`."""

        def number(name: str) -> float:
            value = values[name]
            return math.nan if value is None else float(value)

        return cls(number("mean"), number("low"), number("high"), int(values["n"] or 0))

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of 0 (used for differences)."""
        return self.low > 0 or self.high < 0


EMPTY = Interval(math.nan, math.nan, math.nan, 0)


def wilson(successes: float, n: int, confidence: float = DEFAULT_CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion.

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Args:
        successes: number of successes, 0 <= successes <= n.
        n: number of trials; 0 gives an interval of NaN.
        confidence: probability mass of the interval, in (0, 1).

    Raises:
        ValueError: `successes` lies outside [0, n], or `confidence` outside (0, 1).
    """
    z = _z(confidence)
    if not 0 <= successes <= max(n, 0):
        raise ValueError(f"expected 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return EMPTY
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At p = 0 and p = 1 rounding can put the bound a few ulps on the wrong side of the mean.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with a percentile-bootstrap interval over resampled questions.

    Args:
        values: one figure per question, shape `(n,)`.
        confidence: probability mass of the interval, in (0, 1).
        resamples: number of bootstrap samples.
        seed: random seed of the resampling; the same seed gives the same interval.
    """
    _z(confidence)
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    if n == 0:
        return EMPTY
    if np.all(array == array[0]):
        return Interval(float(array[0]), float(array[0]), float(array[0]), n)
    rng = np.random.default_rng(seed)
    # Drawing n of n values with replacement is a multinomial draw over the distinct values. Scores have few of them.
    distinct, counts = np.unique(array, return_counts=True)
    means = np.empty(resamples)
    step = max(1, 1_000_000 // distinct.size)  # in slices, to bound the memory
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = rng.multinomial(n, counts / n, size=rows) @ distinct / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(array.mean()), float(low), float(high), n)


def mean_interval(values: Sequence[float] | NDArray[np.float64], **options: float | int) -> Interval:
    """Wilson's interval if every value is 0 or 1, the bootstrap interval otherwise.

    Args:
        values: one figure a question, shape `(n,)`.
        **options: `confidence`, and for the bootstrap `resamples` and `seed`.
    """
    array = np.asarray(values, dtype=np.float64)
    if np.all((array == 0) | (array == 1)):
        return wilson(float(array.sum()), array.size, float(options.get("confidence", DEFAULT_CONFIDENCE)))
    return bootstrap_mean(array, **options)  # type: ignore[arg-type]  # the three options are named as there


def paired_difference(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `first - second` on the same questions, with a paired-bootstrap interval.

    Args:
        first: one score a question, shape `(n,)`.
        second: the other agent's scores on the same questions in the same order, shape `(n,)`.
        confidence: probability mass inside, in (0, 1).
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Raises:
        ValueError: when the shapes differ.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired scores need the same questions: got shapes {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, confidence=confidence, resamples=resamples, seed=seed)


def _z(confidence: float) -> float:
    """The two-sided normal quantile of `confidence`."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
