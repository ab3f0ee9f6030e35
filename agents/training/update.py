"""The learner's state, and the last part of a training step: the update."""

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
from zerosearch_env.game.episode import Rules
from zerosearch_env.types import Question

from ..config.train import TrainConfig
from ..forward.batch import Sample, deal, make_micro_batch, plan_micro_batches
from ..forward.fsdp import Place, copy_weights, gradient_norm
from ..forward.mode import ForwardMode
from ..objective.losses import token_weights
from ..policy.lora import Adapter
from ..policy.policy import Policy
from ..processes.workers import Workers
from ..rollouts.async_rollouts import AsyncRollouts
from ..sampling.protocol import TurnSampler
from .critic import Critic, critic_rate, make_critic
from .loss import SUMS, loss_and_sums
from .optimizer import clip_and_step

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
    """A frozen copy of the initial model; with adapters the policy's own model, to be read through `reference_model`;
    None without a KL term."""
    optimizer: torch.optim.Optimizer
    gradient: Tensor
    """All gradients as one flat vector, which every parameter's `.grad` is a view of."""
    sampler: TurnSampler
    engine: SearchEngine
    questions: Sequence[Question]
    rules: Rules
    schedule: Callable[[float], float]
    workers: Workers
    critic: Critic | None = None
    """The value function of advantage "gae"; None: the algorithm has none."""
    mode: ForwardMode = field(default_factory=ForwardMode)
    """How rollouts go through the models."""
    adapter: Adapter | None = None
    """The low-rank adapters; None: the whole model is trained."""
    full_copy: Any | None = None
    """The whole copy of a sharded policy's model, which the sampler reads; None: the policy is not sharded."""
    ahead: AsyncRollouts | None = None
    """Plays the episodes of later steps, with the sampler; None: every step is on-policy."""
    skipped: int = 0
    """Updates in a row that were left out."""

    def close(self) -> None:
        """Drops what is in play and releases what the sampler holds."""
        try:
            if self.ahead is not None:
                self.ahead.close()
        finally:
            self.sampler.close()


@dataclass(frozen=True)
class UpdateStats:
    """Sums over the trained tokens of one update, over all workers, and what the update did."""

    sums: dict[str, float]
    gradient_norm: float
    critic_gradient_norm: float
    """0 without a critic."""
    rollouts: int
    applied: bool


def make_reference(policy: Policy, config: TrainConfig) -> Any | None:
    """A frozen copy of the model, or with adapters the model itself; None without a KL term."""
    if config.algorithm.kl_coefficient <= 0:
        return None
    if config.lora.rank:
        return policy.model
    return copy.deepcopy(policy.model).requires_grad_(False).eval()


@contextmanager
def reference_model(learner: Learner) -> Iterator[Any]:
    """The KL's reference, for as long as the block lasts: with adapters the policy with these switched off."""
    with contextlib.nullcontext() if learner.adapter is None else learner.adapter.switched_off():
        yield learner.reference


def pause_sampler(learner: Learner) -> None:
    """Let the sampler check what it has sampled, before anything is trained on it, and free what it can."""
    with contextlib.nullcontext() if learner.ahead is None else learner.ahead.paused():
        learner.sampler.before_training()


