"""The rollouts of a step: all workers play them together; dynamic sampling replaces groups without a signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zerosearch_env.game.episode import Episode

from ..objective.credit import has_signal
from ..rollouts.async_rollouts import Entry, Place, last_async_step
from ..rollouts.rollout import Rollout, rollout
from .curriculum import (
    choose_more_questions,
    choose_questions,
    make_group_episodes,
    noise_level,
    noise_mixture,
    sampling_seed,
)
from .update import Learner


@dataclass(frozen=True)
class Collected:
    """The rollouts of a step."""

    groups: list[list[Rollout]]
    """All groups in the order of play; the metrics are computed from these."""
    trained: list[list[Rollout]]
    """The groups used for training; all of them without dynamic sampling."""
    rounds: int
    """Additional rounds used by dynamic sampling."""


def sample_step(learner: Learner, step: int, noise: float) -> Collected:
    """Plays a step's groups.

    With `dynamic_sampling_rounds`, groups with identical rewards are replaced by groups of other questions. Every round
    plays as many groups as are missing, until enough have a signal or the rounds are used up. The step then trains on
    the groups with a signal (if there are none, on all groups, which changes nothing).

    Source: DAPO, Yu et al., arXiv 2503.14476, section 3.2 (dynamic sampling; there without a bound).

    Args:
        learner: plays the episodes.
        step: the 0-based step; together with the seed it determines questions, noise and samples of every round.
        noise: probability of a noisy search.
    """
    config, algorithm = learner.config, learner.config.algorithm
    count, prompts = len(learner.dataset.questions), config.rollout.prompts
    used = choose_questions(count, prompts, config.seed, step)
    groups, rounds = sample_groups(learner, _make_groups(learner, used, step, noise), step), 0
    if not algorithm.dynamic_sampling_rounds:
        return Collected(groups, groups, 0)

    def with_signal() -> list[list[Rollout]]:
        return [group for group in groups if has_signal(group, mask_overlong=algorithm.mask_overlong)]

    while (missing := prompts - len(with_signal())) > 0 and rounds < algorithm.dynamic_sampling_rounds:
        more = choose_more_questions(count, missing, set(used), config.seed, step)
        groups += sample_groups(learner, _make_groups(learner, more, step, noise, len(groups)), step, len(groups))
        used, rounds = used + more, rounds + 1
    return Collected(groups, with_signal() or groups, rounds)


def _make_groups(
    learner: Learner, chosen: Sequence[int], step: int, noise: float, first_slot: int = 0
) -> list[list[Episode]]:
    config = learner.config
    return make_group_episodes(
        [learner.dataset.questions[index] for index in chosen],
        learner.rules,
        noise=noise,
        kinds=noise_mixture(learner.noise_kinds, step, config.steps),
        group_size=config.rollout.group_size,
        seed=config.seed,
        step=step,
        draws=config.curriculum.noise_draws,
        first_slot=first_slot,
    )


def sample_groups(
    learner: Learner, groups: Sequence[Sequence[Episode]], step: int, first_slot: int = 0
) -> list[list[Rollout]]:
    """Plays the groups; with W workers each plays every W-th group, and all of them return all groups.

    `first_slot` is the position of the first of these groups in the step (`curriculum.make_group_episodes`).
    """
    workers, entries = learner.workers, _my_entries(learner, groups, step, first_slot)
    if learner.async_rollouts is not None:
        rollouts_at = _play_async(learner, entries, step, first_slot)
    else:
        played = rollout(
            [entry.episode for entry in entries],
            learner.engine,
            learner.sampler,
            learner.policy.tokenizer,
            seeds=[entry.seed for entry in entries],
            format=learner.policy.card.format,
        )
        rollouts_at = {entry.place: result for entry, result in zip(entries, played, strict=True)}
    for rank, theirs in enumerate(workers.gather({k: replace(r, episode=None) for k, r in rollouts_at.items()})):
        if rank != workers.rank:
            rollouts_at |= theirs
    return [[rollouts_at[slot, member] for member in range(len(group))] for slot, group in enumerate(groups)]


def _my_entries(learner: Learner, groups: Sequence[Sequence[Episode]], step: int, first_slot: int = 0) -> list[Entry]:
    """This worker's share of the groups: every W-th one for W workers."""
    seed = learner.config.seed
    return [
        Entry((slot, member), episode, sampling_seed(seed, step, first_slot + slot, member))
        for slot in range(learner.workers.rank, len(groups), learner.workers.size)
        for member, episode in enumerate(groups[slot])
    ]


def _play_async(learner: Learner, entries: Sequence[Entry], step: int, first_slot: int) -> dict[Place, Rollout]:
    """The rollouts of these episodes, some of which may have been played already; then starts those of later steps.

    Additional rounds of a step are played before episodes of later steps, with the step's own weights.
    """
    config, rollouts, batch = learner.config, learner.async_rollouts, (step, first_slot)
    assert rollouts is not None
    if first_slot:
        rollouts.add(batch, entries, first=True)
        return rollouts.take(batch)
    if not rollouts.knows(batch):
        rollouts.reset()  # the first step of a run or after a checkpoint: drop all other episodes
        rollouts.add(batch, entries)
    for later in range(step + 1, last_async_step(config, step) + 1):
        if not rollouts.knows((later, 0)):
            chosen = choose_questions(len(learner.dataset.questions), config.rollout.prompts, config.seed, later)
            groups = _make_groups(learner, chosen, later, noise_level(learner.schedule, later, config.steps))
            rollouts.add((later, 0), _my_entries(learner, groups, later))
    return rollouts.take(batch)
