"""From rollouts to tensors: micro-batches, and hidden states and log-probabilities at the sampled tokens only.

The mode of a micro-batch decides how it goes through the model. Packed: its rollouts are concatenated, without padding
(`packed.py`), and what they have in common at their start is computed once (`prefixes.py`). Padded: rows of similar
length form a batch, with padding on the right. A causal model needs no attention mask for that, because a real position
never sees the padding after it, and the outputs at padding are never read. So attention can use its causal kernel
without a mask tensor.

Shape suffixes: `_R` rollouts, `_B` rows of a micro-batch, `_T` positions, `_N` sampled tokens, `_D` hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..rollouts.rollout import Rollout
from .head import score_tokens
from .mode import ForwardMode, transformers_hidden
from .packed import packed_hidden
from .prefixes import sort_by_prefix


@dataclass(frozen=True)
class Sample:
    """A rollout with everything that the loss needs."""

    rollout: Rollout
    advantage: float | NDArray[np.float64]
    """Advantage of each sampled token, or one number for all of them."""
    weight: float
    """Weight of each of its sampled tokens in the loss (`losses.token_weights`)."""
    old_logprobs: NDArray[np.float32] | None = None
    """Learner's log-probabilities before this step's updates, one per sampled token; None: use the sampler's."""
    reference_logprobs: NDArray[np.float32] | None = None
    """Log-probabilities under the KL's reference, one per sampled token; None without a KL."""
    values: NDArray[np.float32] | None = None
    """The critic's value before each sampled token, before this step's updates; None without a critic."""
    returns: NDArray[np.float64] | None = None
    """The targets of these values; None without a critic."""

    @property
    def policy_logprobs(self) -> NDArray[np.float32]:
        """Log-probabilities under the policy before this step's updates: the learner's if known, else the sampler's."""
        if self.old_logprobs is not None:
            return self.old_logprobs
        return self.rollout.logprobs[self.rollout.loss_mask]


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together, with vectors over all their sampled tokens."""

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
    """None without a KL."""
    values_N: Tensor | None
    """The critic's values before this step's updates; None without a critic."""
    returns_N: Tensor | None
    lengths_B: tuple[int, ...]
    """Real tokens of each row."""
    counts_B: tuple[int, ...]
    """Sampled tokens of each row: the sizes for splitting a vector over N into rows."""
    mode: ForwardMode = field(default_factory=ForwardMode)
    """How it goes through the model."""

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return sum(self.lengths_B)

    @property
    def rows(self) -> int:
        """Number of rollouts."""
        return len(self.counts_B)


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups indices so that each group has at most `max_tokens` tokens (a longer row gets its own group).

    First fit, longest first: within 22 % of the fewest groups possible (Dosa, 2007).
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((g for g, left in enumerate(room) if left >= lengths[index]), None)
        if place is None:
            groups.append([index])
            room.append(max_tokens - lengths[index])
        else:
            groups[place].append(index)
            room[place] -= lengths[index]
    return groups


def plan_micro_batches(lengths: Sequence[int], max_tokens: int, *, packed: bool = False) -> list[list[int]]:
    """Groups rows so that rows * longest row is at most `max_tokens` (a longer row gets its own group).

    Rows are sorted by length, longest first, so groups have little padding. With `packed`, only real tokens count
    (`pack`).
    """
    if packed:
        return pack(lengths, max_tokens)
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def plan_passes(
    rows: Sequence[NDArray[Any]], max_tokens: int, mode: ForwardMode, workers: int = 1
) -> list[list[list[int]]]:
    """Divides rows among workers and into micro-batches of at most `max_tokens` tokens (a longer row goes alone).

    With packing "sequences", rows with a common prefix stay together and the prefix counts once.

    Args:
        rows: token ids of each row.
        max_tokens: maximum tokens that go through the model together.
        mode: how they go through it.
        workers: number of workers; one that gets no row has no micro-batch.

    Returns:
        For each worker its micro-batches, as lists of row indices.
    """
    lengths = [len(row) for row in rows]
    if mode.packing != "sequences":
        return [
            [
                [share[i] for i in part]
                for part in plan_micro_batches([lengths[i] for i in share], max_tokens, packed=mode.packed)
            ]
            for share in deal(lengths, workers)
        ]
    order, shared = sort_by_prefix(rows)
    new = np.array([lengths[i] for i in order]) - shared
    # Equal work for all: the worker of a row is that of its middle token. Only a prefix across a border costs twice.
    owners = np.minimum((np.cumsum(new) - new / 2) * workers // new.sum(), workers - 1)
    plans = []
    for worker in range(workers):
        runs: list[list[int]] = []
        costs: list[int] = []
        for place in np.flatnonzero(owners == worker):
            index, cost = order[place], int(new[place])
            if runs and shared[place] and costs[-1] + cost <= max_tokens:
                runs[-1].append(index)
                costs[-1] += cost
            else:
                runs.append([index])
                costs.append(lengths[index])
        plans.append([[index for run in part for index in runs[run]] for part in pack(costs, max_tokens)])
    return plans


def deal(lengths: Sequence[int], workers: int) -> list[list[int]]:
    """Row indices for each worker: rows are sorted by length and dealt back and forth to balance the cost."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    for place, index in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        turn, seat = divmod(place, workers)
        shares[seat if turn % 2 == 0 else workers - 1 - seat].append(index)
    return shares


