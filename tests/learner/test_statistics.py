from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_agents.evaluation.statistics import (
    EMPTY,
    Interval,
    bootstrap_mean,
    mean_interval,
    paired_difference,
    wilson,
)


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
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 4, confidence=1.0)


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


def test_mean_interval_chooses_by_the_values() -> None:
    binary = [0.0, 1.0, 1.0, 1.0]
    assert mean_interval(binary) == wilson(3, 4)
    graded = [0.0, 0.5, 1.0, 1.0]
    assert mean_interval(graded, seed=3) == bootstrap_mean(graded, seed=3)
    assert math.isnan(mean_interval([]).mean)


def test_paired_difference_is_tighter_than_the_separate_intervals() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    first, second = (hard < 0.6).astype(float), (hard < 0.5).astype(float)
    gap = paired_difference(first, second)
    assert gap.mean == pytest.approx(first.mean() - second.mean())
    assert gap.excludes_zero
    separate = wilson(first.sum(), 300), wilson(second.sum(), 300)
    assert gap.high - gap.low < sum(i.high - i.low for i in separate) / 2


def test_paired_difference_of_equal_scores_is_zero_and_shapes_must_agree() -> None:
    assert paired_difference([0.0, 1.0], [0.0, 1.0]) == Interval(0.0, 0.0, 0.0, 2)
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([1.0], [1.0, 0.0])


@pytest.mark.parametrize("interval", [wilson(3, 7), bootstrap_mean([0.2, 0.4, 0.9])])
def test_intervals_survive_json(interval: Interval) -> None:
    assert Interval.from_dict(interval.as_dict()) == interval


def test_the_empty_interval_survives_json() -> None:
    assert EMPTY.as_dict() == {"mean": None, "low": None, "high": None, "n": 0}
    assert math.isnan(Interval.from_dict(EMPTY.as_dict()).low)
