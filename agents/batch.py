"""From rollouts to tensors: micro-batches of similar length, and log-probabilities only where a token was sampled.

Rows are padded on the right. A causal model needs no attention mask for that: a real position never sees the
padding behind it, and the padding's own outputs are never read. So attention runs its causal kernel without a mask
tensor. Shape suffixes: `_R` rollouts, `_B` rows of a micro-batch, `_T` positions, `_N` sampled tokens, `_D` hidden
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .hidden import hidden_at
from .rollout import Rollout

HEAD_CHUNK = 4096
"""Sampled tokens whose logits are alive at once; more are computed chunk by chunk and again in the backward pass."""


@dataclass(frozen=True)
class Sample:
    """A rollout as the loss sees it."""

    rollout: Rollout
    advantage: float | NDArray[np.float64]
    """Of each of its sampled tokens; one number where they all have the same."""
    weight: float
    """Weight of each of its sampled tokens in the loss (`losses.token_weights`)."""
    old_logprobs: NDArray[np.float32] | None = None
    """Learner's log-probabilities before this step's updates, one a sampled token; None: take the sampler's."""
    reference_logprobs: NDArray[np.float32] | None = None
    """Log-probabilities under the KL's reference, one a sampled token; None: there is no KL."""
    values: NDArray[np.float32] | None = None
    """The critic's value before each sampled token, before this step's updates; None: there is no critic."""
    returns: NDArray[np.float64] | None = None
    """What those values should have been; None: there is no critic."""

    @property
    def policy_logprobs(self) -> NDArray[np.float32]:
        """Log-probabilities under the policy before this step's updates: the learner's where it has any."""
        if self.old_logprobs is not None:
            return self.old_logprobs
        return self.rollout.logprobs[self.rollout.loss_mask]


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together, and the sampled tokens in them as flat vectors."""

    ids_BT: Tensor
    """Token ids, padded on the right with id 0."""
    rows_N: Tensor
    """Row of each sampled token."""
    positions_N: Tensor
    """Position *before* each sampled token: the one whose output predicts it."""
    targets_N: Tensor
    sampler_logprobs_N: Tensor
    old_logprobs_N: Tensor
    advantages_N: Tensor
    weights_N: Tensor
    reference_logprobs_N: Tensor | None
    """None: there is no KL."""
    values_N: Tensor | None
    """The critic's values before this step's updates. None: there is no critic."""
    returns_N: Tensor | None
    counts_B: tuple[int, ...]
    """Sampled tokens of each row: how to split a vector over N back into rows."""
    tokens: int
    """Real tokens, padding left out."""

    @property
    def rows(self) -> int:
        """Number of rollouts."""
        return len(self.counts_B)


def plan_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of rows grouped so that rows times the longest stays within `max_tokens` (one longer row goes alone).

    Rows are sorted by length, longest first, so that a group holds little padding.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def deal(lengths: Sequence[int], workers: int) -> list[list[int]]:
    """Indices of rows for each worker: sorted by length and dealt back and forth, so that shares cost the same."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    for place, index in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        turn, seat = divmod(place, workers)
        shares[seat if turn % 2 == 0 else workers - 1 - seat].append(index)
    return shares


