"""Losses over the tokens that the policy sampled: pure functions of tensors.

Shape suffixes: `_N` the sampled tokens of a micro-batch, `_R` the rollouts of a mini-batch.

The normaliser is an argument: `weights_N` has one weight per token (see `token_weights`), and the weights of the whole
mini-batch are normalised together. A loss is therefore a weighted sum, and splitting the mini-batch, or dividing it
among workers, does not change the gradient. A rollout is never split, so sums over one rollout (`rows_N` has the
rollout of each token) are complete as well.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerosearch_env.errors import unknown_name

Aggregation = Literal["tokens", "sequences", "constant"]
Level = Literal["token", "sequence"]


def token_weights(
    lengths_R: NDArray[np.int64], aggregation: Aggregation, constant_length: int = 1
) -> NDArray[np.float64]:
    """The weight of each sampled token of every rollout of a mini-batch, shape `(R,)`.

    - `"tokens"`: 1 / sum(lengths): every token has the same weight (DAPO, Yu et al., arXiv 2503.14476, section 3.3).
    - `"sequences"`: 1 / (R * length): every rollout has the same weight (GRPO, arXiv 2402.03300, equation 3).
    - `"constant"`: 1 / (R * constant_length): independent of the lengths (Dr. GRPO, arXiv 2503.20783, section 3.2).

    Args:
        lengths_R: sampled tokens of each rollout of the *whole* mini-batch, before it is split.
        aggregation: how rollouts of different lengths are weighted.
        constant_length: the length used by `"constant"`, in tokens.
    """
    rollouts = len(lengths_R)
    if aggregation == "tokens":
        return np.full(rollouts, 1.0 / max(int(lengths_R.sum()), 1))
    if aggregation == "sequences":
        return 1.0 / (rollouts * np.maximum(lengths_R, 1.0))
    if aggregation == "constant":
        return np.full(rollouts, 1.0 / (max(rollouts, 1) * constant_length))
    raise unknown_name("aggregation", aggregation, ("tokens", "sequences", "constant"))


def sequence_log_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor, rows_N: Tensor, rows: int) -> Tensor:
    """log s = mean over the rollout's tokens of (log pi - log pi_old), the same value at each of its tokens.

    The value is that of the whole rollout; the gradient at token t is only that of log pi(t). Summed with equal weights
    over the rollout, as aggregation "sequences" does, this is the gradient of GSPO's objective. It is also correct when
    the tokens of a rollout have different advantages.

    Source: GSPO, Zheng et al., arXiv 2507.18071, equation 7, in the form of its equations 13 and 14 (GSPO-token).

    Args:
        logprobs_N: log-probabilities under the weights being trained; carries the gradient.
        old_logprobs_N: the same under the weights before this step's updates.
        rows_N: 0-based rollout index of each token.
        rows: number of rollouts in the micro-batch.
    """
    gap_N = (logprobs_N - old_logprobs_N).detach()
    mean_R = _sum_by_row(gap_N, rows_N, rows) / _sum_by_row(torch.ones_like(gap_N), rows_N, rows).clamp(min=1.0)
    return mean_R[rows_N] + (logprobs_N - logprobs_N.detach())


def clipped_policy_loss(
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of w * -min(q A, clip(q, 1 - low, 1 + high) A) with the ratio q = pi / pi_old, or with a dual clip.

    Without the dual clip, the loss of a token with a negative advantage is unbounded as its ratio grows. With it,
    the objective of such a token is max(min(q A, clip(q) A), c A), and the gradient is zero for q > c.

    Source: PPO, Schulman et al., arXiv 1707.06347, equation 7; separate bounds: DAPO, arXiv 2503.14476, section 3.1;
    dual clip: Ye et al., arXiv 1912.09729, equation 5 (c = 3).

    Args:
        log_ratio_N: log pi - log pi_old of each sampled token, or `sequence_log_ratio`; carries the gradient.
        advantages_N: advantage of each token.
        weights_N: weight of each token (`token_weights`, times its importance weight if there is one).
        clip_low: how far the ratio may fall below 1 before the clip stops pushing it down.
        clip_high: how far the ratio may rise above 1 before the clip stops pushing it up.
        dual_clip: the bound c > 1 + clip_high; None: no dual clip.

    Returns:
        The loss, and for each token 1.0 if a clip is active (its gradient is zero), else 0.0.
    """
    ratio_N = torch.exp(log_ratio_N)
    surrogate_N = ratio_N * advantages_N
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_N
    objective_N = torch.minimum(surrogate_N, clipped_N)
    active_N = clipped_N < surrogate_N
    if dual_clip is not None:
        floor_N = torch.where(advantages_N < 0, dual_clip * advantages_N, float("-inf"))
        active_N = active_N | (objective_N < floor_N)
        objective_N = torch.maximum(objective_N, floor_N)
    return -(objective_N * weights_N).sum(), active_N.detach().to(log_ratio_N.dtype)


