"""Losses over the tokens that the policy sampled: pure functions of tensors.

Shape suffixes: `_N` the sampled tokens of a micro-batch, `_R` the rollouts of a mini-batch.

The global normaliser is an argument: `weights_N` holds one weight a token (see `token_weights`) which sums to 1
over the whole mini-batch, so a loss is a plain weighted sum and splitting the mini-batch, or dealing it to workers,
changes no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerosearch_env.errors import unknown_name

Aggregation = Literal["tokens", "sequences", "constant"]


def token_weights(
    lengths_R: NDArray[np.int64], aggregation: Aggregation, constant_length: int = 1
) -> NDArray[np.float64]:
    """The weight of each sampled token of every rollout of a mini-batch, shape `(R,)`.

    - `"tokens"`: 1 / sum(lengths): every token counts the same (DAPO, Yu et al., arXiv 2503.14476, section 3.3).
    - `"sequences"`: 1 / (R * length): every rollout counts the same (GRPO, arXiv 2402.03300, equation 3).
    - `"constant"`: 1 / (R * constant_length): no dependence on lengths (Dr. GRPO, arXiv 2503.20783, section 3.2).

    Args:
        lengths_R: sampled tokens of each rollout of the *whole* mini-batch, before it is split.
        aggregation: how rollouts of different lengths are weighed.
        constant_length: the length of `"constant"`, in tokens.
    """
    rollouts = len(lengths_R)
    if aggregation == "tokens":
        return np.full(rollouts, 1.0 / max(int(lengths_R.sum()), 1))
    if aggregation == "sequences":
        return 1.0 / (rollouts * np.maximum(lengths_R, 1.0))
    if aggregation == "constant":
        return np.full(rollouts, 1.0 / (max(rollouts, 1) * constant_length))
    raise unknown_name("aggregation", aggregation, ("tokens", "sequences", "constant"))


def clipped_policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Sum of w * -min(q A, clip(q, 1 - low, 1 + high) A) with the ratio q = exp(log pi - log pi_old).

    Source: PPO, Schulman et al., arXiv 1707.06347, equation 7; separate bounds: DAPO, arXiv 2503.14476, section 3.1.

    Args:
        logprobs_N: log-probabilities of the sampled tokens under the weights being trained; carries the gradient.
        old_logprobs_N: the same under the weights before this step's updates.
        advantages_N: advantage of each token.
        weights_N: weight of each token (`token_weights`, times an importance weight where there is one).
        clip_low: how far the ratio may fall below 1 and still be pushed down.
        clip_high: how far the ratio may rise above 1 and still be pushed up.

    Returns:
        The loss, and for each token 1.0 where the clip is active (its gradient is cut to zero), else 0.0.
    """
    ratio_N = torch.exp(logprobs_N - old_logprobs_N)
    surrogate_N = ratio_N * advantages_N
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_N
    loss = -(torch.minimum(surrogate_N, clipped_N) * weights_N).sum()
    return loss, (clipped_N < surrogate_N).detach().to(logprobs_N.dtype)


def truncated_importance_weights(
    old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, cap: float
) -> tuple[Tensor, Tensor]:
    """w = min(exp(log pi_old - log pi_sampler), cap): corrects the gap between the sampler's and the learner's numbers.

    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025 (truncated
    importance sampling); Espeholt et al., IMPALA, arXiv 1802.01561 (truncation).

    Returns:
        The weights without gradient, and each token's k3 estimate of KL(sampler || learner), the mismatch KL.
    """
    gap_N = (old_logprobs_N - sampler_logprobs_N).detach()
    return torch.exp(gap_N).clamp(max=cap), torch.expm1(gap_N) - gap_N


def kl_k1(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """k1 = log pi - log pi_ref: unbiased for KL(pi || ref), may be negative.

    For logging: as a term of a loss its expected gradient is zero. Source: Schulman, "Approximating KL Divergence",
    2020.
    """
    return logprobs_N - reference_logprobs_N


def kl_k2(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """k2 = (log pi - log pi_ref)^2 / 2: biased, low variance; its expected gradient is that of KL(pi || ref).

    Source: Schulman, "Approximating KL Divergence", 2020.
    """
    return 0.5 * (logprobs_N - reference_logprobs_N) ** 2


def kl_k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """k3 = exp(d) - d - 1 with d = log pi_ref - log pi: unbiased for KL(pi || ref) and never negative.

    As a term of a loss its expected gradient is that of KL(ref || pi): it too pulls the policy to the reference.
    Source: Schulman, "Approximating KL Divergence", 2020; GRPO, arXiv 2402.03300, equation 4.
    """
    gap_N = reference_logprobs_N - logprobs_N
    return torch.expm1(gap_N) - gap_N


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def policy_loss_with_kl(policy_loss: Tensor, kl_N: Tensor, weights_N: Tensor, coefficient: float) -> Tensor:
    """policy_loss + coefficient * sum of w * kl: the divergence is *added* to a loss that is minimised.

    The released ZeroSearch code subtracts it, which drives the policy away from its reference.
    """
    return policy_loss + coefficient * (kl_N * weights_N).sum()
