"""What the single and the vector environment share, so that no rule is written twice.

The arguments of the environment -> `Setup`; a random generator and reset options -> the next `Episode`; the searches
of a step -> one engine call. The two shells around the core (`ZeroSearchEnv`, `ZeroSearchVectorEnv`) only differ in
how many episodes they hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from ..engines import make_engine
from ..errors import ConfigError, DataError, unknown_name
from ..game.episode import Episode, Rules, make_rules
from ..game.noise import CheckedSchedule, check_level, get_schedule
from ..types import Dataset, Question

if TYPE_CHECKING:
    from ..engines import SearchEngine

RENDER_MODES = ("ansi", "human", "html")
METADATA: Mapping[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}
ON_ENGINE_ERROR = ("truncate", "raise")
RESET_OPTIONS = ("question", "noise_level", "progress")


@dataclass(frozen=True)
class Setup:
    """Everything of an environment that does not change between episodes."""

    dataset: Dataset
    rules: Rules
    engine: SearchEngine
    owns_engine: bool
    """True when the environment made the engine from a description, and closes it."""
    schedule: Callable[[float], float] | None
    """Progress in [0, 1] -> noise level; None: the level is fixed."""
    level: float
    """The fixed noise level; not used with a schedule."""
    curriculum_episodes: int
    raise_on_engine_error: bool
    render_mode: str | None

    @cached_property
    def question_count(self) -> int:
        """The number of questions."""
        return len(self.dataset.questions)

    @cached_property
    def index_by_id(self) -> dict[str, int]:
        """The index of the first question with an id."""
        return {question.id: index for index, question in reversed(list(enumerate(self.dataset.questions)))}

    def noise_at(self, progress: float) -> float:
        """The noise level at a progress."""
        return self.level if self.schedule is None else check_level(self.schedule(progress))


@dataclass
class Progress:
    """Where the curriculum stands: finished episodes over `curriculum_episodes`, unless somebody set it."""

    curriculum_episodes: int
    finished: int = 0
    """Episodes that came to their end, of all sub-environments together."""
    fixed: float | None = None
    """Progress set from outside; None: counted."""

    @property
    def value(self) -> float:
        """Progress in [0, 1]."""
        if self.fixed is not None:
            return self.fixed
        part = self.finished / self.curriculum_episodes
        return part if part < 1.0 else 1.0

    def set(self, progress: float | None) -> None:
        """Fix the progress from now on, or return to counting episodes with None."""
        self.fixed = None if progress is None else check_progress(progress)


class SetupViews:
    """What both environments let their users see of `Setup`, and how both are told the progress."""

    _setup: Setup
    _progress: Progress

    @property
    def dataset(self) -> Dataset:
        """The questions that episodes are drawn from, with their passages."""
        return self._setup.dataset

    @property
    def engine(self) -> SearchEngine:
        """The search engine, the one of all sub-environments where there are several."""
        return self._setup.engine

    @property
    def rules(self) -> Rules:
        """The rules of every episode: protocol, limits, reward."""
        return self._setup.rules

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts after which a sampler should stop, kept in the action."""
        return self._setup.rules.protocol.stop_strings

    @property
    def progress(self) -> float:
        """Progress of the curriculum in [0, 1], as the next reset will use it."""
        return self._progress.value

    def set_progress(self, progress: float | None) -> None:
        """Fix the progress of the curriculum, for all sub-environments, from the next reset on.

        Args:
            progress: in [0, 1]; None returns to counting finished episodes.

        Raises:
            ConfigError: when it is outside [0, 1].
        """
        self._progress.set(progress)


@dataclass
class ResetOptions:
    """Checked options of one reset; None where the option was not given."""

    question: int | None = None
    noise_level: float | None = None
    progress: float | None = None


NO_OPTIONS = ResetOptions()


