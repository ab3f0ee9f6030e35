"""Check reset options and actions, and draw the next episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from ..checks import check_options, is_whole_number
from ..errors import ConfigError, unknown_name
from ..game.episode import Episode
from ..game.noise import check_level, check_progress
from ..game.noise_kinds import DISTRACTOR, NoiseMixture, read_mixture
from ..types import Info, Options
from .setup import Setup

RESET_OPTIONS = ("question", "noise_level", "progress", "noise_kind")
RESET_EXAMPLE = '{"noise_level": 0.5}'


@dataclass
class ResetOptions:
    """Checked options of one reset; None: the option was not given."""

    question: int | None = None
    noise_level: float | None = None
    progress: float | None = None
    noise_kind: NoiseMixture | None = None


NO_OPTIONS = ResetOptions()


def read_options(setup: Setup, options: Options | None) -> ResetOptions:
    """Check the options of a reset. The mapping is not changed.

    Args:
        setup: the setup of the environment.
        options: `question` (index or id), `noise_level`, `progress`, `noise_kind`; all optional.

    Raises:
        ConfigError: an option, a question or a kind of noise is unknown, the environment was not made for this kind, or
            a noise level or progress is outside [0, 1].
    """
    if not options:
        return NO_OPTIONS
    for key in check_options("options", options, RESET_EXAMPLE):
        if key not in RESET_OPTIONS:
            raise unknown_name("reset option", key, RESET_OPTIONS)
    question, level, progress, kind = (options.get(key) for key in RESET_OPTIONS)
    return ResetOptions(
        None if question is None else _question_index(setup, question),
        None if level is None else check_level(level),
        None if progress is None else check_progress(progress),
        None if kind is None else _noise_kind(setup, kind),
    )


def _noise_kind(setup: Setup, kind: Any) -> NoiseMixture:
    """The kind of noise for one episode, which the environment's engine must be made for."""
    mixture = read_mixture(kind)
    possible = {*setup.noise_kinds.kinds, *DISTRACTOR.kinds}
    if missing := [name for name in mixture.kinds if name not in possible]:
        raise ConfigError(
            f"options['noise_kind'] has {missing[0]!r}, but this environment was made with noise_kind="
            f"{str(setup.noise_kinds)!r}: name every kind that you will use when you make it, for example as stages, "
            f"noise_kind={[*setup.noise_kinds.kinds, *missing]!r}."
        )
    return mixture


def _question_index(setup: Setup, question: Any) -> int:
    if isinstance(question, str):
        if question not in setup.index_by_id:
            raise (
                unknown_name("question id", question, setup.index_by_id)
                if setup.question_count <= 20
                else ConfigError(
                    f"no question with id {question!r} in dataset {setup.dataset.name!r}; "
                    f"ids look like {setup.dataset.questions[0].id!r}."
                )
            )
        return setup.index_by_id[question]
    if not is_whole_number(question):
        raise ConfigError(f"options['question'] must be an index or an id, got {question!r}.")
    if not 0 <= question < setup.question_count:
        raise ConfigError(
            f"options['question'] must be an index from 0 to {setup.question_count - 1} or an id, got {question}."
        )
    return int(question)


def draw_episode(
    setup: Setup, rng: np.random.Generator, progress: float, options: ResetOptions = NO_OPTIONS
) -> tuple[Episode, Info]:
    """Draw the next episode of one sub-environment.

    Exactly one uniform number u is drawn from `rng`, whatever the options are, so an option for one episode does not
    change later episodes. u selects the question (index = floor(u * number of questions)), and its 53 bits are the
    seed of the episode. All draws from this seed are mixed, so they are independent of the question.

    Args:
        setup: the setup of the environment.
        rng: the sub-environment's random generator.
        progress: progress of the curriculum, in [0, 1].
        options: values that the caller fixed for this episode.

    Returns:
        The episode and the `info` of its reset.
    """
    draw = rng.random()
    index = int(draw * setup.question_count)
    if options is not NO_OPTIONS:
        index = index if options.question is None else options.question
        progress = progress if options.progress is None else options.progress
    level = setup.noise_at(progress) if options.noise_level is None else options.noise_level
    question = setup.dataset.questions[index]
    kinds = setup.noise_kinds.at(progress) if options.noise_kind is None else options.noise_kind
    episode = Episode(question, setup.rules, noise_level=level, noise_kinds=kinds, seed=int(draw * 2.0**53))
    return episode, {
        "question": question.text,
        "question_id": question.id,
        "noise_level": level,
        "progress": progress,
    }


def check_action(action: object) -> str:
    """Return the action if it is a string.

    Raises:
        gymnasium.error.InvalidAction: the action is not a string.
    """
    if isinstance(action, str):
        return action
    raise gymnasium.error.InvalidAction(f"an action must be a string, got {type(action).__name__}: {action!r:.200}")
