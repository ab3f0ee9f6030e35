"""95 % confidence intervals for means and paired differences: pure functions of per-question scores.

The kind of a metric chooses the interval, never its values:

- `"binary"` (EM, subEM): Wilson's interval for a mean (Wilson, 1927, "Probable inference, the law of succession, and
  statistical inference"), Tango's for a paired difference (Tango, 1998, "Equivalence test and confidence interval for
  the difference in proportions for the paired-sample design").
- `"graded"` (F1 and other figures in [0, 1]): Wilson's formula with the variance of the scores; for a paired
  difference the same formula, scaled to [-1, 1].
- `"signed"` (truthfulness and other figures in [-1, 1]): the same formula, scaled to [-1, 1] for a mean and to [-2, 2]
  for a paired difference.
- `"count"` (searches, words): a percentile bootstrap over questions (Efron, 1979), of the counts or of the differences.

All of them have a positive width at any n, even if all outcomes are equal: n equal outcomes do not exclude that a share
of about 4 / n of all questions has another one. Two agents with the same outcomes on ten questions may still differ by
28 points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_Z = NormalDist().inv_cdf(0.975)
"""z in the formulas: the two-sided normal quantile of 95 %."""

Kind = Literal["binary", "graded", "signed", "count"]
"""What the values of a metric are: 0 or 1, any figure in [0, 1] or in [-1, 1], or a count."""


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

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of 0 (used for differences)."""
        return self.low > 0 or self.high < 0


EMPTY = Interval(math.nan, math.nan, math.nan, 0)


