"""Check the arguments of the environment and create a `Setup`, for the single and the vector environment."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from ..checks import check_options, check_whole_number, make_options
from ..datasets import COLUMNS, Column, NamedSource, OnBadRow, check_columns, load_dataset, named_sources
from ..datasets.prompts import check_prompts
from ..datasets.world.make import WorldConfig
from ..engines import make_engine
from ..engines.base import check_corpus
from ..engines.kinds import add_noise_kinds
from ..errors import DataError, unknown_name
from ..game.noise import CheckedSchedule, Schedule, check_level, choose_noise
from ..game.noise_kinds import NoiseKinds, read_noise_kinds
from ..game.rules import Rules, make_rules
from ..types import Dataset, Options
from .curriculum import Curriculum
from .options import EnvOptions

if TYPE_CHECKING:
    from ..engines import SearchEngine

RENDER_MODES = ("ansi", "human", "html")
METADATA: Mapping[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}
ON_ENGINE_ERROR = ("truncate", "raise")


@dataclass(frozen=True)
class Setup:
    """The parts of an environment that do not change between episodes."""

    dataset: Dataset
    rules: Rules
    engine: SearchEngine
    owns_engine: bool
    """True if the environment created the engine from a description and must close it."""
    noise: Schedule | float
    """The fixed noise level, or a schedule: progress in [0, 1] -> noise level."""
    noise_kinds: NoiseKinds
    """What noisy searches return, in stages over the progress of the curriculum."""
    options: EnvOptions
    """The arguments as they were given."""

    @cached_property
    def question_count(self) -> int:
        """The number of questions."""
        return len(self.dataset.questions)

    @cached_property
    def index_by_id(self) -> dict[str, int]:
        """Question id -> index of the first question with this id."""
        return {question.id: index for index, question in reversed(list(enumerate(self.dataset.questions)))}

    def noise_at(self, progress: float) -> float:
        """The noise level at the given progress."""
        return check_level(self.noise(progress)) if callable(self.noise) else self.noise


class SetupViews:
    """Properties of `Setup` that both environments expose, and `set_progress`."""

    _setup: Setup
    _curriculum: Curriculum

    @property
    def dataset(self) -> Dataset:
        """The dataset from which questions are drawn, with its passages."""
        return self._setup.dataset

    @property
    def engine(self) -> SearchEngine:
        """The search engine; a vector environment has one for all its sub-environments."""
        return self._setup.engine

    @property
    def rules(self) -> Rules:
        """The rules of every episode: protocol, limits, reward."""
        return self._setup.rules

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings after which a sampler should stop; they are kept in the action."""
        return self._setup.rules.protocol.stop_strings

    @property
    def progress(self) -> float:
        """Progress of the curriculum in [0, 1]. A reset that abandons an episode counts it first."""
        return self._curriculum.value

    def set_progress(self, progress: float | None) -> None:
        """Fix the progress of the curriculum, for all sub-environments, from the next reset on.

        Args:
            progress: in [0, 1]; None returns to counting ended episodes.

        Raises:
            ConfigError: the progress is outside [0, 1].
        """
        self._curriculum.set(progress)


def make_setup(options: EnvOptions) -> Setup:
    """Check the arguments of the environment (see `ZeroSearchEnv`) and create the dataset, engine and rules.

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: the dataset has no questions, or a question has no answer, or no prompt although
            `prompt_template` is "dataset".
    """
    if options.render_mode is not None and options.render_mode not in RENDER_MODES:
        raise unknown_name("render_mode", options.render_mode, RENDER_MODES)
    if options.on_engine_error not in ON_ENGINE_ERROR:
        raise unknown_name("on_engine_error", options.on_engine_error, ON_ENGINE_ERROR)
    check_whole_number("curriculum_episodes", options.curriculum_episodes)
    noise = choose_noise(
        options.noise_schedule,
        options.noise_level,
        start=options.noise_start,
        end=options.noise_end,
        base=options.noise_base,
    )
    noise_kinds = read_noise_kinds(options.noise_kind)
    rules = make_rules(
        protocol=options.protocol,
        prompt_template=options.prompt_template,
        max_turns=options.max_turns,
        top_k=options.top_k,
        invalid_notice=options.invalid_notice,
        last_turn_notice=options.last_turn_notice,
        reward=options.reward,
        scores=options.scores,
        noise_unit=options.noise_unit,
        abstentions=options.abstentions,
    )
    data = make_dataset(options)
    check_prompts(rules, data.questions)
    engine = make_engine(options.search_engine, dataset=data)
    owns_engine = isinstance(options.search_engine, (str, Mapping))
    with contextlib.ExitStack() as if_refused:
        if owns_engine:
            if_refused.callback(engine.close)
        check_corpus(engine, data.questions, rules.top_k, noise=_can_be_noisy(noise))
        engine = add_noise_kinds(engine, noise_kinds, data.questions)
        if_refused.pop_all()
    return Setup(data, rules, engine, owns_engine, noise, noise_kinds, options)


def _can_be_noisy(noise: Schedule | float) -> bool:
    # Named schedules stay between their two ends. A user's function is not called before the first episode.
    if callable(noise):
        return isinstance(noise, CheckedSchedule) or noise(0.0) > 0.0 or noise(1.0) > 0.0
    return noise > 0.0


def make_dataset(options: EnvOptions) -> Dataset:
    """The dataset of an environment; equal descriptions by name share one object.

    Raises:
        ConfigError: an argument is invalid.
        DataError: the dataset cannot be read, has no questions, or a question has no answer.
    """
    world = _read_world(options.world)
    named = named_sources(options.dataset)
    check_columns(options.columns, COLUMNS)
    if named is None:
        data = load_dataset(
            options.dataset, options.split, world=world, on_bad_row=options.on_bad_row, columns=options.columns
        )
    else:
        columns = tuple((field, _hashable(column)) for field, column in (options.columns or {}).items())
        data = _load_cached(named, options.split, world, options.on_bad_row, columns, _stamp(named, options.split))
    if not len(data.questions):
        raise DataError(f"dataset {data.name!r}, split {data.split!r}, has no questions.")
    # A named dataset has been read by `load_dataset`, which refuses such rows.
    for question in data.questions if named is None else ():
        if not question.answers:
            raise DataError(f"question {question.id!r} of dataset {data.name!r} has no answer: {question.text[:200]!r}")
    return data


def _read_world(world: Options | None) -> WorldConfig | None:
    if world is None:
        return None
    return make_options(WorldConfig, "option of world", **check_options("world", world, '{"seed": 1}'))


def _hashable(column: Column | Sequence[Column]) -> Column | tuple[Column, ...]:
    return column if isinstance(column, (str, int)) else tuple(column)


def _stamp(sources: Sequence[NamedSource], split: str) -> int:
    """The time at which the newest of the files was changed; 0 without files."""
    return max((file.stat().st_mtime_ns for source in sources for file in source.files(split)), default=0)


@lru_cache(maxsize=8)
def _load_cached(
    sources: tuple[NamedSource, ...],
    split: str,
    world: WorldConfig | None,
    on_bad_row: OnBadRow,
    columns: tuple[tuple[str, Column | tuple[Column, ...]], ...],
    stamp: int,
) -> Dataset:
    """One dataset object per description, so sub-environments in one process share it and its search index."""
    return load_dataset(sources, split, world=world, on_bad_row=on_bad_row, columns=dict(columns) or None)
