"""The rollouts of a step: played by all workers together, and drawn anew where a group has nothing to teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zerosearch_env.episode import Episode

from .curriculum import choose_more_questions, choose_questions, make_group_episodes, sampling_seed
from .learner import Learner
from .rollout import Rollout, rollout
from .weighing import has_signal


@dataclass(frozen=True)
class Collected:
    """What a step has played."""

    groups: list[list[Rollout]]
    """Every group, in the order of play: what the metrics are of."""
    kept: list[list[Rollout]]
    """The groups that are trained on: without dynamic sampling all of them."""
    rounds: int
    """Further rounds that dynamic sampling took."""


def collect_groups(learner: Learner, step: int, noise: float) -> Collected:
    """Plays a step's groups.

    With `dynamic_sampling_rounds`, groups whose rewards are all the same are replaced by groups of other questions,
    as many as are missing a round, until enough have a signal or the rounds are used up; the step then trains on those
    it has (on all of them, which changes nothing, when none has a signal).

    Source: DAPO, Yu et al., arXiv 2503.14476, section 3.2 (dynamic sampling; there without a bound).

    Args:
        learner: who plays.
        step: the 0-based step; with the seed it decides questions, noise and samples of every round.
        noise: probability of a noisy search.
    """
    config, algorithm = learner.config, learner.config.algorithm
    count, prompts = len(learner.questions), config.rollout.prompts

    def play(chosen: Sequence[int], first_slot: int) -> list[list[Rollout]]:
        episodes = make_group_episodes(
            [learner.questions[index] for index in chosen],
            learner.rules,
            noise=noise,
            group_size=config.rollout.group_size,
            seed=config.seed,
            step=step,
            draws=config.curriculum.noise_draws,
            first_slot=first_slot,
        )
        return sample_groups(learner, episodes, step, first_slot)

    used = choose_questions(count, prompts, config.seed, step)
    groups, rounds = play(used, 0), 0
    if not algorithm.dynamic_sampling_rounds:
        return Collected(groups, groups, 0)

    def with_signal() -> list[list[Rollout]]:
        return [group for group in groups if has_signal(group, mask_overlong=algorithm.mask_overlong)]

    while (missing := prompts - len(with_signal())) > 0 and rounds < algorithm.dynamic_sampling_rounds:
        more = choose_more_questions(count, missing, set(used), config.seed, step)
        groups += play(more, len(groups))
        used, rounds = used + more, rounds + 1
    return Collected(groups, with_signal() or groups, rounds)


def sample_groups(
    learner: Learner, groups: Sequence[Sequence[Episode]], step: int, first_slot: int = 0
) -> list[list[Rollout]]:
    """Plays the groups, each worker every W-th one, and returns all of them in every worker.

    `first_slot` is the place of the first of these groups in the step (`curriculum.make_group_episodes`).
    """
    team, seed = learner.team, learner.config.seed
    mine = range(team.rank, len(groups), team.size)
    flat = [(slot, member) for slot in mine for member in range(len(groups[slot]))]
    played = rollout(
        [groups[slot][member] for slot, member in flat],
        learner.engine,
        learner.sampler,
        learner.policy.tokenizer,
        seeds=[sampling_seed(seed, step, first_slot + slot, member) for slot, member in flat],
        chat=learner.policy.card.chat,
    )
    found: dict[tuple[int, int], Rollout] = dict(zip(flat, played, strict=True))
    for rank, theirs in enumerate(learner.team.gather({k: replace(r, episode=None) for k, r in found.items()})):
        if rank != team.rank:
            found |= theirs
    return [[found[slot, member] for member in range(len(group))] for slot, group in enumerate(groups)]
