from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.evaluation.statistics import (
    EMPTY,
    Interval,
    Kind,
    bootstrap_mean,
    mean_interval,
    paired_difference,
    tango,
    wilson,
)

KINDS: tuple[Kind, ...] = ("binary", "graded", "count")


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_figures(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.mean == successes / n
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_holds_the_mean_and_stays_in_range(n: int, share: float) -> None:
    interval = wilson(round(share * n), n)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.high - interval.low > 0
    assert interval.n == n


def test_wilson_without_trials_is_empty_and_wrong_counts_are_refused() -> None:
    assert math.isnan(wilson(0, 0).mean)
    with pytest.raises(ValueError, match="successes=5, n=4"):
        wilson(5, 4)


def test_bootstrap_is_close_to_the_normal_interval_and_repeatable() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    interval = bootstrap_mean(values, seed=5)
    half = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval == bootstrap_mean(values, seed=5)
    assert interval != bootstrap_mean(values, seed=6)


def test_bootstrap_of_few_values_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.choice([0.0, 1.0, 2.0, 5.0], p=[0.4, 0.3, 0.2, 0.1], size=(200, 80))
    covered = [
        i.low <= 1.2 <= i.high for i in (bootstrap_mean(s, resamples=300, seed=k) for k, s in enumerate(samples))
    ]
    assert 0.89 <= np.mean(covered) <= 0.99


def test_the_kind_chooses_the_interval_whatever_the_values_are() -> None:
    binary = [0.0, 1.0, 1.0, 1.0]
    assert mean_interval(binary, "binary") == wilson(3, 4)
    assert mean_interval(binary, "count") == bootstrap_mean(binary)  # searches that happen to be 0 or 1
    assert mean_interval(binary, "graded").low == pytest.approx(wilson(3, 4).low)
    assert all(math.isnan(mean_interval([], kind).mean) for kind in KINDS)
    with pytest.raises(ValueError, match="0 or 1"):
        mean_interval([0.5], "binary")
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got 0 to 2"):
        mean_interval([0.0, 2.0], "graded")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40))
def test_every_interval_has_a_width_and_holds_its_mean(pairs: list[tuple[float, float]]) -> None:
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    for kind in KINDS:
        mean, gap = mean_interval(first, kind), paired_difference(first, second, kind)
        assert 0 <= mean.low <= mean.mean <= mean.high
        assert mean.low < mean.high
        assert gap.low <= gap.mean <= gap.high
        assert gap.low < gap.high
        other = paired_difference(second, first, kind)
        if kind != "count":
            assert (other.low, other.high) == (pytest.approx(-gap.high), pytest.approx(-gap.low))
            assert gap.low >= -1
            assert mean.high <= 1
            assert gap.high <= 1


@pytest.mark.slow
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=50))
def test_the_graded_interval_of_binary_scores_is_wilsons(scores: list[float]) -> None:
    graded, binary = mean_interval(scores, "graded"), mean_interval(scores, "binary")
    assert (graded.low, graded.high) == (pytest.approx(binary.low, abs=1e-9), pytest.approx(binary.high, abs=1e-9))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=40), st.randoms())
def test_a_signed_interval_is_the_graded_one_scaled(scores: list[float], random: Random) -> None:
    signed, graded = mean_interval(scores, "signed"), mean_interval([(score + 1) / 2 for score in scores], "graded")
    assert (signed.low, signed.high) == (pytest.approx(2 * graded.low - 1), pytest.approx(2 * graded.high - 1))
    other = random.sample(scores, len(scores))
    gap = paired_difference(scores, other, "signed")
    assert -2 <= gap.low <= gap.mean <= gap.high <= 2
    assert gap.mean == pytest.approx(0, abs=1e-12)
    assert gap.low < gap.high