def make_setup(
    *,
    dataset: str | Path | Dataset | Sequence[Question] | Sequence[Mapping[str, Any]] = "world",
    split: str = "train",
    world: Mapping[str, Any] | None = None,
    search_engine: str | Mapping[str, Any] | SearchEngine = "corpus",
    noise_schedule: str | Callable[[float], float] | None = None,
    noise_start: float = 0.0,
    noise_end: float = 0.5,
    noise_base: float = 4.0,
    noise_level: float | None = None,
    noise_unit: str = "search",
    curriculum_episodes: int = 10_000,
    reward: str | Callable[..., float] = "em",
    protocol: Any = "zerosearch",
    prompt_template: str | None = None,
    max_turns: int | None = None,
    top_k: int | None = None,
    on_engine_error: str = "truncate",
    render_mode: str | None = None,
) -> Setup:
    """Check the arguments of the environment (see `ZeroSearchEnv`) and make what they describe.

    Raises:
        ConfigError: an argument has a value that cannot be used; the message names the nearest valid one.
        DataError: the dataset holds no question, or a question without an answer.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise unknown_name("render_mode", render_mode, RENDER_MODES)
    if on_engine_error not in ON_ENGINE_ERROR:
        raise unknown_name("on_engine_error", on_engine_error, ON_ENGINE_ERROR)
    if not _is_int(curriculum_episodes) or curriculum_episodes < 1:
        raise ConfigError(f"curriculum_episodes must be an integer of at least 1, got {curriculum_episodes!r}.")
    schedule = _make_schedule(noise_schedule, noise_start, noise_end, noise_base, noise_level)
    rules = make_rules(
        protocol=protocol,
        prompt_template=prompt_template,
        max_turns=max_turns,
        top_k=top_k,
        reward=reward,
        noise_unit=noise_unit,
    )
    level = 0.0 if noise_level is None else check_level(noise_level)
    data = _make_dataset(dataset, split, world)
    engine = make_engine(search_engine, dataset=data)
    owns_engine = isinstance(search_engine, (str, Mapping))
    try:
        _check_corpus(engine, data, rules.top_k, _can_be_noisy(schedule, level))
    except ConfigError:
        if owns_engine:
            engine.close()
        raise
    return Setup(
        dataset=data,
        rules=rules,
        engine=engine,
        owns_engine=owns_engine,
        schedule=schedule,
        level=level,
        curriculum_episodes=int(curriculum_episodes),
        raise_on_engine_error=on_engine_error == "raise",
        render_mode=render_mode,
    )


def _make_schedule(
    schedule: str | Callable[[float], float] | None, start: float, end: float, base: float, level: float | None
) -> Callable[[float], float] | None:
    if schedule is not None and level is not None:
        raise ConfigError(
            f"noise_schedule={schedule!r} and noise_level={level!r} were both given: the schedule moves the level. "
            "Give one of them."
        )
    shaped = (start, end, base) != (0.0, 0.5, 4.0)
    if schedule is None:
        if shaped:
            raise ConfigError(
                "noise_start, noise_end and noise_base shape a noise_schedule, and none was given. "
                'Add noise_schedule="exp", or use noise_level for a fixed level.'
            )
        return None
    if callable(schedule) and shaped:
        raise ConfigError(
            "noise_start, noise_end and noise_base have no effect on a noise_schedule that is a callable."
        )
    return get_schedule(schedule, start=start, end=end, base=base)


def _can_be_noisy(schedule: Callable[[float], float] | None, level: float) -> bool:
    if schedule is None:
        return level > 0.0
    # The named schedules never leave the range between their ends; a user's own is not called before its first episode.
    return isinstance(schedule, CheckedSchedule) or schedule(0.0) > 0.0 or schedule(1.0) > 0.0


def _check_corpus(engine: SearchEngine, dataset: Dataset, top_k: int, noise: bool) -> None:
    """Find out now, and not at the first search, that an engine with a corpus has too few passages for `top_k`."""
    check = getattr(engine, "check_top_k", None)
    # A question with paragraphs of its own may search these instead of the corpus.
    if check is not None and any(not question.paragraphs for question in dataset.questions):
        check(top_k, noise=noise)


def _make_dataset(dataset: Any, split: str, world: Mapping[str, Any] | None) -> Dataset:
    if isinstance(dataset, (str, Path)):
        data = _load(str(dataset), split, world)
    elif world is not None:
        raise ConfigError(f'world={world!r} describes the built-in dataset "world", and another dataset was given.')
    elif isinstance(dataset, Dataset):
        data = dataset
    elif isinstance(dataset, Sequence):
        data = Dataset("questions", split, tuple(_read_question(row, i, split) for i, row in enumerate(dataset)))
    else:
        raise ConfigError(
            f"dataset must be a name, a path, a Dataset or a list of questions, got {type(dataset).__name__}."
        )
    if not len(data.questions):
        raise DataError(f"dataset {data.name!r}, split {data.split!r}, holds no question.")
    for question in data.questions:
        if not question.answers:
            raise DataError(f"question {question.id!r} of dataset {data.name!r} has no answer: {question.text[:200]!r}")
    return data


def _read_question(row: Any, index: int, split: str) -> Question:
    if isinstance(row, Question):
        return row
    if not isinstance(row, Mapping):
        raise DataError(f"dataset[{index}] must be a Question or a mapping, got {type(row).__name__}.")
    text, answers = row.get("question"), row.get("answers")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"dataset[{index}]: 'question' must be a text that is not empty, got {text!r}.")
    if isinstance(answers, str) or not isinstance(answers, Sequence) or not all(isinstance(a, str) for a in answers):
        raise DataError(f"dataset[{index}]: 'answers' must be a list of texts, got {answers!r}.")
    return Question(str(row.get("id", index)), text, tuple(answers), dataset="questions", split=split)


def _load(name: str, split: str, world: Mapping[str, Any] | None) -> Dataset:
    if world is not None and name != "world":
        raise ConfigError(f'world={world!r} describes the built-in dataset "world", and dataset={name!r} was given.')
    path = Path(name)
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    stamp = max(file.stat().st_mtime_ns for file in files) if path.exists() else 0
    try:
        described = None if world is None else json.dumps(dict(world), sort_keys=True)
    except TypeError as cause:
        raise ConfigError(f"world must be a mapping of JSON values, got {world!r}.") from cause
    return _load_cached(name, split, described, stamp)


@lru_cache(maxsize=8)
def _load_cached(name: str, split: str, world: str | None, stamp: int) -> Dataset:
    """One dataset object a description: sub-environments of one process share it, and with it its search index."""
    from ..datasets import load_dataset

    if world is None:
        return load_dataset(name, split)
    from ..datasets.world.make import WorldConfig

    options = json.loads(world)
    valid = WorldConfig.__dataclass_fields__
    for key in options:
        if key not in valid:
            raise unknown_name("option of world", key, valid)
    return load_dataset(name, split, world=WorldConfig(**options))


def check_progress(progress: Any) -> float:
    """A progress as a float.

    Raises:
        ConfigError: when it is no number in [0, 1].
    """
    if isinstance(progress, bool) or not isinstance(progress, Real) or not 0.0 <= float(progress) <= 1.0:
        raise ConfigError(f"progress must be a number in [0, 1], got {progress!r}.")
    return float(progress)


def read_options(setup: Setup, options: Mapping[str, Any] | None) -> ResetOptions:
    """Check the options of a reset without changing them.

    Args:
        setup: of the environment.
        options: `question` (index or id), `noise_level`, `progress`; all optional.

    Raises:
        ConfigError: unknown option, unknown question, or a level or a progress outside [0, 1].
    """
    if not options:
        return NO_OPTIONS
    for key in options:
        if key not in RESET_OPTIONS:
            raise unknown_name("reset option", key, RESET_OPTIONS)
    question, level, progress = (options.get(key) for key in RESET_OPTIONS)
    return ResetOptions(
        None if question is None else _question_index(setup, question),
        None if level is None else check_level(level),
        None if progress is None else check_progress(progress),
    )


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
    if not _is_int(question):
        raise ConfigError(f"options['question'] must be an index or an id, got {question!r}.")
    if not 0 <= question < setup.question_count:
        raise ConfigError(
            f"options['question'] must be an index from 0 to {setup.question_count - 1} or an id, got {question}."
        )
    return int(question)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def draw_episode(
    setup: Setup, rng: np.random.Generator, progress: float, options: ResetOptions = NO_OPTIONS
) -> tuple[Episode, dict[str, Any]]:
    """The next episode of one sub-environment and the `info` of its reset.

    One uniform draw u is taken from `rng` whatever the options say, so that setting an option for one episode changes
    no later one. Its highest bits choose the question and all 53 of them are the episode's seed; what is drawn from
    that seed is mixed, and so has nothing to do with the question.

    Args:
        setup: of the environment.
        rng: the sub-environment's own generator.
        progress: of the curriculum, in [0, 1].
        options: what the caller fixed for this episode.
    """
    draw = rng.random()
    index = int(draw * setup.question_count)
    if options is not NO_OPTIONS:
        index = index if options.question is None else options.question
        progress = progress if options.progress is None else options.progress
    level = setup.noise_at(progress) if options.noise_level is None else options.noise_level
    question = setup.dataset.questions[index]
    episode = Episode(question, setup.rules, noise_level=level, seed=int(draw * 2.0**53))
    return episode, {
        "question": question.text,
        "question_id": question.id,
        "noise_level": level,
        "progress": progress,
    }


def check_action(action: Any) -> str:
    """The action itself.

    Raises:
        gymnasium.error.InvalidAction: when it is no text.
    """
    if isinstance(action, str):
        return action
    raise gymnasium.error.InvalidAction(f"an action is a text (str), got {type(action).__name__}: {action!r:.200}")
