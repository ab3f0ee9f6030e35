from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_agents.objective.advantages import (
    ADVANTAGES,
    dr_grpo,
    gae,
    get_advantage,
    grpo,
    normalize,
    reinforce,
    reinforce_no_baseline,
    reinforce_plus_plus,
    returns_to_go,
    rloo,
    token_rewards,
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


def test_reinforce_without_a_baseline_is_the_reward():
    advantages = reinforce_no_baseline(REWARDS, GROUPS)
    np.testing.assert_array_equal(advantages, REWARDS)
    assert advantages is not REWARDS


def test_token_rewards_and_returns_by_hand():
    rewards = token_rewards(1.0, np.array([0.1, -0.2, 0.3]))
    np.testing.assert_allclose(rewards, [-0.1, 0.2, 0.7])
    np.testing.assert_allclose(returns_to_go(rewards), [0.8, 0.9, 0.7])
    np.testing.assert_allclose(returns_to_go(rewards, 0.5), [0.175, 0.55, 0.7])


def test_reinforce_plus_plus_is_the_z_score_over_all_tokens():
    # returns 1, 1 and 0: mean 2/3, std (n - 1) sqrt(1/3), each *token* counted
    got = reinforce_plus_plus([token_rewards(1.0, np.zeros(2)), token_rewards(0.0, np.zeros(1))])
    scale = 3**-0.5 + 1e-4
    np.testing.assert_allclose(np.concatenate(got), [1 / 3 / scale, 1 / 3 / scale, -2 / 3 / scale])
    assert [len(part) for part in got] == [2, 1]


def test_normalize_of_little():
    assert normalize([]) == []
    np.testing.assert_array_equal(normalize([np.array([3.0])])[0], [0.0])
    np.testing.assert_array_equal(normalize([np.full(3, 2.0)])[0], np.zeros(3))


def test_gae_by_hand():
    # gamma .5, lambda .5, values 1, 2, 4 and reward 8 at the end:
    # deltas 0 + .5 * 2 - 1 = 0, 0 + .5 * 4 - 2 = 0, 8 + 0 - 4 = 4; A = 4, 0 + .25 * 4 = 1, 0 + .25 * 1 = .25
    rewards, values = token_rewards(8.0, np.zeros(3)), np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(gae(rewards, values, 0.5, 0.5), [0.25, 1.0, 4.0])
    np.testing.assert_allclose(gae(rewards, values, 0.5, 0.0), [0.0, 0.0, 4.0])  # the deltas themselves
    np.testing.assert_allclose(gae(rewards, values, 1.0, 1.0), [7.0, 6.0, 4.0])  # returns minus values


def _gae_over_positions(mask, rewards, values, gamma, lambda_):
    """A plain loop over *all* positions of a rollout, documents included, which it walks past."""
    advantages = np.zeros(len(mask))
    next_value, running = 0.0, 0.0
    for place in reversed(range(len(mask))):
        if not mask[place]:
            continue  # a document or the prompt: neither gamma nor lambda, no value, no advantage
        delta = rewards[place] + gamma * next_value - values[place]
        running = delta + gamma * lambda_ * running
        advantages[place] = running
        next_value = values[place]
    return advantages


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_gae_passes_over_documents(mask, gamma, lambda_, seed):
    random, mask = np.random.default_rng(seed), np.array([*mask, True])
    rewards, values = random.normal(size=(2, len(mask)))
    got = gae(rewards[mask], values[mask], gamma, lambda_)
    np.testing.assert_allclose(got, _gae_over_positions(mask, rewards, values, gamma, lambda_)[mask], atol=1e-9)
    returns = returns_to_go(rewards[mask], gamma)
    np.testing.assert_allclose(gae(rewards[mask], values[mask], gamma, 1.0), returns - values[mask], atol=1e-9)


@pytest.mark.parametrize("name", ["grpo", "dr-grpo", "rloo"])
def test_a_group_of_one_or_of_equal_rewards_has_no_signal(name):
    advantages = ADVANTAGES[name](np.array([1.0, 0.3, 0.3]), np.array([4, 7, 7]))
    np.testing.assert_array_equal(advantages, 0.0)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_no_rollouts_have_no_advantages(name):
    assert ADVANTAGES[name](np.zeros(0), np.zeros(0, dtype=np.int64)).shape == (0,)


def _slow_advantage(name, rewards, groups, i):
    """One rollout's advantage in the words of the papers, with nothing but Python's own numbers."""
    mine = [r for r, g in zip(rewards, groups, strict=True) if g == groups[i]]
    others = [r for j, (r, g) in enumerate(zip(rewards, groups, strict=True)) if g == groups[i] and j != i]
    if name == "reinforce-no-baseline":
        return rewards[i]
    if name == "reinforce":
        return rewards[i] - math.fsum(rewards) / len(rewards)
    if name == "rloo":
        return rewards[i] - math.fsum(others) / len(others) if others else 0.0
    if name == "dr-grpo":
        return rewards[i] - statistics.mean(mine)
    return (rewards[i] - statistics.mean(mine)) / ((statistics.stdev(mine) if others else 0.0) + 1e-4)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("seed", range(5))
def test_random_batches_against_a_slow_loop(name, seed):
    random = np.random.default_rng(seed)
    rewards, groups = random.random(23), random.integers(0, 6, 23)  # groups of all sizes, in any order
    expected = [_slow_advantage(name, rewards.tolist(), groups.tolist(), i) for i in range(23)]
    np.testing.assert_allclose(ADVANTAGES[name](rewards, groups), expected, atol=1e-9)


@pytest.mark.slow
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
