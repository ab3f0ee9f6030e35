"""Tests of paired differences and the Holm correction, against closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.evaluation.analysis import significance
from zerosearch_agents.evaluation.analysis.significance import holm, mcnemar, sign_flip


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (3, 3, 1.0),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_is_twice_the_binomial_tail(first_only: int, second_only: int, p: float) -> None:
    assert mcnemar(first_only, second_only) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_questions_is_small_and_never_zero() -> None:
    assert mcnemar(0, 400) == pytest.approx(2.0**-399)
    assert 0 < mcnemar(0, 5000) < 1e-300
    with pytest.raises(ValueError, match="-1 and 3"):
        mcnemar(-1, 3)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_the_sign_flip_test_of_binary_differences_is_mcnemars(first_only: int, second_only: int, ties: int) -> None:
    differences = [1.0] * first_only + [-1.0] * second_only + [0.0] * ties
    assert sign_flip(differences) == pytest.approx(mcnemar(first_only, second_only), rel=1e-9)


def enumerated(differences: list[float]) -> float:
    """The share of all choices of signs whose sum is at least as far from 0."""
    observed = abs(math.fsum(differences))
    choices = list(itertools.product((1, -1), repeat=len(differences)))
    sums = (abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in choices)
    return sum(total >= observed - 1e-9 for total in sums) / len(choices)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-8, 8), min_size=1, max_size=9), st.sampled_from([1, 4, 8, 12]))
def test_the_sign_flip_test_is_exact_for_multiples_of_a_step(steps: list[int], k: int) -> None:
    differences = [step / k for step in steps]
    assert sign_flip(differences) == pytest.approx(enumerated(differences), rel=1e-9)


def test_the_sign_flip_test_by_hand() -> None:
    # 0.25 + 0.5 + 0.75: only the two choices with equal signs are as far from 0, of 8.
    assert sign_flip([0.25, 0.5, 0.75]) == 2 / 8
    # 0.5 - 0.25 = 0.25: every choice of signs has a sum of 0.25 or 0.75.
    assert sign_flip([0.5, -0.25]) == 1.0
    assert sign_flip([]) == sign_flip([0.0, 0.0]) == 1.0
    assert 0 < sign_flip([1.0] * 2000) < 1e-300


@pytest.mark.parametrize("seed", range(6))
def test_other_differences_are_rounded_and_close_to_the_exact_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = [float(d) for d in rng.normal(0.4, 1.0, size=14)]
    assert sign_flip(differences) == pytest.approx(enumerated(differences), rel=0.05, abs=4 / 2**14)
    assert sign_flip(differences) == sign_flip([1000 * d for d in differences])  # the scale does not matter
    assert sign_flip([math.pi + k / math.e for k in range(60)]) == 2 / 2**60


def test_many_differences_have_the_normal_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    differences = rng.uniform(-0.9, 1.0, size=300)
    counted = sign_flip(differences)
    monkeypatch.setattr(significance, "_LARGEST_TABLE", 0)
    assert sign_flip(differences) == pytest.approx(counted, rel=0.02)
    assert sign_flip([3.0, 4.0]) == pytest.approx(math.erfc(7 / math.sqrt(2 * 25)))
    assert 0 < sign_flip(np.full(5000, 0.3)) < 1e-300


def test_differences_are_finite_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        sign_flip([1.0, math.nan])


def test_holm_by_hand() -> None:
    # Ascending: 0.005, 0.01, 0.03, 0.04. Times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"1\.5"):
        holm([0.5, 1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= corrected <= 1 for p, corrected in zip(p_values, adjusted, strict=True))
    rejected: set[int] = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if (len(p_values) - rank) * p_values[place] > 0.05:
            break
        rejected.add(place)
    assert rejected == {place for place, corrected in enumerate(adjusted) if corrected <= 0.05}
