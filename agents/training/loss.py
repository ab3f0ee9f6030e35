"""The loss of a micro-batch, combined from the terms that the configuration selects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..config.algorithms import AlgorithmConfig
from ..config.train import TrainConfig
from ..forward.batch import MicroBatch, hidden_states
from ..forward.direct import own_gradient
from ..forward.head import head_loss, score_tokens, takes_token_loss
from ..objective.kl import KL_ESTIMATORS, kl_k1, kl_loss
from ..objective.losses import (
    cispo_loss,
    clipped_policy_loss,
    entropy_bonus,
    reinforce_loss,
    sequence_log_ratio,
    truncated_importance_weights,
    value_loss,
)
from .critic import Critic, token_values

SUMS = (
    "tokens", "policy_loss", "loss", "value_loss", "clipped", "entropy", "mismatch", "importance", "shift", "kl",
    "kl_k1", "value_clipped",
)  # fmt: skip
"""Names of the sums over sampled tokens of `loss_and_sums`; the losses are weighted sums already."""


def policy_loss(
    algorithm: AlgorithmConfig, batch: MicroBatch, logprobs_N: Tensor, weights_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The policy-gradient loss that `algorithm` selects, and where its clip was active (0 or 1 per token).

    Args:
        algorithm: which loss, ratio and bounds.
        batch: its old log-probabilities, advantages and rows are used.
        logprobs_N: log-probabilities of the sampled tokens; carries the gradient.
        weights_N: weight of each token, importance weight included.
    """
    if algorithm.policy_loss == "reinforce":
        return reinforce_loss(logprobs_N, batch.advantages_N, weights_N)
    if algorithm.ratio == "sequence":
        log_ratio_N = sequence_log_ratio(logprobs_N, batch.old_logprobs_N, batch.rows_N, batch.rows)
    else:
        log_ratio_N = logprobs_N - batch.old_logprobs_N
    bounds = algorithm.clip_low, algorithm.clip_high
    if algorithm.policy_loss == "cispo":
        return cispo_loss(logprobs_N, log_ratio_N, batch.advantages_N, weights_N, *bounds)
    return clipped_policy_loss(log_ratio_N, batch.advantages_N, weights_N, *bounds, algorithm.dual_clip)


def tokens_of(batch: MicroBatch, part: slice) -> MicroBatch:
    """The micro-batch restricted to some of its sampled tokens; rows and vectors over rows are unchanged."""
    vectors = {
        name: value[part]
        for name in (
            "rows_N", "positions_N", "targets_N", "sampler_logprobs_N", "old_logprobs_N", "advantages_N", "weights_N",
            "reference_logprobs_N", "values_N", "returns_N",
        )
        if (value := getattr(batch, name)) is not None
    }  # fmt: skip
    return replace(batch, **vectors)


def token_loss(
    algorithm: AlgorithmConfig, batch: MicroBatch, logprobs_N: Tensor, entropy_N: Tensor, importance_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of all terms except the value loss, the policy loss alone, and where its clip was active.

    Args:
        algorithm: which terms.
        batch: any tokens; with `ratio = "sequence"` all tokens of whole rows.
        logprobs_N: log-probabilities of the sampled tokens.
        entropy_N: entropies of their distributions.
        importance_N: importance weights that correct for the gap between sampler and learner.
    """
    policy, clipped_N = policy_loss(algorithm, batch, logprobs_N, batch.weights_N * importance_N)
    loss = policy
    if batch.reference_logprobs_N is not None and algorithm.kl_in == "loss":
        kl_N = KL_ESTIMATORS[algorithm.kl_estimator](logprobs_N, batch.reference_logprobs_N)
        loss = loss + kl_loss(kl_N, batch.weights_N, algorithm.kl_coefficient)
    if algorithm.entropy_coefficient > 0:
        loss = loss + entropy_bonus(entropy_N, batch.weights_N, algorithm.entropy_coefficient)
    return loss, policy, clipped_N


def loss_and_sums(
    model: Any, critic: Critic | None, config: TrainConfig, batch: MicroBatch
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a micro-batch (its share of the mini-batch loss), and the sums for metrics, named as in `SUMS`.

    loss = policy loss + kl_coefficient * KL - entropy_coefficient * H + value_coefficient * value loss, each term
    only if configured. A critic with a separate trunk uses value_coefficient 1.
    """
    algorithm, temperature, dtype = config.algorithm, config.rollout.temperature, batch.mode.dtype
    hidden_ND = hidden_states(model, batch)
    importance_N, mismatch_N = truncated_importance_weights(
        batch.old_logprobs_N,
        batch.sampler_logprobs_N,
        algorithm.importance_cap,
        algorithm.importance_sampling,
        batch.rows_N,
        batch.rows,
    )
    head = model.get_output_embeddings()
    if algorithm.ratio == "sequence" or not takes_token_loss(head):
        logprobs_N, entropy_N = score_tokens(
            hidden_ND,
            batch.targets_N,
            head,
            temperature,
            entropy_gradient=algorithm.entropy_coefficient > 0,
            dtype=dtype,
        )
        loss, policy, clipped_N = token_loss(algorithm, batch, logprobs_N, entropy_N, importance_N)
    else:

        def of_chunk(logprobs_n: Tensor, entropy_n: Tensor, part: slice) -> Tensor:
            return token_loss(algorithm, tokens_of(batch, part), logprobs_n, entropy_n, importance_N[part])[0]

        d_weight = own_gradient(head.weight)
        loss, logprobs_N, entropy_N = head_loss(
            hidden_ND, batch.targets_N, head, temperature, of_chunk, dtype=dtype, d_weight=d_weight
        )
        with torch.no_grad():
            _, policy, clipped_N = token_loss(algorithm, batch, logprobs_N, entropy_N, importance_N)
    value = torch.zeros(())
    kl_N = k1_N = value_clipped_N = torch.zeros_like(logprobs_N)
    if batch.reference_logprobs_N is not None:
        with torch.no_grad():
            kl_N = KL_ESTIMATORS[algorithm.kl_estimator](logprobs_N, batch.reference_logprobs_N)
            k1_N = kl_k1(logprobs_N, batch.reference_logprobs_N)
    if critic is not None:
        assert batch.values_N is not None
        assert batch.returns_N is not None
        values_N = token_values(critic, batch, hidden_ND)
        value, value_clipped_N = value_loss(
            values_N, batch.values_N, batch.returns_N, batch.weights_N, config.critic.value_clip
        )
        loss = loss + (value if critic.trunk is not None else config.critic.value_coefficient * value)
    with torch.no_grad():
        _, shift_N = truncated_importance_weights(logprobs_N, batch.sampler_logprobs_N, algorithm.importance_cap)
        per_token = {
            "clipped": clipped_N,
            "entropy": entropy_N,
            "mismatch": mismatch_N,
            "importance": importance_N,
            "shift": shift_N,
            "kl": kl_N,
            "kl_k1": k1_N,
            "value_clipped": value_clipped_N,
        }
        sums = {"policy_loss": policy, "loss": loss, "value_loss": value}
        sums |= {name: values_N.sum() for name, values_N in per_token.items()}
    return loss, {"tokens": float(len(logprobs_N)), **{name: float(value.detach()) for name, value in sums.items()}}
