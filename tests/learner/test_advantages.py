from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_agents.advantages import (
    ADVANTAGES,
    dr_grpo,
    get_advantage,
    grpo,
    reinforce,
    reinforce_plus_plus,
    rloo,
)
from zerosearch_env.errors import ConfigError

REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.5])
GROUPS = np.array([0, 0, 0, 1, 1])


def test_grpo_is_the_group_z_score():
    # group 0: mean 1/3, std (n - 1) sqrt(1/3); group 1: mean 3/4, std sqrt(1/8)
    first, second = 3**-0.5 + 1e-4, 8**-0.5 + 1e-4
    expected = [2 / 3 / first, -1 / 3 / first, -1 / 3 / first, 0.25 / second, -0.25 / second]
    np.testing.assert_allclose(grpo(REWARDS, GROUPS), expected, rtol=1e-12)


def test_dr_grpo_only_subtracts_the_mean():
    np.testing.assert_allclose(dr_grpo(REWARDS, GROUPS), [2 / 3, -1 / 3, -1 / 3, 0.25, -0.25], rtol=1e-12)


def test_rloo_subtracts_the_mean_of_the_others():
    np.testing.assert_allclose(rloo(REWARDS, GROUPS), [1.0, -0.5, -0.5, 0.5, -0.5], rtol=1e-12)


def test_reinforce_subtracts_the_batch_mean():
    np.testing.assert_allclose(reinforce(REWARDS, GROUPS), [0.5, -0.5, -0.5, 0.5, 0.0], rtol=1e-12)


def test_reinforce_plus_plus_is_the_batch_z_score():
    expected = (REWARDS - 0.5) / (REWARDS.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(reinforce_plus_plus(REWARDS, GROUPS), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["grpo", "dr-grpo", "rloo"])
def test_a_group_of_one_or_of_equal_rewards_has_no_signal(name):
    advantages = ADVANTAGES[name](np.array([1.0, 0.3, 0.3]), np.array([4, 7, 7]))
    np.testing.assert_array_equal(advantages, 0.0)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_no_rollouts_have_no_advantages(name):
    assert ADVANTAGES[name](np.zeros(0), np.zeros(0, dtype=np.int64)).shape == (0,)


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=1, max_size=30), st.randoms())
def test_advantages_sum_to_zero_in_groups_and_do_not_depend_on_order(pairs, random):
    rewards, groups = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    order = list(range(len(pairs)))
    random.shuffle(order)
    for name, function in ADVANTAGES.items():
        advantages = function(rewards, groups)
        np.testing.assert_allclose(function(rewards[order], groups[order]), advantages[order], atol=1e-6)
        for group in set(groups) if name in ("grpo", "dr-grpo", "rloo") else ():
            assert abs(advantages[groups == group].sum()) < 1e-6


def test_unknown_name_suggests_the_nearest():
    assert get_advantage("grpo") is grpo
    with pytest.raises(ConfigError, match="Did you mean 'reinforce'"):
        get_advantage("reinforc")