@pytest.mark.parametrize("n", [1, 10, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_outcomes_leave_room_for_a_difference(n: int, kind: Kind) -> None:
    gap = paired_difference([1.0] * n, [1.0] * n, kind)
    half = 1.959964**2 / (n + 1.959964**2)
    assert (gap.mean, gap.low, gap.high, gap.n) == (0.0, pytest.approx(-half), pytest.approx(half), n)
    assert not gap.excludes_zero


def test_tango_agrees_with_published_figures() -> None:
    # Fagerland, Lydersen and Laake (2014), "Recommended tests and confidence intervals for paired binomial
    # proportions", airway hyper-responsiveness: of 21 children 1 only before and 7 only after the transplantation.
    interval = tango(1, 7, 21)
    assert (interval.low, interval.high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))
    with pytest.raises(ValueError, match="at most n"):
        tango(3, 3, 5)
    assert math.isnan(tango(0, 0, 0).mean)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(12, 2, 50), (0, 0, 9), (3, 0, 5), (4, 4, 8), (5, 0, 5), (0, 1, 1), (1, 6, 30)]
)
def test_tango_agrees_with_a_search_for_the_most_likely_shares(b: int, c: int, n: int) -> None:
    """The same interval from the definition: every difference that the score test does not reject."""

    def rejected(d: float) -> bool:
        only_second = np.linspace(max(0.0, -d), (1 - d) / 2, 4_001)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = [
                count * np.log(np.maximum(share, 0)) if count else 0.0
                for count, share in ((b, only_second + d), (c, only_second), (n - b - c, 1 - 2 * only_second - d))
            ]
        q = only_second[np.nanargmax(sum(terms) + 0 * only_second)]
        return bool((b - c - n * d) ** 2 > 1.959964**2 * n * (2 * q + d - d * d) + 1e-9)

    interval = tango(b, c, n)
    held = [d for d in np.linspace(-1, 1, 201) if not rejected(d)]
    assert (interval.low, interval.high) == (pytest.approx(held[0], abs=0.012), pytest.approx(held[-1], abs=0.012))


@pytest.mark.parametrize(("n", "shares"), [(10, (0.1, 0.1)), (20, (0.3, 0.1)), (40, (0.05, 0.02)), (40, (0.2, 0.2))])
def test_tango_covers_the_truth_as_often_as_it_says(n: int, shares: tuple[float, float]) -> None:
    """The exact coverage: the probability of all outcomes whose interval holds the true difference."""
    first, second = shares
    covered = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            ways = math.comb(n, b) * math.comb(n - b, c)
            weight = ways * first**b * second**c * (1 - first - second) ** (n - b - c)
            if weight > 1e-6 and tango(b, c, n).low <= first - second <= tango(b, c, n).high:
                covered += weight
    assert 0.93 <= covered <= 0.99


def test_graded_intervals_cover_the_truth_also_at_small_n() -> None:
    rng = np.random.default_rng(0)
    for n in (10, 30):
        right = rng.choice([0.0, 1.0, 0.5], p=[0.5, 0.25, 0.25], size=(400, n))
        covered = [i.low <= 0.375 <= i.high for i in (mean_interval(row, "graded") for row in right)]
        assert 0.92 <= np.mean(covered) <= 0.99


def test_paired_difference_is_tighter_than_the_separate_intervals() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    first, second = (hard < 0.6).astype(float), (hard < 0.5).astype(float)
    gap = paired_difference(first, second, "binary")
    assert gap.mean == pytest.approx(first.mean() - second.mean())
    assert gap.excludes_zero
    separate = wilson(first.sum(), 300), wilson(second.sum(), 300)
    assert gap.high - gap.low < sum(i.high - i.low for i in separate) / 2


def test_paired_differences_need_the_same_questions() -> None:
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([1.0], [1.0, 0.0], "binary")


def test_intervals_are_plain_json() -> None:
    assert Interval(0.5, 0.25, 1.0, 4).as_dict() == {"mean": 0.5, "low": 0.25, "high": 1.0, "n": 4}
    assert EMPTY.as_dict() == {"mean": None, "low": None, "high": None, "n": 0}