def make_micro_batch(
    samples: Sequence[Sample], device: torch.device | str = "cpu", mode: ForwardMode | None = None
) -> MicroBatch:
    """Pads and flattens samples; `MicroBatch` lists the shapes."""
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
        """One vector, or None if the samples have none."""
        arrays = [part for part in parts if part is not None]
        return put(np.concatenate(arrays), torch.float32) if arrays else None

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
        lengths_B=tuple(lengths),
        counts_B=tuple(counts),
        mode=ForwardMode() if mode is None else mode,
    )


def hidden_states(model: Any, batch: MicroBatch) -> Tensor:
    """Final hidden states of a Transformers causal language model before each sampled token, shape `(N, D)`."""
    mode, lengths = batch.mode, list(batch.lengths_B)
    if not mode.packed:
        with _checkpointing(model, mode):
            return transformers_hidden(model, batch.ids_BT, None, mode.dtype)[batch.rows_N, batch.positions_N]
    ids_T = torch.cat([row[:length] for row, length in zip(batch.ids_BT, lengths, strict=True)])
    if mode.packing == "sequences":
        read = [positions_n.numpy() for positions_n in batch.positions_N.cpu().split(list(batch.counts_B))]
        return packed_hidden(
            model, ids_T, lengths, read, dtype=mode.dtype, checkpointing=mode.checkpointing and _differentiates()
        )
    starts_B = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    places_N = batch.positions_N + torch.from_numpy(starts_B).to(batch.rows_N.device)[batch.rows_N]
    with _checkpointing(model, mode):
        return transformers_hidden(model, ids_T[None], lengths, mode.dtype)[0, places_N]


def _differentiates() -> bool:
    return torch.is_grad_enabled()


@contextmanager
def _checkpointing(model: Any, mode: ForwardMode) -> Iterator[None]:
    """Training mode for one forward pass: Transformers checkpoints only then. Undone for the sampler."""
    if not (mode.checkpointing and _differentiates()):
        yield
        return
    model.train()
    try:
        yield
    finally:
        model.eval()


def token_logprobs(model: Any, batch: MicroBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of every sampled token, and the entropy of its distribution in nats, both `(N,)`.

    The body of the model runs over all tokens. The vocabulary head runs only over hidden states that predict a sampled
    token, so documents and prompts cost no vocabulary work.

    Args:
        model: a Transformers causal language model.
        batch: the micro-batch.
        temperature: the sampling temperature; logits are divided by it.

    Returns:
        Log-probabilities with gradient (if gradients are enabled), and entropies in nats without gradient.
    """
    head = model.get_output_embeddings()
    return score_tokens(hidden_states(model, batch), batch.targets_N, head, temperature, dtype=batch.mode.dtype)