def make_micro_batch(samples: Sequence[Sample], device: torch.device | str = "cpu") -> MicroBatch:
    """Pads and flattens samples; the shapes are in `MicroBatch`."""
    lengths = [len(sample.rollout.token_ids) for sample in samples]
    ids_BT = np.zeros((len(samples), max(lengths)), dtype=np.int64)
    masks = [np.flatnonzero(sample.rollout.loss_mask) for sample in samples]
    for row, sample in enumerate(samples):
        ids_BT[row, : lengths[row]] = sample.rollout.token_ids
    counts = [len(mask) for mask in masks]
    sampler = [sample.rollout.logprobs[mask] for sample, mask in zip(samples, masks, strict=True)]

    def put(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(array).to(device=device, dtype=dtype)

    def flat(parts: Sequence[NDArray[Any] | None]) -> Tensor | None:
        """One vector, or None where the samples have none."""
        whole = [part for part in parts if part is not None]
        return put(np.concatenate(whole), torch.float32) if whole else None

    rows_N = np.repeat(np.arange(len(samples)), counts)
    places_N = np.concatenate(masks)
    return MicroBatch(
        ids_BT=put(ids_BT, torch.int64),
        rows_N=put(rows_N, torch.int64),
        positions_N=put(places_N - 1, torch.int64),
        targets_N=put(ids_BT[rows_N, places_N], torch.int64),
        sampler_logprobs_N=put(np.concatenate(sampler), torch.float32),
        old_logprobs_N=put(np.concatenate([sample.policy_logprobs for sample in samples]), torch.float32),
        advantages_N=put(
            np.concatenate([np.broadcast_to(s.advantage, n) for s, n in zip(samples, counts, strict=True)]),
            torch.float32,
        ),
        weights_N=put(np.repeat([s.weight for s in samples], counts), torch.float32),
        reference_logprobs_N=flat([sample.reference_logprobs for sample in samples]),
        values_N=flat([sample.values for sample in samples]),
        returns_N=flat([sample.returns for sample in samples]),
        counts_B=tuple(counts),
        tokens=sum(lengths),
    )


def hidden_states(model: Any, batch: MicroBatch) -> Tensor:
    """Final hidden states of a Transformers causal language model before each sampled token, shape `(N, D)`."""
    return hidden_at(model, batch.ids_BT, batch.rows_N, batch.positions_N, batch.counts_B)


def token_logprobs(model: Any, batch: MicroBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of every sampled token, and the entropy of the distribution it was drawn from, both `(N,)`.

    The body of the model runs over everything (its last layer only as far as `hidden_at` must); the vocabulary head
    only over the hidden states that predict a sampled token, so documents and prompts cost no vocabulary work.

    Args:
        model: a Transformers causal language model.
        batch: the micro-batch.
        temperature: what the sampler divided its logits by.

    Returns:
        Log-probabilities with gradient (where gradients are on), and entropies in nats without.
    """
    return score_tokens(hidden_states(model, batch), batch.targets_N, model.get_output_embeddings(), temperature)


def score_tokens(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: torch.nn.Module,
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """The second half of `token_logprobs`: from hidden states on, chunk by chunk.

    Args:
        hidden_ND: hidden states before each sampled token.
        targets_N: the sampled tokens.
        head: the vocabulary head.
        temperature: what the sampler divided its logits by.
        entropy_gradient: whether entropies carry a gradient too; costs one more vector over the vocabulary a token.

    Returns:
        Log-probabilities and entropies (in nats), both `(N,)`.
    """
    if len(targets_N) <= HEAD_CHUNK:
        return _score(hidden_ND, targets_N, head, temperature, entropy_gradient)
    parts = [
        checkpoint(_score, hidden, targets, head, temperature, entropy_gradient, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(HEAD_CHUNK), targets_N.split(HEAD_CHUNK), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _score(
    hidden_ND: Tensor, targets_N: Tensor, head: torch.nn.Module, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of targets and entropies from hidden states."""
    logits_NV = head(hidden_ND).float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    normaliser_N = torch.logsumexp(logits_NV, dim=-1)
    logprobs_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - normaliser_N
    if entropy_gradient:
        probabilities_NV = (logits_NV - normaliser_N[:, None]).exp()
        return logprobs_N, normaliser_N - (probabilities_NV * logits_NV).sum(-1)
    with torch.no_grad():
        probabilities_NV = (logits_NV - normaliser_N[:, None]).exp_()
        entropy_N = normaliser_N - probabilities_NV.mul_(logits_NV).sum(-1)
    return logprobs_N, entropy_N
