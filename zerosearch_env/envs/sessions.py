"""`SessionSource`: one dataset, one engine and one set of rules from which many sessions start.

    source = SessionSource(dataset="questions.jsonl", noise_level=0.25)
    session = source.start(seed=7)                         # the episode of gym.make(...).reset(seed=7)
    sessions = map(source.start_row, source.rows(count=8)) # the episodes of a trainer's rows

It is what an adapter to another framework holds once per process, whatever number of episodes it plays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from ..checks import is_whole_number
from ..errors import ConfigError
from ..game.episode import Episode
from ..game.noise import check_level, check_progress
from ..game.noise_kinds import NoiseMixture, NoiseSpec
from ..types import Json
from .curriculum import Curriculum
from .options import EnvOptions, read_env_options
from .reset import draw_episode, read_options
from .rows import make_rows
from .session import Session
from .setup import Setup, SetupViews, make_setup

ROW_FIELDS = ("question_id", "noise_level", "seed", "extra_info")
"""What `SessionSource.start_row` reads of a row."""
_NOT_FOR_SESSIONS = ("render_mode", "on_engine_error")


class SessionSource(SetupViews):
    """Starts sessions that share a dataset, an engine and the rules.

    Sessions may be played at the same time, by threads or in an event loop. With a noise schedule, the progress of the
    curriculum is the number of sessions started before / `curriculum_episodes`, or it comes from outside: from
    `progress`, or from `set_progress`, which goes before it.

    Args:
        progress: called at each start; returns the progress of the training in [0, 1]. None: sessions are counted.
        **arguments: the arguments of `gymnasium.make("ZeroSearch-v0")`, except `render_mode` and `on_engine_error`: a
            session raises the `EngineError`, or says in its step how the engine failed.

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: the dataset is empty, or a question has no answer.

    Example:
        >>> from zerosearch_env import ConstantEngine
        >>> question = {"question": "What is the capital of France?", "answers": ["Paris"]}
        >>> source = SessionSource(dataset=[question], search_engine=ConstantEngine(), noise_level=0.5)
        >>> session = source.start(seed=0)
        >>> session.answer("Paris").reward
        1.0
    """

    # Any: `EnvOptions` gives each argument its type
    def __init__(self, *, progress: Callable[[], float] | None = None, **arguments: Any) -> None:
        options = read_env_options(**arguments)
        for name in _NOT_FOR_SESSIONS:
            if getattr(options, name) != getattr(EnvOptions(), name):
                raise ConfigError(f"sessions have no {name}: leave it out, or use gymnasium.make('ZeroSearch-v0').")
        self._setup: Setup = make_setup(options)
        self._curriculum = Curriculum(options.curriculum_episodes)
        self._progress = progress
        self._random = seeding.np_random()[0]
        self._lock = threading.Lock()

    # Any: `EnvOptions` gives each argument its type
    @classmethod
    def shared(cls, **arguments: Any) -> SessionSource:
        """The source of this process with these arguments; it is made at the first call and stays open.

        Frameworks make one environment object per episode. With this they all share one dataset and one search index.
        Equal arguments give the same object; Python objects among them (an engine, a function) are equal only to
        themselves. Files that change later are not read again.

        Args:
            **arguments: those of the class, except `progress`, which belongs to one training: call `set_progress`.

        Raises:
            ConfigError: see the class.
            DataError: see the class.
        """
        key = _comparable(arguments)
        with _SHARED_LOCK:
            if key not in _SHARED:
                _SHARED[key] = cls(**arguments)
            return _SHARED[key]

    @property
    def progress(self) -> float:
        """Progress of the curriculum in [0, 1], which the next session meets.

        Raises:
            ConfigError: the function `progress` returned something else.
        """
        if self._progress is None or self._curriculum.fixed is not None:
            return self._curriculum.value
        return check_progress(self._progress())

    def start(
        self,
        *,
        seed: int | np.random.Generator | None = None,
        question: int | str | None = None,
        noise_level: float | None = None,
        progress: float | None = None,
        noise_kind: NoiseSpec | NoiseMixture | None = None,
    ) -> Session:
        """Start the episode that `gymnasium.make("ZeroSearch-v0", ...).reset(seed=seed, options={...})` starts.

        Args:
            seed: a seed, or a generator from which the next episode is drawn, as by a reset without a seed. None: the
                source's own generator.
            question: index or id of the question. None: it is drawn.
            noise_level: probability in [0, 1] that a search is noisy. None: that of the source at its progress.
            progress: progress of the curriculum in [0, 1] for this session only. None: that of the source.
            noise_kind: what noisy searches return. None: that of the source at its progress.

        Raises:
            ConfigError: an argument is invalid, there is no such question, or the source was not made for this kind.
        """
        given = {"question": question, "noise_level": noise_level, "progress": progress, "noise_kind": noise_kind}
        options = read_options(self._setup, {key: value for key, value in given.items() if value is not None})
        random = seeding.np_random(seed)[0] if is_whole_number(seed) else seed
        if not isinstance(random, np.random.Generator | None):
            raise ConfigError(f"seed must be a whole number or a numpy Generator, got {seed!r}.")
        # NumPy's generators may be used by several threads.
        generator = self._random if random is None else random
        episode, _ = draw_episode(self._setup, generator, self._count(), options)
        return Session.of(episode, self.engine)

    # Any: a row has gone through the trainer's own dataset
    def start_row(self, row: Mapping[str, Any]) -> Session:
        """Start the episode of a row of `rows`. Every start of one row meets the same noise, as a group should.

        Args:
            row: has `question_id`, `noise_level`, `seed` and `extra_info`; more is ignored. If its noise level is None,
                the level is that of the source at its progress.

        Raises:
            ConfigError: the row is not one of this source: a field is missing, or its question or protocol is another.
        """
        index = self._index_of(row)
        reached = self._count()
        level = row["noise_level"]
        episode = Episode(
            self.dataset.questions[index],
            self.rules,
            noise_level=self._setup.noise_at(reached) if level is None else check_level(level),
            noise_kinds=self._setup.noise_kinds.at(reached),
            seed=int(row["seed"]),
        )
        return Session.of(episode, self.engine)

    def rows(
        self, *, seed: int = 0, count: int | None = None, answers: bool = False, noise_level: float | None = None
    ) -> list[dict[str, Json]]:
        """The rows of `zerosearch_env.rows` with the dataset and the rules of this source, for `start_row`.

        Args:
            seed: random seed of the noise.
            count: number of rows, the first questions of the dataset; None, or more than there are, takes all.
            answers: whether to include the gold answers. Leave them out unless the trainer itself needs them.
            noise_level: probability in [0, 1] that a search is noisy. None: the source's fixed level; with a schedule
                the rows have none, and a session gets the level that the schedule has reached when it starts.

        Raises:
            ConfigError: an argument is invalid.
        """
        fixed = None if callable(self._setup.noise) else self._setup.noise
        level = fixed if noise_level is None else check_level(noise_level)
        return make_rows(self.dataset, self.rules, level, seed, count, answers)

    def close(self) -> None:
        """Close the engine, if the source made it. Sessions that still play fail."""
        if self._setup.owns_engine:
            self._setup.engine.close()

    def _count(self) -> float:
        """Count a session, and return the progress that it meets."""
        with self._lock:
            reached = self.progress
            self._curriculum.ended += 1
        return reached

    def _index_of(self, row: Mapping[str, Any]) -> int:
        """The index of a row's question."""
        missing = [name for name in ROW_FIELDS if name not in row]
        if missing:
            raise ConfigError(
                f"expected a row of SessionSource.rows() or zerosearch_env.rows(), got one without {missing[0]!r}: "
                f"{sorted(map(str, row))}. Keep the columns of the rows in the trainer's dataset."
            )
        place, questions = row["extra_info"], self.dataset.questions
        index = place.get("index") if isinstance(place, Mapping) else None
        if not is_whole_number(index) or not 0 <= index < len(questions) or questions[index].id != row["question_id"]:
            raise ConfigError(
                f"row {row['question_id']!r} (extra_info: {place!r}) is not in dataset {self.dataset.name!r}, split "
                f"{self.dataset.split!r}: make the rows and the sessions from the same dataset and split."
            )
        if place.get("protocol") != self.rules.protocol.name:
            raise ConfigError(
                f"row {row['question_id']!r} has a prompt of the protocol {place.get('protocol')!r}, but the sessions "
                f"play {self.rules.protocol.name!r}: use the same protocol for both."
            )
        return int(index)


_SHARED: dict[Hashable, SessionSource] = {}
_SHARED_LOCK = threading.Lock()


def _comparable(value: object) -> Hashable:
    """A key for arguments: plain values by their content, other objects by identity (their source keeps them alive)."""
    if isinstance(value, Mapping):
        return ("mapping", *sorted((str(name), _comparable(entry)) for name, entry in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(_comparable, value))
    return (type(value).__name__, value if isinstance(value, str | int | float | None) else id(value))