def wilson(successes: float, n: int) -> Interval:
    """Wilson's score interval of a proportion.

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Args:
        successes: number of successes, 0 <= successes <= n.
        n: number of trials; 0 gives an interval of NaN.

    Raises:
        ValueError: `successes` lies outside [0, n].
    """
    if not 0 <= successes <= max(n, 0):
        raise ValueError(f"expected 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return EMPTY
    p = successes / n
    return Interval(p, *_wilson_bounds(p, p * (1 - p), n), n)


def _wilson_bounds(mean: float, variance: float, n: int) -> tuple[float, float]:
    """Wilson's bounds for n figures in [0, 1] with any variance."""
    scale = 1 + _Z**2 / n
    centre = (mean + _Z**2 / (2 * n)) / scale
    half = _Z / scale * math.sqrt(variance / n + _Z**2 / (4 * n * n))
    # At the ends of the range rounding can put a bound a few ulps on the wrong side of the mean.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with a percentile-bootstrap interval over resampled questions.

    If all n values are equal, resampling gives no width. The interval then extends by z^2 / (n + z^2) to both sides:
    the bound (`tango` has the same one) on the share of questions with another value, if it is one unit away.

    Args:
        values: one count, or difference of counts, per question, shape `(n,)`.
        resamples: number of bootstrap samples.
        seed: random seed of the resampling; the same seed gives the same interval.
    """
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    if n == 0:
        return EMPTY
    if np.all(array == array[0]):
        value, half = float(array[0]), _Z**2 / (n + _Z**2)
        return Interval(value, value - half, value + half, n)
    rng = np.random.default_rng(seed)
    # Drawing n of n values with replacement is a multinomial draw over the distinct values. Scores have few of them.
    distinct, counts = np.unique(array, return_counts=True)
    means = np.empty(resamples)
    step = max(1, 1_000_000 // distinct.size)  # in slices, to bound the memory
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = rng.multinomial(n, counts / n, size=rows) @ distinct / n
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high), n)


def graded_mean(values: Sequence[float] | NDArray[np.float64], *, lowest: float = 0.0) -> Interval:
    """The mean of figures between `lowest` and 1, with Wilson's formula for any variance.

    With the mean m and the variance s^2 (divisor n) of the figures scaled to [0, 1]:

        centre = (m + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(s^2 / n + z^2 / 4n^2)

    For figures that are all 0 or 1 the variance is m (1 - m), and this is Wilson's interval.

    Args:
        values: one figure per question, shape `(n,)`.
        lowest: the smallest possible figure: 0 for scores, -1 for differences of scores.

    Raises:
        ValueError: a value lies outside [`lowest`, 1].
    """
    array = np.asarray(values, dtype=np.float64)
    n, width = array.size, 1 - lowest
    if n == 0:
        return EMPTY
    if not np.all((array >= lowest) & (array <= 1)):
        raise ValueError(f"expected values in [{lowest:g}, 1], got {array.min():g} to {array.max():g}")
    mean = float(array.mean())
    bounds = _wilson_bounds((mean - lowest) / width, float(array.var()) / width**2, n)
    low, high = (lowest + width * bound for bound in bounds)
    return Interval(mean, min(mean, low), max(mean, high), n)


def tango(first_only: int, second_only: int, n: int) -> Interval:
    """Tango's score interval of the difference between two proportions that were measured on the same questions.

    With b = `first_only` and c = `second_only`, the interval holds every difference d with

        (b - c - n d)^2 <= z^2 n (2 q + d (1 - d))

    where q is the most likely share of questions that only the second got right, if the difference is d: the larger
    root of 2 n q^2 + ((2 n - b + c) d - b - c) q - c d (1 - d) = 0.

    Args:
        first_only: number of questions that only the first agent got right.
        second_only: number of questions that only the second agent got right.
        n: number of questions; 0 gives an interval of NaN.

    Raises:
        ValueError: the counts are negative or exceed `n`.
    """
    if min(first_only, second_only) < 0 or first_only + second_only > max(n, 0):
        raise ValueError(f"expected counts that add up to at most n, got {first_only}, {second_only} and n={n}")
    if n == 0:
        return EMPTY
    # Exchanging the agents turns the lower bound into the upper one with the other sign.
    high, low = _tango_high(first_only, second_only, n), -_tango_high(second_only, first_only, n)
    return Interval((first_only - second_only) / n, low, high, n)


def _tango_high(b: int, c: int, n: int) -> float:
    """The upper bound, by bisection between the observed difference and 1."""
    inside, outside = (b - c) / n, 1.0
    if inside == outside:
        return 1.0
    for _ in range(60):
        d = (inside + outside) / 2
        linear = (2 * n - b + c) * d - b - c
        q = (math.sqrt(max(0.0, linear * linear + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
        if (b - c - n * d) ** 2 <= _Z**2 * n * (2 * q + d * (1 - d)):
            inside = d
        else:
            outside = d
    return inside


def mean_interval(values: Sequence[float] | NDArray[np.float64], kind: Kind) -> Interval:
    """The mean of a metric with the interval of its kind; see the module docstring.

    Args:
        values: one figure per question, shape `(n,)`.
        kind: what the values are.

    Raises:
        ValueError: a value does not fit the kind.
    """
    array = np.asarray(values, dtype=np.float64)
    if kind == "binary":
        return wilson(float(_check_binary(array).sum()), array.size)
    if kind in ("graded", "signed"):
        return graded_mean(array, lowest=-1.0 if kind == "signed" else 0.0)
    interval = bootstrap_mean(array)
    return replace(interval, low=max(0.0, interval.low)) if array.size else interval


def paired_difference(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    kind: Kind,
) -> Interval:
    """The mean of `first - second` on the same questions, with the interval of the metric's kind.

    Args:
        first: one figure per question, shape `(n,)`.
        second: the other agent's figures on the same questions in the same order, shape `(n,)`.
        kind: what the values are.

    Raises:
        ValueError: the shapes differ, or a value does not fit the kind.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired scores need the same questions: got shapes {a.shape} and {b.shape}")
    if kind == "binary":
        _check_binary(a)
        _check_binary(b)
        return tango(int((a > b).sum()), int((a < b).sum()), a.size)
    if kind == "graded":
        return graded_mean(a - b, lowest=-1.0)
    if kind == "signed":
        half = graded_mean((a - b) / 2, lowest=-1.0)
        return Interval(2 * half.mean, 2 * half.low, 2 * half.high, half.n)
    return bootstrap_mean(a - b)


def _check_binary(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.all((values == 0) | (values == 1)):
        raise ValueError(f"expected values that are 0 or 1, got {values.min():g} to {values.max():g}")
    return values
