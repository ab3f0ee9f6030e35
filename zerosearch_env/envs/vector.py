"""`ZeroSearchVectorEnv`: many episodes in parallel, with one search-engine call per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ..checks import check_options, check_whole_number
from ..engines.run import run_searches
from ..errors import ConfigError, EngineError, unknown_name
from ..game.episode import Episode, Outcome
from ..game.together import advance, advance_all
from ..types import SearchRequest, SearchResult, Step, StopReason
from .curriculum import Curriculum
from .infos import Infos, batch_infos, no_draw
from .options import EnvOptions, read_env_options
from .reset import NO_OPTIONS, RESET_EXAMPLE, ResetOptions, check_action, draw_episode, read_options
from .setup import METADATA, SetupViews, make_setup
from .spaces import UnicodeText

Observations = tuple[str, ...]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ARGUMENTS = {"num_envs", "autoreset_mode", "max_episode_steps", *(option.name for option in fields(EnvOptions))}
"""Every argument of the vector environment."""
_OF_EACH = {"episode": "episodes", **{name: name for name in ("np_random", "np_random_seed", "render")}}
"""Attributes that differ between sub-environments -> where the vector environment has all of them."""
_SINGLE = {f"{name}_space": f"single_{name}_space" for name in ("observation", "action")}
"""Attributes that sub-environments share -> their name in the vector environment, if it is another one."""
_OF_ALL = ("reset", "step", "close")
"""Methods that exist for all sub-environments together only."""


class ZeroSearchVectorEnv(SetupViews, VectorEnv[Observations, Sequence[str], NDArray[Any]]):
    """N episodes of `ZeroSearchEnv` in parallel, with one search-engine call per step.

    `gymnasium.make_vec("ZeroSearch-v0", num_envs=N, **arguments)`. With the same seeds it plays exactly the episodes of
    N single environments. The exception is a curriculum that counts episodes: it counts those of all sub-environments
    together.

    Observations are a tuple of N strings; actions are any sequence of N strings. `info` has, for each key, an array of
    length N and a boolean mask `_key` of the sub-environments that have a value. Numbers (`noise_level`, `progress`,
    `turn`, `searches`, `em`, `f1`, `subem`, `em_unicode`, `f1_unicode`) are in numeric arrays, `answer_in_documents`
    and `noisy` in boolean arrays, everything else in object arrays, and so is `noisy` with `noise_unit="document"`.
    The dtypes are those of Gymnasium's own vector environments.

    After the end of an episode, `autoreset_mode` decides when a sub-environment starts the next one, as in Gymnasium's
    own vector environments:

    - `"NextStep"` (the default): in the next step; the action of that step is ignored;
    - `"SameStep"`: in the same step; `info["final_obs"]` and `info["final_info"]` describe the end of the episode;
    - `"Disabled"`: when the caller calls `reset(options={"reset_mask": mask})`.

    Args:
        num_envs: number of sub-environments, N.
        autoreset_mode: an `AutoresetMode`, its value or its name.
        max_episode_steps: truncate episodes after this many turns, as Gymnasium's `TimeLimit` does for single
            environments. None: only the limits of the rules apply.
        **arguments: the arguments of `ZeroSearchEnv`.

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: the dataset is empty, or a question has no answer.

    Example:
        >>> import gymnasium as gym, zerosearch_env
        >>> data = [{"question": "What is the capital of France?", "answers": ["Paris"]}]
        >>> engine = zerosearch_env.ConstantEngine()
        >>> envs = gym.make_vec("ZeroSearch-v0", num_envs=2, dataset=data, search_engine=engine)
        >>> observations, infos = envs.reset(seed=0)
        >>> actions = ("<search>capital of France</search>", "<answer>Paris</answer>")
        >>> observations, rewards, terminations, truncations, infos = envs.step(actions)
        >>> rewards.tolist(), terminations.tolist(), infos["em"][infos["_em"]].tolist()
        ([0.0, 1.0], [False, True], [1.0])
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **arguments: Any,  # Any: `EnvOptions` gives each argument its type
    ) -> None:
        self.num_envs = check_whole_number("num_envs", num_envs)
        if max_episode_steps is not None:
            check_whole_number("max_episode_steps", max_episode_steps, hint="None means no limit.")
        self.autoreset_mode = _read_mode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        for name in arguments:
            if name not in _ARGUMENTS:
                raise unknown_name("argument of the vector environment", name, _ARGUMENTS)
        self._setup = make_setup(read_env_options(**arguments))
        self.render_mode = self._setup.options.render_mode
        self._limit = max_episode_steps
        self._unset = no_draw(self._setup.rules)
        self._curriculum = Curriculum(self._setup.options.curriculum_episodes)
        self.single_observation_space = UnicodeText()
        self.single_action_space = UnicodeText(protocol=self._setup.rules.protocol)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds: list[int | None] = [None] * self.num_envs
        self._episodes: list[Episode] = []
        self._observations: list[str] = [""] * self.num_envs
        self._over = [False] * self.num_envs
        self._started: list[tuple[int | None, ResetOptions]] = [(None, NO_OPTIONS)] * self.num_envs
        self._shown = [0] * self.num_envs
        self._attributes: dict[str, list[Any]] = {}
        self.finished: list[tuple[int, Episode]] = []
        """The episodes that ended in the last step, each with the index of its sub-environment."""

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The current episode of every sub-environment; empty before the first reset."""
        return tuple(self._episodes)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generator of every sub-environment."""
        return tuple(self._rng(index) for index in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of every sub-environment's random generator."""
        return tuple(self._seeds[index] for index in range(self.num_envs) if self._rng(index))

    # Any: Gymnasium declares it so
    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method or get an attribute of every sub-environment, as in Gymnasium's vector environments.

        Args:
            name: for example `"set_progress"`, `"episode"`, `"stop_strings"`, `"render"`, or an attribute that
                `set_attr` has set.
            *args: arguments of the method.
            **kwargs: keyword arguments of the method.

        Returns:
            One value per sub-environment.

        Raises:
            AttributeError: there is no such attribute, or it is one that plays or closes a single sub-environment.
        """
        if name in _OF_ALL:
            raise AttributeError(f"{name!r} acts on all sub-environments at once: call it on the vector environment.")
        values: Iterable[Any] | None = self._attributes.get(name)
        if name in _OF_EACH:
            values = getattr(self, _OF_EACH[name])
            values = self.render() if name == "render" else values
        if values is not None:
            return tuple(value(*args, **kwargs) if callable(value) else value for value in values)
        shared = getattr(self, _SINGLE.get(name, name))
        return (shared(*args, **kwargs) if callable(shared) else shared,) * self.num_envs

    # Any: Gymnasium declares it so
    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every sub-environment; see `call`."""
        return self.call(name)

    # Any: Gymnasium declares it so
    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every sub-environment, as in Gymnasium's vector environments; `get_attr` returns it.

        The sub-environments share dataset, engine, rules and curriculum, so those cannot be set for one of them.

        Args:
            name: a name of your own, or `"np_random"` (generators, which the next resets draw from).
            values: a list or tuple with one value per sub-environment, or one value for all of them.

        Raises:
            ConfigError: there is not one value per sub-environment.
            AttributeError: the attribute is one of the environment's own.
        """
        each = list(values) if isinstance(values, (list, tuple)) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ConfigError(
                f"set_attr({name!r}) needs one value or a list of {self.num_envs}, one per sub-environment, "
                f"got {len(each)}."
            )
        if name == "np_random":
            self._rngs = each
            self._seeds = [-1] * self.num_envs  # Gymnasium's sign for "not known"
        elif name.startswith("_") or name in _OF_EACH or hasattr(self, name):
            way_out = " Use call('set_progress', x)." if name == "progress" else ""
            raise AttributeError(f"{name!r} belongs to the environment and cannot be set.{way_out}")
        else:
            self._attributes[name] = each

    # Any: Gymnasium declares it so
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, Infos]:
        """Start an episode in every sub-environment, or in those selected by a mask.

        Args:
            seed: an integer s (sub-environment i gets s + i), a sequence with one seed or None per sub-environment, or
                None.
            options: the options of `ZeroSearchEnv.reset`, each given as one value for all sub-environments or as a list
                with one value for each; and `reset_mask`, a boolean array of shape (N,): sub-environments with False
                continue their episode. The dict is not changed.

        Returns:
            All observations (a sub-environment that was not reset keeps its last one), and the infos of the
            sub-environments that were reset.

        Raises:
            ConfigError: an option is unknown or has an invalid value; all episodes continue.
            gymnasium.error.ResetNeeded: a mask was given before the first full reset.
            gymnasium.error.ClosedEnvironmentError: the environment was closed.
        """
        if self.closed:
            raise ClosedEnvironmentError("This environment was closed: make a new one with gymnasium.make_vec().")
        rest = check_options("options", options or {}, RESET_EXAMPLE)
        chosen = self._read_mask(rest.pop("reset_mask")) if "reset_mask" in rest else range(self.num_envs)
        seeds = self._read_seeds(seed)
        checked = self._read_options(rest, chosen)
        if not self._episodes:
            if len(chosen) < self.num_envs:
                raise ResetNeeded("reset_mask was given before the first reset: call reset() without it first.")
            self._episodes = [None] * self.num_envs  # type: ignore[list-item]
        self.finished = []
        infos: dict[int, Infos] = {}
        for index in chosen:
            started = (seeds[index], checked[index])
            again = seeds[index] is not None and started == self._started[index]  # the same episode starts again
            if not (again or self._over[index]):  # one that is over was counted at its end
                self._curriculum.count_abandoned(self._episodes[index])
        for index in chosen:
            if seeds[index] is not None:
                self._rngs[index], self._seeds[index] = seeding.np_random(seeds[index])
            infos[index] = self._start(index, self._curriculum.value, checked[index], seeds[index])
        self._display(chosen)
        return tuple(self._observations), batch_infos(self.num_envs, infos, {})

    def step(self, actions: Sequence[str]) -> tuple[Observations, Floats, Bools, Bools, Infos]:
        """Play one turn in every sub-environment.

        Args:
            actions: the policy's texts, one per sub-environment.

        Returns:
            Observations, rewards, terminations, truncations and infos; see the class.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset; with autoreset disabled also if an episode is over.
            gymnasium.error.InvalidAction: not N actions, or an action is not a string; no episode was advanced.
            EngineError: a search failed and `on_engine_error="raise"`; the episodes with a failed search are over.
        """
        texts = self._read_actions(actions)
        if not self._episodes:
            raise ResetNeeded(
                "step() was called before reset(): start with `observations, infos = envs.reset(seed=0)`."
            )
        starts: dict[int, Infos] = {}
        if True in self._over:
            over = [index for index, done in enumerate(self._over) if done]
            if self.autoreset_mode is AutoresetMode.DISABLED:
                raise ResetNeeded(
                    f"The episodes of sub-environments {over} are over and autoreset is disabled: call "
                    'reset(options={"reset_mask": terminations | truncations}) first.'
                )
            progress = self._curriculum.value
            for index in over:
                starts[index] = self._start(index, progress)
        return self._report(self._play(texts, starts), starts)

    def _play(self, texts: Sequence[str], skip: Mapping[int, Infos]) -> dict[int, Step]:
        """Advance every episode that was not just started. All their searches go into one engine call."""
        episodes = self._episodes
        steps: dict[int, Step] = {}
        searching: list[int] = []
        requests: list[SearchRequest] = []
        playing = [i for i in range(self.num_envs) if i not in skip] if skip else range(self.num_envs)
        waiting: list[Outcome] = []
        if self._setup.rules.waits:
            waiting = advance_all([episodes[i] for i in playing], [texts[i] for i in playing], advance)
        for place, index in enumerate(playing):
            outcome = waiting[place] if waiting else episodes[index].advance(texts[index])
            if isinstance(outcome, Step):
                steps[index] = outcome
                continue
            searching.append(index)
            if isinstance(outcome, SearchRequest):
                requests.append(outcome)
            else:
                requests += outcome
        results: Sequence[SearchResult] = ()
        if searching:
            results = run_searches(self._setup.engine, requests)
            if len(results) == len(searching):
                for index, result in zip(searching, results, strict=True):
                    steps[index] = episodes[index].observe(result)
            else:
                left = iter(results)
                for index in searching:
                    steps[index] = episodes[index].observe([next(left) for _ in episodes[index].requests])
        if self._setup.options.on_engine_error == "raise":
            self._raise_failures(steps, results)
        return steps

    def _raise_failures(self, steps: Mapping[int, Step], results: Sequence[SearchResult]) -> None:
        failures = [step.error for step in steps.values() if step.stop_reason is StopReason.ENGINE_ERROR]
        if failures:
            for index, step in steps.items():
                self._over[index] = self._ends(step)
            self._curriculum.ended += sum(map(self._ends, steps.values()))
            failed = [result for result in results if result.failure is not None]
            if not failed:
                raise EngineError(f"{failures[0]} ({len(failures)} rewards have no value)")
            raise EngineError(
                f"{failed[0].failure} ({len(failed)} of {len(results)} searches failed)", failed[0].attempts
            )

    def _report(self, steps: dict[int, Step], starts: dict[int, Infos]) -> tuple[Any, ...]:
        count = self.num_envs
        rewards, terminations, truncations = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        observations = self._observations
        ended: list[int] = []
        limited = self._limit is not None
        for index, step in steps.items():
            observations[index] = step.observation
            if step.stop_reason is not None or (limited and self._ends(step)):
                ended.append(index)
        if ended:
            reasons = [steps[index].stop_reason for index in ended]
            rewards[ended] = [steps[index].reward for index in ended]
            terminations[ended] = [reason is not None and reason.terminates for reason in reasons]
            truncations[ended] = ~terminations[ended]
            self._curriculum.ended += len(ended)
        self.finished = [(index, self._episodes[index]) for index in ended]
        self._over = [False] * count
        for index in ended:
            self._over[index] = True
        self._display(range(count))
        final: Infos = {}
        if ended and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = self._restart(sorted(ended), steps, starts)
        infos = batch_infos(count, starts, steps, self._unset)
        infos.update(final)
        return (
            tuple(observations),
            rewards,
            terminations,
            truncations,
            infos,
        )

    def _ends(self, step: Step) -> bool:
        """True if an episode ends with this step, by its rules or by the time limit."""
        return step.stop_reason is not None or (self._limit is not None and step.turn >= self._limit)

    def _restart(self, ended: Sequence[int], steps: dict[int, Step], starts: dict[int, Infos]) -> Infos:
        """Same-step autoreset: keep the last observations and infos under `final_` keys, start the next episodes."""
        final_obs = np.empty(self.num_envs, object)
        final_obs[ended] = [self._observations[index] for index in ended]
        mask = np.zeros(self.num_envs, np.bool_)
        mask[ended] = True
        final_steps = {index: steps.pop(index) for index in ended}
        progress = self._curriculum.value
        starts.update({index: self._start(index, progress) for index in ended})
        return {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": batch_infos(self.num_envs, {}, final_steps, self._unset),
            "_final_info": mask.copy(),
        }

    def _start(self, index: int, progress: float, options: ResetOptions = NO_OPTIONS, seed: int | None = None) -> Infos:
        episode, info = draw_episode(self._setup, self._rng(index), progress, options)
        self._episodes[index] = episode
        self._started[index] = (seed, options)
        self._observations[index] = episode.prompt
        self._over[index] = False
        self._shown[index] = 0
        return info

    def _rng(self, index: int) -> np.random.Generator:
        rng = self._rngs[index]
        if rng is None:
            rng, self._seeds[index] = seeding.np_random()
            self._rngs[index] = rng
        return rng

    def _read_actions(self, actions: Any) -> Sequence[str]:
        if isinstance(actions, (str, bytes)) or not isinstance(actions, Iterable):
            raise InvalidAction(f"expected a sequence of {self.num_envs} strings, got {type(actions).__name__}.")
        texts = list(actions)
        if set(map(type, texts)) != {str}:
            texts = [check_action(action) for action in texts]
        if len(texts) != self.num_envs:
            raise InvalidAction(f"expected {self.num_envs} actions, one per sub-environment, got {len(texts)}.")
        return texts

    def _read_mask(self, mask: Any) -> Sequence[int]:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            got = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ConfigError(f"options['reset_mask'] must be a boolean array of shape ({self.num_envs},), got {got}.")
        if not mask.any():
            raise ConfigError("options['reset_mask'] must be true for at least one sub-environment.")
        return [int(index) for index in np.flatnonzero(mask)]

    def _read_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigError(f"seed must have {self.num_envs} seeds, one per sub-environment, got {len(seed)}.")
        return [None if value is None else int(value) for value in seed]

    def _read_options(self, options: Mapping[str, Any], chosen: Sequence[int]) -> Mapping[int, ResetOptions]:
        """The checked options of every sub-environment that will be reset."""
        lists = {key: value for key, value in options.items() if isinstance(value, (list, tuple, np.ndarray))}
        for key, value in lists.items():
            if len(value) != self.num_envs:
                raise ConfigError(f"options[{key!r}] must be one value or {self.num_envs} of them, got {len(value)}.")
        if not lists:
            return dict.fromkeys(chosen, read_options(self._setup, options))
        return {
            index: read_options(self._setup, {**options, **{key: value[index] for key, value in lists.items()}})
            for index in chosen
        }

    # Any: Gymnasium declares it so
    def render(self) -> tuple[Any, ...] | None:
        """The result of `ZeroSearchEnv.render` for every sub-environment.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if not self._episodes:
            raise ResetNeeded("render() was called before reset(): there is no episode yet.")
        if self.render_mode is None or self.render_mode == "human":
            self._display(range(self.num_envs))
            return (None,) * self.num_envs
        from ..records.html import render_html
        from ..records.terminal import render_ansi
        from ..records.transcripts import transcript_record

        render: Callable[[Mapping[str, Any]], str] = render_ansi if self.render_mode == "ansi" else render_html
        return tuple(render(transcript_record(episode)) for episode in self._episodes)

    def _display(self, indices: Iterable[int]) -> None:
        if self.render_mode != "human":
            return
        from ..records.terminal import print_new
        from ..records.transcripts import transcript_record

        for index in indices:
            record = transcript_record(self._episodes[index])
            self._shown[index] = print_new(record, self._shown[index], title=f"environment {index}")

    # Any: Gymnasium declares it so
    def close_extras(self, **kwargs: Any) -> None:
        """Close the engine if the environment created it."""
        self._episodes = []
        if self._setup.owns_engine:
            self._setup.engine.close()


def _read_mode(mode: str | AutoresetMode) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {member.value: member for member in AutoresetMode}
    names.update({member.name: member for member in AutoresetMode})
    if mode not in names:
        raise unknown_name("autoreset_mode", mode, [member.value for member in AutoresetMode])
    return names[mode]
