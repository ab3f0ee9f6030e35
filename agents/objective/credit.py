"""From rollouts to advantages: selects the rollouts to train on and computes the advantages of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.errors import TrainingError, sentence
from zerosearch_env.types import StopReason

from ..config.algorithms import AlgorithmConfig
from ..forward.batch import Sample
from ..rollouts.rollout import Rollout
from .advantages import dr_grpo, gae, get_advantage, normalize, reinforce_plus_plus, token_rewards
from .kl import kl_penalties


def is_trained(rollout: Rollout, *, mask_overlong: bool) -> bool:
    """Whether a rollout is used for training. Others are left out of the loss and of every mean.

    Left out are rollouts with a failed search engine or without sampled tokens, and with `mask_overlong` those that
    exceeded the token budget (DAPO's overlong filtering, arXiv 2503.14476, section 3.4).
    """
    return rollout.trainable and not (mask_overlong and rollout.stop_reason is StopReason.CONTEXT_LIMIT)


def has_signal(group: Sequence[Rollout], *, mask_overlong: bool) -> bool:
    """Whether the rewards of the group's trained rollouts differ; if not, all its advantages are zero."""
    return len({rollout.scores.reward for rollout in group if is_trained(rollout, mask_overlong=mask_overlong)}) > 1


def make_samples(groups: Sequence[Sequence[Rollout]], *, mask_overlong: bool = False) -> list[list[Sample]]:
    """The rollouts to train on, by group, without advantages.

    Raises:
        TrainingError: there are none; the message gives the reason, for example the engine's error.
    """
    samples = [
        [Sample(rollout, 0.0, 0.0) for rollout in group if is_trained(rollout, mask_overlong=mask_overlong)]
        for group in groups
    ]
    if not any(samples):
        everything = [rollout for group in groups for rollout in group]
        errors = [rollout.error for rollout in everything if rollout.error]
        if errors:
            reason = f"every search failed: {errors[0]}"
        elif any(rollout.trainable for rollout in everything):
            reason = "every episode exceeded context_tokens, and algorithm.mask_overlong leaves such episodes out"
        else:
            shortest = min(len(rollout.token_ids) for rollout in everything)
            reason = (
                f"no prompt fits into context_tokens: the shortest has {shortest} tokens, and a turn needs space too. "
                "Raise rollout.context_tokens"
            )
        raise TrainingError(f"no rollout of this step can be used for training: {sentence(reason)}")
    return samples


def assign_credit(algorithm: AlgorithmConfig, groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
    """Adds the advantages to the samples, and with a critic also the returns.

    With `kl_in = "reward"`, kl_coefficient * KL is subtracted from each sampled token's reward; an outcome estimator
    uses the sum over the rollout.

    Args:
        algorithm: selects the estimator, the discount and the KL.
        groups: samples by question, with the vectors that `compute_logprobs` adds.
    """
    flat = [sample for group in groups for sample in group]
    groups_R = np.array([index for index, group in enumerate(groups) for _ in group], dtype=np.int64)
    rewards_R = np.array([sample.rollout.scores.reward for sample in flat], dtype=np.float64)
    penalties = [_penalties(algorithm, sample) for sample in flat]
    if algorithm.advantage in ("gae", "reinforce++", "reinforce++-baseline"):
        if algorithm.advantage == "reinforce++-baseline":
            rewards_R = dr_grpo(rewards_R, groups_R)
        rewards = [token_rewards(float(r), penalty_n) for r, penalty_n in zip(rewards_R, penalties, strict=True)]
        if algorithm.advantage == "gae":
            weighed = _weigh_by_critic(algorithm, flat, rewards)
        else:
            advantages = reinforce_plus_plus(rewards, algorithm.gamma)
            weighed = [replace(sample, advantage=a_n) for sample, a_n in zip(flat, advantages, strict=True)]
    else:
        rewards_R = rewards_R - np.array([penalty_n.sum() for penalty_n in penalties], dtype=np.float64)
        advantages_R = get_advantage(algorithm.advantage)(rewards_R, groups_R)
        weighed = [replace(sample, advantage=float(a)) for sample, a in zip(flat, advantages_R, strict=True)]
    following = iter(weighed)
    return [[next(following) for _ in group] for group in groups]


def _weigh_by_critic(
    algorithm: AlgorithmConfig, samples: Sequence[Sample], rewards: Sequence[NDArray[np.float64]]
) -> list[Sample]:
    """GAE of each rollout. The critic's targets use the advantages before normalisation over the batch."""
    raw, returns = [], []
    for sample, rewards_n in zip(samples, rewards, strict=True):
        assert sample.values is not None
        values_n = sample.values.astype(np.float64)
        raw.append(gae(rewards_n, values_n, algorithm.gamma, algorithm.gae_lambda))
        returns.append(raw[-1] + values_n)
    return [
        replace(sample, advantage=a_n, returns=r_n)
        for sample, a_n, r_n in zip(samples, normalize(raw), returns, strict=True)
    ]


def _penalties(algorithm: AlgorithmConfig, sample: Sample) -> NDArray[np.float64]:
    """The KL penalty on the reward at each sampled token; zeros if the KL is not part of the reward."""
    if algorithm.kl_in != "reward" or algorithm.kl_coefficient == 0.0:
        return np.zeros(sample.rollout.sampled_tokens)
    assert sample.reference_logprobs is not None
    return kl_penalties(sample.policy_logprobs, sample.reference_logprobs, algorithm.kl_coefficient)


def credit_metrics(algorithm: AlgorithmConfig, groups: Sequence[Sequence[Sample]]) -> dict[str, float]:
    """The metrics of a step computed from its advantages (formulas: `docs/metrics.md`)."""
    flat = [sample for group in groups for sample in group]
    metrics: dict[str, float] = {}
    if algorithm.kl_in == "reward" and algorithm.kl_coefficient > 0:
        metrics["kl_penalty"] = float(np.mean([_penalties(algorithm, sample).sum() for sample in flat]))
    if algorithm.advantage == "gae":
        returns_N = np.concatenate([sample.returns for sample in flat if sample.returns is not None])
        values_N = np.concatenate([sample.values for sample in flat if sample.values is not None])
        metrics["value"] = float(values_N.mean())
        if returns_N.var() > 0:
            metrics["explained_variance"] = float(1.0 - (returns_N - values_N).var() / returns_N.var())
    return metrics
