"""The learner's state, and the three parts of a training step: sample, weigh, update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.engines import SearchEngine
from zerosearch_env.episode import Episode, Rules
from zerosearch_env.errors import TrainingError
from zerosearch_env.types import Question

from .advantages import get_advantage
from .batch import MicroBatch, Sample, deal, make_micro_batch, plan_micro_batches, token_logprobs
from .config import TrainConfig
from .curriculum import sampling_seed
from .losses import (
    KL_ESTIMATORS,
    clipped_policy_loss,
    kl_k1,
    policy_loss_with_kl,
    token_weights,
    truncated_importance_weights,
)
from .model import Policy
from .rollout import Rollout, rollout
from .sampler import Sampler
from .team import Team

NO_SIGNAL = 1e-8
"""Advantages up to this are rounding of zero: a group of equal rewards."""
MAX_SKIPPED = 5
"""Updates in a row whose gradient may be not finite before the run stops."""


@dataclass
class Learner:
    """Everything a training step needs. The only mutable state is in the policy, the optimizer and the sampler."""

    config: TrainConfig
    policy: Policy
    reference: Any | None
    """A frozen copy of the initial model; None without a KL term."""
    optimizer: torch.optim.AdamW
    gradient: Tensor
    """All gradients as one flat vector, which every parameter's `.grad` is a view of."""
    sampler: Sampler
    engine: SearchEngine
    questions: Sequence[Question]
    rules: Rules
    schedule: Callable[[float], float]
    team: Team
    skipped: int = 0
    """Updates in a row that were left out."""


@dataclass(frozen=True)
class UpdateStats:
    """Sums over the trained tokens of one update, over all workers, and what the update did."""

    sums: dict[str, float]
    gradient_norm: float
    rollouts: int
    applied: bool


def make_reference(policy: Policy) -> Any:
    """A frozen copy of the model."""
    return copy.deepcopy(policy.model).requires_grad_(False).eval()


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves out norms and biases (everything with one dimension)."""
    settings = config.optimizer
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """Points every parameter's gradient into one flat vector of zeros, so that it is summed and measured in one go."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float32, device=parameters[0].device)
    offset = 0
    for parameter in parameters:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return flat


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then a straight line to `final_fraction` of the peak at the last step."""
    settings = config.optimizer
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(config.steps - 1 - settings.warmup_steps, 1)
    return settings.learning_rate * (1.0 - (1.0 - settings.final_fraction) * min(done, 1.0))


def sample_groups(learner: Learner, groups: Sequence[Sequence[Episode]], step: int) -> list[list[Rollout]]:
    """Plays the groups, each worker every W-th one, and returns all of them in every worker."""
    team, seed = learner.team, learner.config.seed
    mine = range(team.rank, len(groups), team.size)
    flat = [(slot, member) for slot in mine for member in range(len(groups[slot]))]
    played = rollout(
        [groups[slot][member] for slot, member in flat],
        learner.engine,
        learner.sampler,
        learner.policy.tokenizer,
        seeds=[sampling_seed(seed, step, slot, member) for slot, member in flat],
        chat=learner.policy.card.chat,
    )
    found: dict[tuple[int, int], Rollout] = dict(zip(flat, played, strict=True))
    for rank, theirs in enumerate(learner.team.gather({k: replace(r, episode=None) for k, r in found.items()})):
        if rank != team.rank:
            found |= theirs
    return [[found[slot, member] for member in range(len(group))] for slot, group in enumerate(groups)]


def weigh(learner: Learner, groups: Sequence[Sequence[Rollout]]) -> list[list[Sample]]:
    """Gives every rollout its advantage; failed ones are left out of the groups and of every mean.

    Raises:
        TrainingError: when no rollout of the step can be trained on; the message holds the engine's error.
    """
    kept = [(index, rollout) for index, group in enumerate(groups) for rollout in group if rollout.trainable]
    if not kept:
        errors = [rollout.error for group in groups for rollout in group if rollout.error]
        reason = f"every search failed: {errors[0]}" if errors else "no prompt fits into context_tokens"
        raise TrainingError(f"no rollout of this step can be trained on: {reason}.")
    rewards = np.array([rollout.scores.reward for _, rollout in kept], dtype=np.float64)
    advantages = get_advantage(learner.config.algorithm.advantage)(rewards, np.array([index for index, _ in kept]))
    samples: list[list[Sample]] = [[] for _ in groups]
    for (index, one), advantage in zip(kept, advantages, strict=True):
        samples[index].append(Sample(one, float(advantage), 0.0))
    return samples


def add_old_logprobs(learner: Learner, groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
    """The samples with the learner's own log-probabilities before any update, computed by all workers together."""
    flat = [(g, i) for g, group in enumerate(groups) for i in range(len(group))]
    lengths = [len(groups[g][i].rollout.token_ids) for g, i in flat]
    found: dict[tuple[int, int], Any] = {}
    mine = deal(lengths, learner.team.size)[learner.team.rank]
    limit = learner.config.optimizer.micro_batch_tokens
    for part in plan_micro_batches([lengths[i] for i in mine], limit):
        keys = [flat[mine[i]] for i in part]
        batch = make_micro_batch([groups[g][i] for g, i in keys], learner.gradient.device)
        with torch.no_grad():
            logprobs_N, _ = token_logprobs(learner.policy.model, batch, learner.config.rollout.temperature)
        for key, row in zip(keys, logprobs_N.cpu().split(list(batch.counts_B)), strict=True):
            found[key] = row.numpy()
    everyone = {key: value for theirs in learner.team.gather(found) for key, value in theirs.items()}
    return [
        [replace(sample, old_logprobs=everyone[g, i]) for i, sample in enumerate(group)]
        for g, group in enumerate(groups)
    ]


