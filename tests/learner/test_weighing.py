from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_batch import make_rollout

from zerosearch_agents.config.algorithms import AlgorithmConfig
from zerosearch_agents.forward.batch import Sample
from zerosearch_agents.objective.advantages import gae, normalize
from zerosearch_agents.objective.credit import assign_credit, credit_metrics, has_signal, is_trained, make_samples
from zerosearch_env.errors import TrainingError
from zerosearch_env.types import StopReason


def rewarded(reward: float, seed: int = 0, length: int = 20, stop: StopReason = StopReason.ANSWER):
    rollout = make_rollout(length, seed)
    return replace(rollout, scores=replace(rollout.scores, reward=reward), stop_reason=stop)


def with_gap(rollout, gap: float) -> Sample:
    """A sample whose reference gives every sampled token `gap` less log-probability than the sampler did."""
    logprobs = rollout.logprobs[rollout.loss_mask]
    return Sample(rollout, 0.0, 0.0, reference_logprobs=(logprobs - gap).astype(np.float32))


FAILED = rewarded(1.0, 1, stop=StopReason.ENGINE_ERROR)
OVERLONG = rewarded(1.0, 2, stop=StopReason.CONTEXT_LIMIT)
EMPTY = replace(rewarded(1.0, 3), loss_mask=np.zeros(20, dtype=bool))


def test_failed_and_overlong_episodes_are_masked_not_rewarded():
    assert not is_trained(FAILED, mask_overlong=False)
    assert not is_trained(EMPTY, mask_overlong=False)
    assert is_trained(OVERLONG, mask_overlong=False)
    assert not is_trained(OVERLONG, mask_overlong=True)
    group = [rewarded(0.0, 4), rewarded(1.0, 5), FAILED, OVERLONG]
    for masked, expected in ((True, [-0.5, 0.5]), (False, [-2 / 3, 1 / 3, 1 / 3])):
        samples = assign_credit(AlgorithmConfig(advantage="dr-grpo"), make_samples([group], mask_overlong=masked))
        np.testing.assert_allclose([sample.advantage for sample in samples[0]], expected)


def test_a_group_has_signal_when_what_is_trained_differs():
    assert has_signal([rewarded(0.0), rewarded(1.0)], mask_overlong=True)
    assert not has_signal([rewarded(1.0), rewarded(1.0)], mask_overlong=True)
    assert not has_signal([rewarded(0.0), FAILED], mask_overlong=False)
    assert has_signal([rewarded(0.0), OVERLONG], mask_overlong=False)
    assert not has_signal([rewarded(0.0), OVERLONG], mask_overlong=True)
    assert not has_signal([], mask_overlong=True)


def test_nothing_left_says_why():
    with pytest.raises(TrainingError, match=r"every episode exceeded context_tokens, and algorithm\.mask_overlong"):
        make_samples([[OVERLONG]], mask_overlong=True)
    with pytest.raises(TrainingError, match="every search failed: gone"):
        make_samples([[replace(FAILED, error="gone")]], mask_overlong=False)


def test_kl_in_the_reward_lowers_the_outcome_of_who_drifted():
    """Both rollouts answered; the one that is less likely under the reference is worth less."""
    one, other = rewarded(1.0, 6), rewarded(1.0, 7)
    algorithm = AlgorithmConfig(advantage="dr-grpo", kl_coefficient=0.1, kl_in="reward", kl_estimator="k1")
    ((drifted, stayed),) = assign_credit(algorithm, [[with_gap(one, 0.5), with_gap(other, 0.0)]])
    penalty = 0.1 * 0.5 * one.sampled_tokens
    assert drifted.advantage == pytest.approx(-penalty / 2, rel=1e-5)
    assert stayed.advantage == pytest.approx(penalty / 2, rel=1e-5)
    metrics = credit_metrics(algorithm, [[with_gap(one, 0.5), with_gap(other, 0.0)]])
    assert metrics == {"kl_penalty": pytest.approx(penalty / 2, rel=1e-5)}


def test_kl_in_the_loss_leaves_rewards_alone():
    samples = [[with_gap(rewarded(1.0, 6), 0.5), with_gap(rewarded(0.0, 7), 0.0)]]
    algorithm = AlgorithmConfig(advantage="dr-grpo", kl_coefficient=0.1)
    assert [sample.advantage for sample in assign_credit(algorithm, samples)[0]] == [0.5, -0.5]
    assert credit_metrics(algorithm, samples) == {}


def test_reinforce_plus_plus_discounts_the_kl_of_what_is_still_to_come():
    one, other = rewarded(1.0, 6), rewarded(0.0, 7)
    algorithm = AlgorithmConfig(advantage="reinforce++", kl_coefficient=0.1, kl_in="reward", kl_estimator="k1")
    samples = assign_credit(algorithm, [[with_gap(one, 0.5)], [with_gap(other, 0.0)]])
    n = one.sampled_tokens
    returns = [1.0 - 0.05 * np.arange(n, 0, -1), np.zeros(other.sampled_tokens)]  # r - beta * sum of KL from t on
    for (sample,), expected in zip(samples, normalize(returns), strict=True):
        np.testing.assert_allclose(sample.advantage, expected, rtol=1e-4, atol=1e-6)


def test_reinforce_plus_plus_with_baseline_takes_the_groups_mean_off_first():
    groups = [[rewarded(1.0, 1), rewarded(0.0, 2)], [rewarded(1.0, 3), rewarded(1.0, 4)]]
    samples = assign_credit(AlgorithmConfig(advantage="reinforce++-baseline"), make_samples(groups))
    parts = [np.full(r.sampled_tokens, a) for r, a in zip([*groups[0], *groups[1]], (0.5, -0.5, 0, 0), strict=True)]
    for sample, expected in zip([*samples[0], *samples[1]], normalize(parts), strict=True):
        np.testing.assert_allclose(sample.advantage, expected, atol=1e-12)


def test_gae_with_its_returns():
    rollouts = [rewarded(1.0, 1), rewarded(0.0, 2)]
    random = np.random.default_rng(0)
    values = [random.normal(size=one.sampled_tokens).astype(np.float32) for one in rollouts]
    groups = [[Sample(r, 0.0, 0.0, values=v)] for r, v in zip(rollouts, values, strict=True)]
    algorithm = AlgorithmConfig(advantage="gae", gamma=0.9, gae_lambda=0.8)
    weighed = [sample for group in assign_credit(algorithm, groups) for sample in group]
    raw = []
    for one, v in zip(rollouts, values, strict=True):
        rewards = np.zeros(one.sampled_tokens)
        rewards[-1] = one.scores.reward
        raw.append(gae(rewards, v.astype(np.float64), 0.9, 0.8))
    for sample, expected, own, v in zip(weighed, normalize(raw), raw, values, strict=True):
        np.testing.assert_allclose(sample.advantage, expected)
        np.testing.assert_allclose(sample.returns, own + v)  # not normalised: what the value should have been
    metrics = credit_metrics(algorithm, [[sample] for sample in weighed])
    returns, everything = np.concatenate([s.returns for s in weighed]), np.concatenate(values)
    assert metrics["explained_variance"] == pytest.approx(1 - (returns - everything).var() / returns.var())
    assert metrics["value"] == pytest.approx(everything.mean(), rel=1e-5)