def refresh_sampler(learner: Learner, version: int) -> None:
    """Let the sampler take over the policy's weights, adapters merged in; all workers call this together.

    What was sampled ahead meanwhile is checked first: afterwards nobody can tell whose weights it is from.

    Args:
        learner: whose sampler and weights.
        version: of the weights: the steps finished.
    """
    if learner.adapter is not None:
        learner.adapter.merge()
    if learner.full_copy is not None:
        copy_weights(learner.policy.model, learner.full_copy)
    if learner.ahead is None:
        learner.sampler.refresh(version)
        return
    with learner.ahead.paused():
        learner.workers.gather(None)  # from here on no worker takes a turn any more
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
        config: decides whether there are a reference and a critic.
        place: shards a model (`sharding.make_place`): then the policy's own model stays as it is, for the sampler, and
            copies of it are sharded one by one, so that two are whole at a time; None: the policy's model is trained.
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
    """One optimizer update from one mini-batch, its work dealt to the workers.

    A rollout whose advantages are zero has no gradient unless there is a KL, an entropy or a value loss: it counts in
    the normaliser and is not computed. None is returned, and nothing changes, when no rollout is left.

    Args:
        learner: its policy, critic and their optimizers change.
        samples: the mini-batch.
        rate: the policy's learning rate.
        critic_only: leave the policy as it is and update the critic's own parameters.

    Raises:
        TrainingError: when the gradient was not finite several times in a row.
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
    mine, fillers = my_micro_batches(learner, [len(sample.rollout.token_ids) for sample in live])
    sums = torch.zeros(len(SUMS), dtype=torch.float64)
    for part in mine:
        batch = make_micro_batch([live[i] for i in part], learner.gradient.device, learner.mode)
        loss, part_sums = loss_and_sums(learner.policy.model, critic, learner.config, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        sums += part_sums
    for index in fillers:
        batch = make_micro_batch([replace(live[index], weight=0.0)], learner.gradient.device, learner.mode)
        loss, _ = loss_and_sums(learner.policy.model, critic, learner.config, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    for gradient, summed in zip(gradients, sharded, strict=True):
        if not summed:  # FSDP has done it in the backward pass
            workers.add(gradient)
    workers.add(sums)
    norms = [gradient_norm(one, workers, sharded=parts) for one, parts in zip(gradients, sharded, strict=True)]
    applied = bool(np.isfinite(norms).all())
    learner.skipped = 0 if applied else learner.skipped + 1
    if learner.skipped >= MAX_SKIPPED and not learner.config.alarms.ends_skipping:
        raise TrainingError(f"the gradient was not finite in {MAX_SKIPPED} updates in a row; lower the learning rate.")
    if applied and not critic_only:
        clip_and_step(learner.optimizer, learner.gradient, norms[0], settings.max_grad_norm, rate)
    if applied and critic is not None:
        own = critic_rate(learner.config, rate)
        clip_and_step(critic.optimizer, critic.gradient, norms[1], settings.max_grad_norm, own)
    return UpdateStats(dict(zip(SUMS, sums.tolist(), strict=True)), norms[0], sum(norms[1:]), len(live), applied)


def my_micro_batches(learner: Learner, lengths: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """This worker's micro-batches of rollouts with these lengths, and rollouts to compute once more in vain.

    Workers that hold parts of one model gather its weights together, so each of them must call it equally often:
    who has fewer micro-batches computes the shortest rollout with weight zero, or without using what comes out.

    Args:
        learner: its workers, and the most tokens of a micro-batch.
        lengths: tokens of each rollout, at least one.

    Returns:
        Micro-batches as indices of rollouts, and the indices of what only fills up; none where nothing is sharded.
    """
    workers, most, packed = learner.workers, learner.config.optimizer.micro_batch_tokens, learner.mode.packed
    shares = deal(lengths, workers.size)
    plans = [
        [[share[i] for i in part] for part in plan_micro_batches([lengths[i] for i in share], most, packed=packed)]
        for share in (shares if learner.full_copy is not None else [shares[workers.rank]])
    ]
    if learner.full_copy is None:
        return plans[0], []
    shortest = min(range(len(lengths)), key=lengths.__getitem__)
    return plans[workers.rank], [shortest] * (max(map(len, plans)) - len(plans[workers.rank]))


def _has_other_losses(learner: Learner) -> bool:
    """Whether rollouts without any advantage have a gradient all the same."""
    algorithm = learner.config.algorithm
    kl = algorithm.kl_coefficient > 0.0 and algorithm.kl_in == "loss"
    return kl or algorithm.entropy_coefficient > 0.0 or learner.critic is not None


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
    if learner.critic is not None:
        metrics["value_loss"] = float(np.mean([one.sums["value_loss"] for one in stats]))
        metrics["value_clip_fraction"] = mean("value_clipped")
        metrics["critic_gradient_norm"] = float(np.mean([one.critic_gradient_norm for one in stats]))
    return metrics
