"""The learner's state, and the optimizer update, the last part of a training step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.engines import SearchEngine
from zerosearch_env.errors import TrainingError
from zerosearch_env.game.noise_kinds import NoiseKinds
from zerosearch_env.game.rules import Rules
from zerosearch_env.types import Dataset

from ..config.train import TrainConfig
from ..forward.batch import Sample, make_micro_batch, plan_passes
from ..forward.fsdp import Place, copy_weights, gradient_norm
from ..forward.mode import ForwardMode
from ..objective.losses import token_weights
from ..policy.lora import Adapter
from ..policy.policy import Policy
from ..processes.workers import Workers
from ..rollouts.async_rollouts import AsyncRollouts
from ..sampling.protocol import TurnSampler
from .critic import Critic, critic_rate, make_critic
from .held_out import HeldOut
from .loss import SUMS, loss_and_sums
from .optimizer import clip_and_step

NO_SIGNAL = 1e-8
"""Advantages up to this size count as zero: rounding errors in a group of equal rewards."""
MAX_SKIPPED = 5
"""The run stops after this many consecutive updates whose gradient is not finite."""


@dataclass
class Learner:
    """Everything a training step needs. Only the policy, the optimizer and the sampler hold mutable state."""

    config: TrainConfig
    policy: Policy
    reference: Any | None
    """A frozen copy of the initial model; with adapters the policy's own model, accessed through `reference_model`;
    None without a KL term."""
    optimizer: torch.optim.Optimizer
    gradient: Tensor
    """All gradients in one flat vector; every parameter's `.grad` is a view into it."""
    sampler: TurnSampler
    engine: SearchEngine
    dataset: Dataset
    rules: Rules
    schedule: Callable[[float], float]
    """Progress in [0, 1] -> probability of a noisy search."""
    noise_kinds: NoiseKinds
    """What noisy searches return, in stages over the run."""
    workers: Workers
    critic: Critic | None = None
    """The value function of advantage "gae"; None if the algorithm has no critic."""
    mode: ForwardMode = field(default_factory=ForwardMode)
    """How rollouts go through the models."""
    adapter: Adapter | None = None
    """The LoRA adapters; None if the whole model is trained."""
    full_copy: Any | None = None
    """The unsharded copy of a sharded policy's model, used by the sampler; None if the policy is not sharded."""
    async_rollouts: AsyncRollouts | None = None
    """Plays episodes of later steps in advance, with the sampler; None if every step is on-policy."""
    held_out: HeldOut | None = None
    """The questions of the evaluations during the run; None without evaluations."""
    owns_engine: bool = False
    """Whether the engine was made from the configuration and is closed with the learner."""
    skipped: int = 0
    """Number of consecutive updates that were skipped."""

    def close(self) -> None:
        """Abandons running episodes and releases the resources of the sampler and of the learner's own engine."""
        with contextlib.ExitStack() as stack:
            if self.owns_engine:
                stack.callback(self.engine.close)
            if self.held_out is not None:
                stack.callback(self.held_out.close)
            stack.callback(self.sampler.close)
            if self.async_rollouts is not None:
                stack.callback(self.async_rollouts.close)


@dataclass(frozen=True)
class UpdateStats:
    """Statistics of one update: sums over its trained tokens on all workers, gradient norms, number of rollouts."""

    sums: dict[str, float]
    gradient_norm: float
    critic_gradient_norm: float
    """0 if there is no critic."""
    rollouts: int
    applied: bool


def make_reference(policy: Policy, config: TrainConfig) -> Any | None:
    """A frozen copy of the model, or the model itself if adapters are trained; None without a KL term."""
    if config.algorithm.kl_coefficient <= 0:
        return None
    if config.lora.rank:
        return policy.model
    return copy.deepcopy(policy.model).requires_grad_(False).eval()


@contextmanager
def reference_model(learner: Learner) -> Iterator[Any]:
    """The KL's reference model inside a `with` block; with adapters, the policy with its adapters switched off."""
    with contextlib.nullcontext() if learner.adapter is None else learner.adapter.switched_off():
        yield learner.reference


