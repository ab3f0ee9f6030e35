"""The KL divergence to the reference policy: its estimators, and its use in the loss or in the reward.

It is *added* to the loss, or *subtracted* from the reward; both pull the policy towards its reference. All functions
are pure; vectors are over sampled tokens, `_N`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def kl_k1(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """k1 = log pi - log pi_ref: unbiased for KL(pi || ref), may be negative.

    Use it in the reward and for logging. In the reward, its policy gradient is exactly that of KL(pi || ref). As a term
    of a loss, its expected gradient is zero. Source: Schulman, "Approximating KL Divergence", 2020.
    """
    return logprobs_N - reference_logprobs_N


def kl_k2(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """k2 = (log pi - log pi_ref)^2 / 2: biased, low variance; its expected gradient is that of KL(pi || ref).

    Source: Schulman, "Approximating KL Divergence", 2020.
    """
    return 0.5 * (logprobs_N - reference_logprobs_N) ** 2


def kl_k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """k3 = exp(d) - d - 1 with d = log pi_ref - log pi: unbiased for KL(pi || ref) and never negative.

    As a term of a loss, its expected gradient is that of KL(ref || pi), which also pulls the policy to the reference.
    Source: Schulman, "Approximating KL Divergence", 2020; GRPO, arXiv 2402.03300, equation 4.
    """
    gap_N = reference_logprobs_N - logprobs_N
    return torch.expm1(gap_N) - gap_N


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def kl_loss(kl_N: Tensor, weights_N: Tensor, coefficient: float) -> Tensor:
    """coefficient * sum of w * kl, to be *added* to a loss that is minimised.

    The released ZeroSearch code subtracts it, which drives the policy away from its reference.
    """
    return coefficient * (kl_N * weights_N).sum()


def kl_penalties(
    logprobs_n: NDArray[np.float32], reference_logprobs_n: NDArray[np.float32], coefficient: float
) -> NDArray[np.float64]:
    """coefficient * k1 at each sampled token of a rollout, to be *subtracted* from its reward.

    Only k1 is correct here: its policy gradient is that of KL(pi || ref). Those of k2 and k3 are not, and a step along
    them can increase the divergence, since both also penalise tokens that the policy makes rarer than the reference.

    Source: Ziegler et al., arXiv 1909.08593, equation 2; Ouyang et al., arXiv 2203.02155, equation 2.

    Args:
        logprobs_n: log-probabilities under the sampling policy, before this step's updates.
        reference_logprobs_n: the same under the reference.
        coefficient: weight of the KL.
    """
    return coefficient * (np.asarray(logprobs_n, np.float64) - np.asarray(reference_logprobs_n, np.float64))