def cispo_loss(
    logprobs_N: Tensor,
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
) -> tuple[Tensor, Tensor]:
    """Sum of w * -sg(clip(q, 1 - low, 1 + high)) A log pi: only the weight is clipped, so every token has a gradient.

    Source: CISPO, MiniMax-M1, arXiv 2506.13585, equations 4 and 5.

    Args:
        logprobs_N: log-probabilities of the sampled tokens; carries the gradient.
        log_ratio_N: as in `clipped_policy_loss`; its gradient is not used.
        advantages_N: advantage of each token.
        weights_N: weight of each token.
        clip_low: the ratio's lower bound is 1 - clip_low; 1 means no bound, as in the paper.
        clip_high: the ratio's upper bound is 1 + clip_high.

    Returns:
        The loss, and for each token 1.0 if its weight was clipped, else 0.0.
    """
    ratio_N = torch.exp(log_ratio_N.detach())
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -(clipped_N * advantages_N * logprobs_N * weights_N).sum(), (clipped_N != ratio_N).to(logprobs_N.dtype)


def reinforce_loss(logprobs_N: Tensor, advantages_N: Tensor, weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of w * -A log pi: its gradient is the policy gradient of fresh on-policy samples, without a clip.

    Source: Williams, "Simple Statistical Gradient-Following Algorithms", 1992, theorem 1; without clip for language
    models: Ahmadian et al., arXiv 2402.14740, section 3.

    Returns:
        The loss, and zeros.
    """
    return -(advantages_N * logprobs_N * weights_N).sum(), torch.zeros_like(logprobs_N)


def entropy_bonus(entropy_N: Tensor, weights_N: Tensor, coefficient: float) -> Tensor:
    """-coefficient * sum of w * H, to be *added* to a loss that is minimised: more entropy means less loss.

    Source: Williams and Peng, 1991; Mnih et al., A3C, arXiv 1602.01783, section 4.
    """
    return -coefficient * (entropy_N * weights_N).sum()


def truncated_importance_weights(
    old_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    cap: float,
    level: Level = "token",
    rows_N: Tensor | None = None,
    rows: int = 0,
) -> tuple[Tensor, Tensor]:
    """w = min(pi_old / pi_sampler, cap): corrects the gap between the sampler's and the learner's probabilities.

    At level "token" each token has its own ratio. At level "sequence" all tokens have the rollout's ratio, the product
    over its tokens, which is unbiased but has a higher variance.

    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025 (truncated
    importance sampling); Espeholt et al., IMPALA, arXiv 1802.01561 (truncation); Liu et al., "When Speed Kills
    Stability", 2025 (sequence level).

    Args:
        old_logprobs_N: the learner's log-probabilities before this step's updates.
        sampler_logprobs_N: the sampler's.
        cap: upper bound of a weight.
        level: ratio per token or per rollout.
        rows_N: rollout of each token; required at level "sequence".
        rows: number of rollouts; required at level "sequence".

    Returns:
        The weights without gradient, and each token's k3 estimate of KL(sampler || learner), the mismatch KL.
    """
    gap_N = (old_logprobs_N - sampler_logprobs_N).detach()
    log_weight_N = gap_N
    if level == "sequence":
        assert rows_N is not None
        log_weight_N = _sum_by_row(gap_N, rows_N, rows)[rows_N]
    return torch.exp(log_weight_N).clamp(max=cap), torch.expm1(gap_N) - gap_N


def value_loss(
    values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, weights_N: Tensor, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of w / 2 * max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2); without a clip, w / 2 * (V - R)^2.

    The clip removes the gradient of a value that has moved more than c towards its target since the step began.

    Source: Schulman et al., PPO's published code (OpenAI baselines, `ppo2`); Engstrom et al., arXiv 2005.12729,
    section 3.

    Args:
        values_N: the critic's values; carries the gradient.
        old_values_N: its values before this step's updates.
        returns_N: their targets, `gae(...) + old values`.
        weights_N: weight of each token.
        clip: the bound c; None: no clip.

    Returns:
        The loss, and for each token 1.0 if the clip is active, else 0.0.
    """
    error_N = (values_N - returns_N) ** 2
    if clip is None:
        return 0.5 * (error_N * weights_N).sum(), torch.zeros_like(values_N)
    near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    clipped_N = (near_N - returns_N) ** 2
    active_N = (clipped_N > error_N).detach().to(values_N.dtype)
    return 0.5 * (torch.maximum(error_N, clipped_N) * weights_N).sum(), active_N


def _sum_by_row(values_N: Tensor, rows_N: Tensor, rows: int) -> Tensor:
    """Sums over the tokens of each rollout, shape `(rows,)`."""
    return torch.zeros(rows, dtype=values_N.dtype, device=values_N.device).index_add(0, rows_N, values_N)
