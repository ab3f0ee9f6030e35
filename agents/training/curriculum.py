"""What a step trains on: its questions, noise level and seeds. Pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from zerosearch_env.game.episode import Episode, Rules
from zerosearch_env.game.noise import get_schedule
from zerosearch_env.randomness import mix, mix_array
from zerosearch_env.types import Question

from ..config.train import CurriculumConfig

# Streams of the run's seed, so that no two purposes share a draw.
_ORDER, _EPISODE, _MINIBATCH, _MORE = 1, 2, 3, 4


def make_schedule(config: CurriculumConfig) -> Callable[[float], float]:
    """Progress in [0, 1] -> probability of a noisy search."""
    return get_schedule(config.schedule, start=config.start, end=config.end, base=config.base)


def noise_level(schedule: Callable[[float], float], step: int, steps: int) -> float:
    """p of 0-based `step`: the paper's i / m with i = step + 1, so that the last step of `steps` has the end level.

    Progress counts steps, never time: a run that a time limit cuts has seen the beginning of the same curriculum.
    """
    return schedule((step + 1) / steps)


def choose_questions(count: int, prompts: int, seed: int, step: int) -> list[int]:
    """Indices of the questions of a step: all of them once an epoch, in a seeded order that each epoch has anew.

    Args:
        count: questions in the data set.
        prompts: questions a step.
        seed: the run's seed.
        step: the 0-based step.
    """
    chosen: list[int] = []
    for place in range(step * prompts, (step + 1) * prompts):
        epoch, offset = divmod(place, count)
        chosen.append(int(_order(count, mix(seed, _ORDER, epoch))[offset]))
    return chosen


def choose_more_questions(count: int, wanted: int, used: Collection[int], seed: int, step: int) -> list[int]:
    """Indices of further questions of a step, in a seeded order of the step's own.

    Questions that the step has not used come first; where they run out, the order begins anew.

    Args:
        count: questions in the data set.
        wanted: how many.
        used: indices that the step has had already.
        seed: the run's seed.
        step: the 0-based step.
    """
    order = _order(count, mix(seed, _MORE, step)).tolist()
    chosen = [index for index in order if index not in used][:wanted]
    while len(chosen) < wanted:
        chosen += order[: wanted - len(chosen)]
    return chosen


def make_group_episodes(
    questions: Sequence[Question],
    rules: Rules,
    *,
    noise: float,
    group_size: int,
    seed: int,
    step: int,
    draws: Literal["episode", "group"] = "episode",
    first_slot: int = 0,
) -> list[list[Episode]]:
    """One list of `group_size` fresh episodes for each question.

    With `draws="episode"` every episode draws its own noise, as in the paper: within a group the reward then also
    varies by luck. With `draws="group"` the k-th search of every member is noisy or useful together: luck drops out
    of the advantage (it is in the group's mean), at the price of fewer independent draws a step (one a question).

    `first_slot` is the place of the first of these groups in the step; two groups of a step never share a slot.
    """
    groups = []
    for slot, question in enumerate(questions, start=first_slot):
        seeds = [mix(seed, _EPISODE, step, slot, member) for member in range(group_size)]
        shared = mix(seed, _EPISODE, step, slot)
        groups.append(
            [Episode(question, rules, noise_level=noise, seed=shared if draws == "group" else own) for own in seeds]
        )
    return groups


def sampling_seed(seed: int, step: int, slot: int, member: int) -> int:
    """Seed of the tokens that one member of one group samples; never shared."""
    return mix(seed, _EPISODE, step, slot, member, 1)


def split_groups(groups: int, minibatches: int, seed: int, step: int, epoch: int) -> list[list[int]]:
    """Indices of the groups of each mini-batch, a seeded deal of all groups; their sizes differ by at most one."""
    order = _order(groups, mix(seed, _MINIBATCH, step, epoch)).tolist()
    return [sorted(order[part::minibatches]) for part in range(minibatches)]


@lru_cache(maxsize=8)
def _order(count: int, seed: int) -> np.ndarray:
    """A seeded permutation, the same with every version of numpy."""
    return np.argsort(mix_array(seed, np.arange(count, dtype=np.uint64)), kind="stable")