def pause_sampler(learner: Learner) -> None:
    """Let the sampler check its samples before they are used for training, and free memory."""
    with contextlib.nullcontext() if learner.async_rollouts is None else learner.async_rollouts.paused():
        learner.sampler.before_training()


def refresh_sampler(learner: Learner, version: int) -> None:
    """Copy the policy's weights, with adapters merged, to the sampler. All workers must call this together.

    Turns sampled in advance since the last check are checked first: afterwards the weights they came from are gone.

    Args:
        learner: its sampler takes over its policy's weights.
        version: version number of the weights: the number of finished steps.
    """
    if learner.adapter is not None:
        learner.adapter.merge()
    if learner.full_copy is not None:
        copy_weights(learner.policy.model, learner.full_copy)
    if learner.async_rollouts is None:
        learner.sampler.refresh(version)
        return
    with learner.async_rollouts.paused():
        learner.workers.gather(None)  # from here on, no worker starts another turn
        learner.sampler.before_training()
        learner.sampler.refresh(version)


class Models(NamedTuple):
    """The models of a run."""

    policy: Any
    reference: Any | None
    critic: Critic | None


def make_models(policy: Policy, config: TrainConfig, place: Place | None = None) -> Models:
    """The models of a new run.

    Args:
        policy: the initial policy.
        config: determines whether there are a reference and a critic.
        place: shards a model (`fsdp.make_place`). The policy's own model is then left unchanged for the sampler, and
            copies of it are sharded one by one, so at most two models are unsharded at a time. None: the policy's
            model itself is trained.
    """
    reference = make_reference(policy, config)
    if place is not None and reference is not None:
        place(reference)
    critic = make_critic(policy, config, place)
    model: Any = policy.model
    if place is not None:
        model = copy.deepcopy(model)
        place(model)
    return Models(model, reference, critic)


