"""Tests of paired differences, and the correction for several of them: pure functions.

- `mcnemar`: the exact test for outcomes that are right or wrong (McNemar, 1947, "Note on the sampling error of the
  difference between correlated proportions or percentages").
- `sign_flip`: the permutation test of paired differences of any size (Fisher, 1935, "The design of experiments").
- `holm`: adjusted p-values of a family (Holm, 1979, "A simple sequentially rejective multiple test procedure").

All tests are two-sided, and none of their p-values is 0.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SMALLEST = sys.float_info.min
"""What a p-value is at least: beyond a thousand questions it may be less than a number can say."""
_DENOMINATORS = 64
_ROUNDED = 256
_LARGEST_TABLE = 40_000_000
"""Entries that counting the choices may touch, which takes a twentieth of a second."""


def mcnemar(first_only: int, second_only: int) -> float:
    """The exact p-value of McNemar's test that two agents are right equally often.

    If they are, each of the n = b + c questions that only one of them got right is either's with probability 1/2:

        p = min(1, 2 P(X <= min(b, c))),  X ~ Binomial(n, 1/2)

    Args:
        first_only: b, the number of questions that only the first agent got right.
        second_only: c, the number of questions that only the second agent got right.

    Returns:
        The p-value; 1 if both counts are 0.

    Raises:
        ValueError: a count is negative.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"expected counts of at least 0, got {first_only} and {second_only}")
    n = first_only + second_only
    tail = sum(math.comb(n, k) for k in range(min(first_only, second_only) + 1))
    return max(_SMALLEST, min(1.0, 2 * tail / 2**n))


def sign_flip(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """The p-value of the test that paired differences are symmetric about 0.

    Then each difference could as well have the other sign, and p is the share of the 2^n choices of signs whose sum is
    at least as far from 0 as the observed one. All choices are counted, not a random sample of them:

    - exactly, if the differences are multiples of 1/k with k <= 64, as means over a few samples or noise levels are;
    - else of the differences rounded to 1/256 of the largest one, which changes p by a few hundredths of it at most;
    - for more questions than can be counted so (about 400 to 700), by the normal distribution with the same variance:
      p = erfc(|sum d| / sqrt(2 sum d^2)). The sum of n symmetric differences differs from it by a share of order 1/n.

    For differences of -1, 0 and 1 this is McNemar's exact test.

    Args:
        differences: one per question, shape `(n,)`.

    Returns:
        The p-value; 1 if there is no difference.

    Raises:
        ValueError: a difference is not a finite number.
    """
    array = np.asarray(differences, dtype=np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError("expected differences that are finite numbers")
    array = array[array != 0]
    if array.size == 0:
        return 1.0
    for steps in (_multiples(array), np.rint(array / np.abs(array).max() * _ROUNDED).astype(np.int64)):
        if steps is not None and array.size * int(np.abs(steps).sum()) <= _LARGEST_TABLE:
            return _counted(steps)
    p = math.erfc(abs(float(array.sum())) / math.sqrt(2 * float((array**2).sum())))
    return max(_SMALLEST, p)


def _multiples(array: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """The differences as whole numbers of a common step 1/k, for the smallest k that fits; None if none does."""
    for k in range(1, _DENOMINATORS + 1):
        steps = np.rint(array * k)
        if np.allclose(array * k, steps, rtol=0.0, atol=1e-9):
            whole = steps.astype(np.int64)
            return whole // np.gcd.reduce(np.abs(whole))
    return None


def _counted(steps: NDArray[np.int64]) -> float:
    """The share of choices of signs whose sum is at least as far from 0 as that of `steps`."""
    # A choice of signs has the sum 2 T - total, where T is the sum of the positive terms: a random subset of |steps|.
    sizes = np.abs(steps)
    total = int(sizes.sum())
    share = np.zeros(total + 1)  # P(T = t)
    share[0] = 1.0
    reached = 0
    for size in map(int, sizes):
        reached += size
        share[size : reached + 1] += share[: reached + 1 - size].copy()
        share[: reached + 1] /= 2
    observed = abs(int(steps.sum()))
    if not observed:
        return 1.0
    low, high = (total - observed) // 2, (total + observed) // 2  # both numbers are even, or both are odd
    return max(_SMALLEST, min(1.0, float(share[: low + 1].sum() + share[high:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those of at most alpha keeps the error rate of the whole family at alpha.

    With the m p-values in ascending order, p(1) <= ... <= p(m):

        adjusted(i) = max over j <= i of min(1, (m - j + 1) p(j))

    It needs no assumption on how the tests depend on each other.

    Args:
        p_values: the p-values of a family, in any order.

    Returns:
        The adjusted p-values, in the order given.

    Raises:
        ValueError: a value lies outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"expected p-values in [0, 1], got {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted
