"""Questions, noise level and seeds of a step: pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise import get_schedule
from zerosearch_env.game.noise_kinds import DISTRACTOR, NoiseKinds, NoiseMixture
from zerosearch_env.game.rules import Rules
from zerosearch_env.randomness import mix, mix_array
from zerosearch_env.types import Question

from ..config.train import CurriculumConfig

# Random streams of the run's seed; each purpose has its own.
_ORDER, _EPISODE, _MINIBATCH, _MORE = 1, 2, 3, 4


def make_schedule(config: CurriculumConfig) -> Callable[[float], float]:
    """A function from progress in [0, 1] to the probability of a noisy search."""
    return get_schedule(config.schedule, start=config.start, end=config.end, base=config.base)


def noise_level(schedule: Callable[[float], float], step: int, steps: int) -> float:
    """Noise probability at 0-based `step`: progress is the paper's i / m with i = step + 1, so the last is 1.

    Progress counts steps, not time: a run cut short by a time limit has seen the beginning of the same curriculum.
    """
    return schedule((step + 1) / steps)


def noise_mixture(kinds: NoiseKinds, step: int, steps: int) -> NoiseMixture:
    """The kinds of noise at 0-based `step`. Of n stages each holds for an n-th of the steps."""
    return kinds.at(step / steps)


def choose_questions(count: int, prompts: int, seed: int, step: int) -> list[int]:
    """Indices of the questions of a step. Every epoch visits each question once, in its own seeded order.

    Args:
        count: questions in the data set.
        prompts: questions per step.
        seed: the run's seed.
        step: the 0-based step.
    """
    chosen: list[int] = []
    for place in range(step * prompts, (step + 1) * prompts):
        epoch, offset = divmod(place, count)
        chosen.append(int(_order(count, mix(seed, _ORDER, epoch))[offset]))
    return chosen


def choose_more_questions(count: int, missing: int, used: Collection[int], seed: int, step: int) -> list[int]:
    """Indices of additional questions for a step, in a seeded order that depends on the step.

    Questions that the step has not used come first; when they run out, the order starts again from the beginning.

    Args:
        count: questions in the data set.
        missing: number of questions to choose.
        used: indices that the step has already used.
        seed: the run's seed.
        step: the 0-based step.
    """
    order = _order(count, mix(seed, _MORE, step)).tolist()
    chosen = [index for index in order if index not in used][:missing]
    while len(chosen) < missing:
        chosen += order[: missing - len(chosen)]
    return chosen


def make_group_episodes(
    questions: Sequence[Question],
    rules: Rules,
    *,
    noise: float,
    kinds: NoiseMixture = DISTRACTOR,
    group_size: int,
    seed: int,
    step: int,
    draws: Literal["episode", "group"] = "episode",
    first_slot: int = 0,
) -> list[list[Episode]]:
    """A list of `group_size` new episodes per question.

    With `draws="episode"` every episode draws its own noise, as in the paper; rewards within a group then also vary by
    luck. With `draws="group"` the k-th search is either noisy for all members or useful for all. The luck is then part
    of the group's mean and drops out of the advantage, but a step has fewer independent draws (one per question).

    `first_slot` is the position of the first of these groups in the step; no two groups of a step share a slot.
    """
    groups = []
    for slot, question in enumerate(questions, start=first_slot):
        seeds = [mix(seed, _EPISODE, step, slot, member) for member in range(group_size)]
        shared = mix(seed, _EPISODE, step, slot)
        groups.append(
            [
                Episode(question, rules, noise_level=noise, noise_kinds=kinds, seed=shared if draws == "group" else own)
                for own in seeds
            ]
        )
    return groups


def sampling_seed(seed: int, step: int, slot: int, member: int) -> int:
    """Seed for sampling the tokens of one member of one group; unique to it."""
    return mix(seed, _EPISODE, step, slot, member, 1)


def split_groups(groups: int, minibatches: int, seed: int, step: int, epoch: int) -> list[list[int]]:
    """Randomly divides the groups into mini-batches (seeded), as lists of indices; sizes differ by at most one.

    No mini-batch is empty: with fewer groups than `minibatches` there is one for each group.
    """
    order = _order(groups, mix(seed, _MINIBATCH, step, epoch)).tolist()
    minibatches = min(minibatches, groups)
    return [sorted(order[part::minibatches]) for part in range(minibatches)]


@lru_cache(maxsize=8)
def _order(count: int, seed: int) -> np.ndarray:
    """A seeded permutation that is the same in every version of numpy."""
    return np.argsort(mix_array(seed, np.arange(count, dtype=np.uint64)), kind="stable")