def update(
    learner: Learner, samples: Sequence[Sample], rate: float, *, critic_only: bool = False
) -> UpdateStats | None:
    """One optimizer update from one mini-batch, with the work divided among the workers.

    A rollout with zero advantages has no gradient unless there is a KL, an entropy or a value loss. It counts in the
    normaliser, but its forward pass is skipped. If no rollout is left, nothing changes and None is returned.

    Args:
        learner: its policy, critic and their optimizers are modified.
        samples: the mini-batch.
        rate: the policy's learning rate.
        critic_only: update only the critic's own parameters, not the policy.

    Raises:
        TrainingError: the gradient was not finite in `MAX_SKIPPED` consecutive updates.
    """
    algorithm, settings, workers, critic = (
        learner.config.algorithm,
        learner.config.optimizer,
        learner.workers,
        learner.critic,
    )
    lengths_R = np.array([sample.rollout.sampled_tokens for sample in samples], dtype=np.int64)
    constant = algorithm.constant_length or learner.sampler.context_tokens
    weights_R = token_weights(lengths_R, algorithm.aggregation, constant)
    everyone = _has_other_losses(learner)
    live = [
        replace(sample, weight=float(weight))
        for sample, weight in zip(samples, weights_R, strict=True)
        if everyone or np.max(np.abs(sample.advantage)) > NO_SIGNAL
    ]
    if not live:
        return None
    gradients = [learner.gradient] if critic is None else [learner.gradient, critic.gradient]
    for gradient in gradients:
        gradient.zero_()
    sharded = [learner.full_copy is not None] if critic is None else [learner.full_copy is not None, critic.sharded]
    mine, fillers = my_micro_batches(learner, live)
    sums = dict.fromkeys(SUMS, 0.0)
    for part in mine:
        batch = make_micro_batch([live[i] for i in part], learner.gradient.device, learner.mode)
        loss, part_sums = loss_and_sums(learner.policy.model, critic, learner.config, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        sums = {name: value + part_sums[name] for name, value in sums.items()}
    for index in fillers:
        batch = make_micro_batch([replace(live[index], weight=0.0)], learner.gradient.device, learner.mode)
        loss, _ = loss_and_sums(learner.policy.model, critic, learner.config, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    for gradient, summed in zip(gradients, sharded, strict=True):
        if not summed:  # FSDP has summed it in the backward pass
            workers.add(gradient)
    sums = workers.add_up(sums)
    norms = [
        gradient_norm(gradient, workers, sharded=parts) for gradient, parts in zip(gradients, sharded, strict=True)
    ]
    applied = bool(np.isfinite(norms).all())
    learner.skipped = 0 if applied else learner.skipped + 1
    if learner.skipped >= MAX_SKIPPED and not learner.config.alarms.ends_skipping:
        raise TrainingError(f"the gradient was not finite in {MAX_SKIPPED} updates in a row; lower the learning rate.")
    if applied and not critic_only:
        clip_and_step(learner.optimizer, learner.gradient, norms[0], settings.max_grad_norm, rate)
    if applied and critic is not None:
        critics_rate = critic_rate(learner.config, rate)
        clip_and_step(critic.optimizer, critic.gradient, norms[1], settings.max_grad_norm, critics_rate)
    return UpdateStats(sums, norms[0], sum(norms[1:]), len(live), applied)


def my_micro_batches(learner: Learner, samples: Sequence[Sample]) -> tuple[list[list[int]], list[int]]:
    """This worker's micro-batches, and filler rollouts that keep sharded workers in step.

    Workers that share a sharded model gather its weights together, so all of them must run the same number of forward
    passes. A worker with fewer micro-batches runs the shortest rollout again, with weight zero or ignoring the result.

    Args:
        learner: its workers, and the maximum tokens per micro-batch.
        samples: the rollouts of all workers, at least one.

    Returns:
        The micro-batches as lists of indices, and the indices of the fillers (empty if nothing is sharded).
    """
    rows = [sample.rollout.token_ids for sample in samples]
    workers, most = learner.workers, learner.config.optimizer.micro_batch_tokens
    plans = plan_passes(rows, most, learner.mode, workers.size)
    mine = plans[workers.rank]
    if learner.full_copy is None:
        return mine, []
    shortest = min(range(len(rows)), key=lambda index: len(rows[index]))
    return mine, [shortest] * (max(map(len, plans)) - len(mine))


def _has_other_losses(learner: Learner) -> bool:
    """Whether rollouts with zero advantages have a gradient from another term of the loss."""
    algorithm = learner.config.algorithm
    kl = algorithm.kl_coefficient > 0.0 and algorithm.kl_in == "loss"
    return kl or algorithm.entropy_coefficient > 0.0 or learner.critic is not None


def update_metrics(learner: Learner, stats: Sequence[UpdateStats], rate: float) -> dict[str, float]:
    """The metrics of a step computed from its updates (formulas: `docs/metrics.md`)."""
    algorithm = learner.config.algorithm
    metrics = {
        "learning_rate": rate,
        "updates": float(sum(stat.applied for stat in stats)),
        "skipped_updates": float(sum(not stat.applied for stat in stats)),
        "trained_rollouts": float(sum(stat.rollouts for stat in stats)),
    }
    tokens = sum(stat.sums["tokens"] for stat in stats)
    if not tokens:
        return metrics

    def mean(name: str) -> float:
        return sum(stat.sums[name] for stat in stats) / tokens

    metrics |= {name: float(np.mean([stat.sums[name] for stat in stats])) for name in ("loss", "policy_loss")}
    metrics |= {"clip_fraction": mean("clipped"), "entropy": mean("entropy")}
    metrics["gradient_norm"] = float(np.mean([stat.gradient_norm for stat in stats]))
    metrics["update_kl"] = stats[-1].sums["shift"] / stats[-1].sums["tokens"]
    if algorithm.recompute_logprobs:
        metrics |= {"mismatch_kl": mean("mismatch"), "importance_weight": mean("importance")}
    else:  # only at the first update are the weights still those that sampled
        metrics["mismatch_kl"] = stats[0].sums["shift"] / stats[0].sums["tokens"]
    if learner.reference is not None:
        metrics |= {"kl": mean("kl"), "kl_k1": mean("kl_k1")}
    if learner.critic is not None:
        metrics["value_loss"] = float(np.mean([stat.sums["value_loss"] for stat in stats]))
        metrics["value_clip_fraction"] = mean("value_clipped")
        metrics["critic_gradient_norm"] = float(np.mean([stat.critic_gradient_norm for stat in stats]))
    return metrics
