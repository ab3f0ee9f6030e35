"""Gradient-free forward passes over a step's rollouts: log-probabilities and values before any update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..forward.batch import MicroBatch, Sample, hidden_states, make_micro_batch
from ..forward.fsdp import drop_full_weights
from ..forward.head import cross_entropy
from .critic import token_values
from .update import Learner, my_micro_batches, reference_model


def compute_logprobs(learner: Learner, groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
    """Adds the vectors that the configuration needs to the samples; all workers compute them together.

    These are the learner's own log-probabilities (`recompute_logprobs`), those of the KL's reference, and the critic's
    values. If none of them is needed, no model runs.
    """
    if not (learner.config.algorithm.recompute_logprobs or learner.reference is not None or learner.critic is not None):
        return [list(group) for group in groups]
    flat = [(g, i) for g, group in enumerate(groups) for i in range(len(group))]
    scored: dict[tuple[int, int], dict[str, NDArray[np.float32]]] = {}
    mine, fillers = my_micro_batches(learner, [groups[g][i] for g, i in flat]) if flat else ([], [])
    for part in mine:
        keys = [flat[i] for i in part]
        batch = make_micro_batch([groups[g][i] for g, i in keys], learner.gradient.device, learner.mode)
        vectors = {
            name: [row.numpy() for row in vector_N.cpu().split(list(batch.counts_B))]
            for name, vector_N in _score_batch(learner, batch).items()
        }
        for place, key in enumerate(keys):
            scored[key] = {name: rows[place] for name, rows in vectors.items()}
    for index in fillers:
        g, i = flat[index]
        _score_batch(learner, make_micro_batch([groups[g][i]], learner.gradient.device, learner.mode))
    trunk = None if learner.critic is None else learner.critic.trunk
    drop_full_weights([learner.policy.model, learner.reference, trunk])
    everyone = {key: value for theirs in learner.workers.gather(scored) for key, value in theirs.items()}
    return [[replace(sample, **everyone[g, i]) for i, sample in enumerate(group)] for g, group in enumerate(groups)]


@torch.no_grad()
def _score_batch(learner: Learner, batch: MicroBatch) -> dict[str, Tensor]:
    """Vectors over the sampled tokens of a micro-batch, keyed by their field of `Sample`."""
    model, critic, temperature = learner.policy.model, learner.critic, learner.config.rollout.temperature
    targets_N, dtype = batch.targets_N, batch.mode.dtype
    vectors: dict[str, Tensor] = {}
    hidden_ND: Tensor | None = None
    if learner.config.algorithm.recompute_logprobs or (critic is not None and critic.trunk is None):
        hidden_ND = hidden_states(model, batch)
    if learner.config.algorithm.recompute_logprobs:
        assert hidden_ND is not None
        head = model.get_output_embeddings()
        vectors["old_logprobs"] = -cross_entropy(hidden_ND, targets_N, head, temperature, dtype)
    if learner.reference is not None:
        with reference_model(learner) as reference:
            head = reference.get_output_embeddings()
            hidden = hidden_states(reference, batch)
            vectors["reference_logprobs"] = -cross_entropy(hidden, targets_N, head, temperature, dtype)
    if critic is not None:
        vectors["values"] = token_values(critic, batch, hidden_ND)
    return vectors