def update(learner: Learner, samples: Sequence[Sample], rate: float) -> UpdateStats | None:
    """One optimizer update from one mini-batch, its work dealt to the workers.

    A rollout whose advantage is zero has no gradient unless there is a KL term: it counts in the normaliser and is not
    computed. None is returned, and nothing changes, when no rollout is left.

    Raises:
        TrainingError: when the gradient was not finite several times in a row.
    """
    algorithm, settings, team = learner.config.algorithm, learner.config.optimizer, learner.team
    lengths_R = np.array([sample.rollout.sampled_tokens for sample in samples], dtype=np.int64)
    weights_R = token_weights(lengths_R, algorithm.aggregation, learner.sampler.context_tokens)
    live = [
        replace(sample, weight=float(weight))
        for sample, weight in zip(samples, weights_R, strict=True)
        if abs(sample.advantage) > NO_SIGNAL or algorithm.kl_coefficient > 0.0
    ]
    if not live:
        return None
    learner.gradient.zero_()
    mine = [live[i] for i in deal([len(sample.rollout.token_ids) for sample in live], team.size)[team.rank]]
    sums = torch.zeros(len(_SUMS), dtype=torch.float64)
    for part in plan_micro_batches([len(s.rollout.token_ids) for s in mine], settings.micro_batch_tokens):
        batch = make_micro_batch([mine[i] for i in part], learner.gradient.device)
        loss, part_sums = loss_and_sums(learner, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        sums += part_sums
    team.add(learner.gradient)
    team.add(sums)
    norm = float(learner.gradient.norm())
    applied = bool(np.isfinite(norm))
    learner.skipped = 0 if applied else learner.skipped + 1
    if learner.skipped >= MAX_SKIPPED:
        raise TrainingError(f"the gradient was not finite in {MAX_SKIPPED} updates in a row; lower the learning rate.")
    if applied:
        learner.gradient.mul_(min(1.0, settings.max_grad_norm / (norm + 1e-6)))
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        learner.optimizer.step()
    return UpdateStats(dict(zip(_SUMS, sums.tolist(), strict=True)), norm, len(live), applied)


_SUMS = ("tokens", "policy_loss", "loss", "clipped", "entropy", "mismatch", "importance", "shift", "kl", "kl_k1")


def loss_and_sums(learner: Learner, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """The loss of a micro-batch (its share of the mini-batch's), and the sums for the metrics in order of `_SUMS`."""
    algorithm, temperature = learner.config.algorithm, learner.config.rollout.temperature
    logprobs_N, entropy_N = token_logprobs(learner.policy.model, batch, temperature)
    importance_N, mismatch_N = truncated_importance_weights(
        batch.old_logprobs_N, batch.sampler_logprobs_N, algorithm.importance_cap
    )
    policy_loss, clipped_N = clipped_policy_loss(
        logprobs_N,
        batch.old_logprobs_N,
        batch.advantages_N,
        batch.weights_N * importance_N,
        algorithm.clip_low,
        algorithm.clip_high,
    )
    loss = policy_loss
    kl_N = k1_N = torch.zeros_like(logprobs_N)
    if learner.reference is not None:
        with torch.no_grad():
            reference_N, _ = token_logprobs(learner.reference, batch, temperature)
        kl_N, k1_N = KL_ESTIMATORS[algorithm.kl_estimator](logprobs_N, reference_N), kl_k1(logprobs_N, reference_N)
        loss = policy_loss_with_kl(policy_loss, kl_N, batch.weights_N, algorithm.kl_coefficient)
    with torch.no_grad():
        _, shift_N = truncated_importance_weights(logprobs_N, batch.sampler_logprobs_N, algorithm.importance_cap)
        per_token = (clipped_N, entropy_N, mismatch_N, importance_N, shift_N, kl_N, k1_N)
        values = [policy_loss, loss, *(value_N.sum() for value_N in per_token)]
        sums = torch.stack([torch.tensor(float(len(logprobs_N))), *(value.detach().cpu() for value in values)])
    return loss, sums.double()


def update_metrics(learner: Learner, stats: Sequence[UpdateStats], rate: float) -> dict[str, float]:
    """The metrics of a step that come from its updates (formulas: `metrics.GLOSSARY`)."""
    algorithm = learner.config.algorithm
    metrics = {
        "learning_rate": rate,
        "updates": float(sum(one.applied for one in stats)),
        "skipped_updates": float(sum(not one.applied for one in stats)),
        "trained_rollouts": float(sum(one.rollouts for one in stats)),
    }
    tokens = sum(one.sums["tokens"] for one in stats)
    if not tokens:
        return metrics

    def mean(name: str) -> float:
        return sum(one.sums[name] for one in stats) / tokens

    metrics |= {name: float(np.mean([one.sums[name] for one in stats])) for name in ("loss", "policy_loss")}
    metrics |= {"clip_fraction": mean("clipped"), "entropy": mean("entropy")}
    metrics["gradient_norm"] = float(np.mean([one.gradient_norm for one in stats]))
    metrics["update_kl"] = stats[-1].sums["shift"] / stats[-1].sums["tokens"]
    if algorithm.recompute_logprobs:
        metrics |= {"mismatch_kl": mean("mismatch"), "importance_weight": mean("importance")}
    else:  # only the first update still has the weights that sampled
        metrics["mismatch_kl"] = stats[0].sums["shift"] / stats[0].sums["tokens"]
    if learner.reference is not None:
        metrics |= {"kl": mean("kl"), "kl_k1": mean("kl_k1")}
    return metrics
