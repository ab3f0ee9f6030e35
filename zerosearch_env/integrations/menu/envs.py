"""`MenuEnv` and `MenuVectorEnv`: the environment with menu entries as actions and numbers as observations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
from gymnasium.error import InvalidAction
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ...checks import check_whole_number, is_whole_number
from ...engines import SearchEngine
from ...engines.corpus.engine import CorpusEngine
from ...envs.curriculum import Curriculum
from ...envs.setup import METADATA, RENDER_MODES, Setup, SetupViews
from ...envs.single import ZeroSearchEnv
from ...envs.vector import ZeroSearchVectorEnv
from ...errors import ArgumentError, ConfigError
from ...game.episode import Episode
from ...game.rules import Rules
from ...types import Dataset, Document, Info
from .menu import Bools, Floats, Menu, action_count, feature_count
from .reading import read_document

MAX_CANDIDATES = 64
"""The largest menu has so many candidates."""
_SAMPLED = 64
"""Number of documents in which candidates are looked for when an environment is made."""


class MenuEnv(SetupViews, gymnasium.Env[Floats, np.int64]):
    """`ZeroSearchEnv` as a finite menu, for learners that do not write text (DQN, PPO with an MLP, tables, ...).

    `gymnasium.make("zerosearch_env:ZeroSearchMenu-v0", **arguments)`. It plays the episodes of `"ZeroSearch-v0"` with
    the same seeds: questions, noise, limits and rewards are the same. docs/stable-baselines3.md has examples.

    ## Action Space
    `Discrete(2 k + 2)` for k candidates:

    | action | what it does |
    |---|---|
    | 0 | search the question |
    | 1 .. k | search with candidate 1 .. k and the words of the question's next step |
    | k+1 .. 2k | answer candidate 1 .. k, which ends the episode |
    | 2k+1 | abstain, which ends the episode |

    Candidates are names and numbers in the documents seen so far, the best first. An entry that is empty is an invalid
    turn; `action_masks()` and `info["action_mask"]` say which are not.

    ## Observation Space
    `Box(0, 1)` of `FEATURES` and, for each candidate, `CANDIDATE_FEATURES`: turn, new documents, agreement, hop, score,
    match with the subject, relation words, fit of the kind, and so on. They are read from the text of the question and
    the titles and texts of the documents, never from `noisy`, the gold answers or `answer_in_documents`.

    ## Info
    That of `ZeroSearchEnv`, and `action_mask` (int8, shape (2 k + 2,)).

    Args:
        candidates: number of candidates on the menu, from 1 to 64.
        **arguments: the arguments of `ZeroSearchEnv`.

    Raises:
        ConfigError: an argument is invalid, or the documents of the dataset hold no candidates.
        DataError: the dataset is empty, or a question has no answer.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("zerosearch_env:ZeroSearchMenu-v0", world={"passages": 200}, candidates=2)
        >>> observation, info = env.reset(seed=0)
        >>> env.action_space, info["action_mask"].tolist()
        (Discrete(6), [1, 0, 0, 0, 0, 1])
        >>> observation, reward, terminated, truncated, info = env.step(0)
        >>> info["query"] == env.unwrapped.episode.question.text
        True
    """

    # Any: Gymnasium declares it so
    metadata: ClassVar[dict[str, Any]] = dict(METADATA)  # type: ignore[misc]

    # Any: `EnvOptions` gives each argument its type
    def __init__(self, *, candidates: int = 4, **arguments: Any) -> None:
        self.candidates = check_candidates(candidates)
        if arguments.get("render_mode") == "rgb_array":
            raise ArgumentError(f"render_mode 'rgb_array': there are no images; expected one of {RENDER_MODES}.")
        self.text_env = ZeroSearchEnv(**arguments)
        """The environment that is played."""
        self.render_mode = self.text_env.render_mode
        check_documents(self.text_env)
        self.observation_space, self.action_space = menu_spaces(self.candidates)
        self._menu = Menu("", self._setup.rules, self.candidates)

    # Properties, so that a copy or a pickle of this environment leaves to the inner one what is shared.
    @property
    def _setup(self) -> Setup:  # type: ignore[override]
        return self.text_env._setup

    @property
    def _curriculum(self) -> Curriculum:  # type: ignore[override]
        return self.text_env._curriculum

    @property
    def episode(self) -> Episode:
        """The current episode, or the one that has just ended; see `ZeroSearchEnv.episode`."""
        return self.text_env.episode

    @property
    def menu(self) -> Menu:
        """The menu of the current episode."""
        return self._menu

    def action_masks(self) -> Bools:
        """Which actions are not empty, shape (2 k + 2,): the form that MaskablePPO of sb3-contrib asks for."""
        return self._menu.mask()

    # Any: Gymnasium declares it so
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, Info]:
        """Start an episode; see `ZeroSearchEnv.reset`."""
        super().reset(seed=seed)  # only for wrappers that read np_random; episodes are drawn by the inner environment
        _, info = self.text_env.reset(seed=seed, options=options)
        self._menu = Menu(self.episode.question.text, self._setup.rules, self.candidates)
        return self._menu.features(), self._with_mask(info)

    def step(self, action: np.int64 | int) -> tuple[Floats, float, bool, bool, Info]:
        """Choose an entry of the menu.

        Args:
            action: index of the entry.

        Raises:
            gymnasium.error.InvalidAction: there is no such entry.
            gymnasium.error.ResetNeeded: before the first reset, or after the end of the episode.
            EngineError: the engine failed and `on_engine_error="raise"`; the episode is over.
        """
        text = turn_text(self._menu, check_entry(action, self.candidates), self._setup.rules)
        _, reward, terminated, truncated, info = self.text_env.step(text)
        self._menu.observe(info["documents"] if info["action"] == "search" else None)
        return self._menu.features(), reward, terminated, truncated, self._with_mask(info)

    def render(self) -> str | None:
        """Render the episode so far; see `ZeroSearchEnv.render`."""
        return self.text_env.render()

    def close(self) -> None:
        """Close the engine if the environment created it."""
        self.text_env.close()

    def _with_mask(self, info: Info) -> Info:
        info["action_mask"] = self._menu.mask().astype(np.int8)
        return info


class MenuVectorEnv(SetupViews, VectorEnv[Floats, NDArray[np.int64], NDArray[Any]]):
    """N episodes of `MenuEnv` in parallel, with one search-engine call per step.

    `gymnasium.make_vec("zerosearch_env:ZeroSearchMenu-v0", num_envs=N, **arguments)`. Infos, seeds and autoreset modes
    are those of `ZeroSearchVectorEnv`; `infos["action_mask"]` has shape (N, 2 k + 2).

    Args:
        num_envs: number of sub-environments, N.
        candidates: number of candidates on the menu, from 1 to 64.
        autoreset_mode: see `ZeroSearchVectorEnv`.
        max_episode_steps: see `ZeroSearchVectorEnv`.
        **arguments: the arguments of `ZeroSearchEnv`.

    Raises:
        ConfigError: an argument is invalid, or the documents of the dataset hold no candidates.
        DataError: the dataset is empty, or a question has no answer.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        candidates: int = 4,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **arguments: Any,  # Any: `EnvOptions` gives each argument its type
    ) -> None:
        self.candidates = check_candidates(candidates)
        self.text_envs = ZeroSearchVectorEnv(
            num_envs, autoreset_mode=autoreset_mode, max_episode_steps=max_episode_steps, **arguments
        )
        """The vector environment that is played."""
        self.num_envs = self.text_envs.num_envs
        self.metadata = self.text_envs.metadata
        self.render_mode = self.text_envs.render_mode
        check_documents(self.text_envs)
        self.single_observation_space, self.single_action_space = menu_spaces(self.candidates)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._episodes: list[Episode] = []
        self._menus: list[Menu] = []

    @property
    def _setup(self) -> Setup:  # type: ignore[override]
        return self.text_envs._setup

    @property
    def _curriculum(self) -> Curriculum:  # type: ignore[override]
        return self.text_envs._curriculum

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The current episode of every sub-environment; empty before the first reset."""
        return self.text_envs.episodes

    def action_masks(self) -> Bools:
        """Which actions are not empty, shape (N, 2 k + 2)."""
        return np.stack([menu.mask() for menu in self._menus])

    # Any: Gymnasium declares it so
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, Info]:
        """Start an episode in every sub-environment, or in those of a mask; see `ZeroSearchVectorEnv.reset`."""
        _, infos = self.text_envs.reset(seed=seed, options=options)
        self._renew()
        return self._features(), self._with_masks(infos)

    def step(
        self, actions: NDArray[np.int64] | Sequence[int]
    ) -> tuple[Floats, NDArray[np.float64], Bools, Bools, Info]:
        """Choose an entry of the menu in every sub-environment; see `ZeroSearchVectorEnv.step`.

        Raises:
            gymnasium.error.InvalidAction: not N actions, or there is no such entry; no episode was advanced.
        """
        entries = [check_entry(action, self.candidates) for action in actions]
        if len(entries) != self.num_envs:
            raise InvalidAction(f"expected {self.num_envs} actions, one per sub-environment, got {len(entries)}.")
        texts = [turn_text(menu, entry, self.rules) for menu, entry in zip(self._menus, entries, strict=True)]
        _, rewards, terminations, truncations, infos = self.text_envs.step(texts)
        before = self._menus
        started = self._renew()
        for index, menu in enumerate(self._menus):
            if index not in started:
                menu.observe(infos["documents"][index] if infos["action"][index] == "search" else None)
        if "final_obs" in infos:
            for index in np.flatnonzero(infos["_final_obs"]).tolist():
                before[index].observe(None)
                infos["final_obs"][index] = before[index].features()
        return self._features(), rewards, terminations, truncations, self._with_masks(infos)

    # Any: Gymnasium declares it so
    def render(self) -> tuple[Any, ...] | None:
        """The rendering of every sub-environment; see `ZeroSearchVectorEnv.render`."""
        return self.text_envs.render()

    # Any: Gymnasium declares it so
    def close_extras(self, **kwargs: Any) -> None:
        """Close the engine if the environment created it."""
        self.text_envs.close()

    def _renew(self) -> set[int]:
        """Give new episodes new menus; returns the sub-environments that have one."""
        episodes = list(self.text_envs.episodes)
        known: Sequence[Episode | None] = self._episodes or [None] * self.num_envs
        new = {index for index, episode in enumerate(episodes) if episode is not known[index]}
        self._menus = [
            Menu(episode.question.text, self.rules, self.candidates) if index in new else self._menus[index]
            for index, episode in enumerate(episodes)
        ]
        self._episodes = episodes
        return new

    def _features(self) -> Floats:
        return np.stack([menu.features() for menu in self._menus])

    def _with_masks(self, infos: Info) -> Info:
        infos["action_mask"] = self.action_masks().astype(np.int8)
        infos["_action_mask"] = np.ones(self.num_envs, np.bool_)
        return infos


def turn_text(menu: Menu, entry: int, rules: Rules) -> str:
    """Choose an entry of a menu, and write it as a turn in the tags of the protocol."""
    kind, content = menu.take(entry)
    if kind == "search":
        return rules.protocol.render_search(content)
    return rules.protocol.render_answer(content) if kind == "answer" else ""


def menu_spaces(candidates: int) -> tuple[Space[Floats], Discrete]:
    """The observation space and the action space of a menu with so many candidates."""
    box = Box(0.0, 1.0, (feature_count(candidates),), np.float32)
    return cast("Space[Floats]", box), Discrete(action_count(candidates))


def check_candidates(candidates: object) -> int:
    """Check the size of a menu.

    Raises:
        ConfigError: it is not a whole number from 1 to 64.
    """
    count = check_whole_number("candidates", candidates)
    if count > MAX_CANDIDATES:
        raise ConfigError(f"candidates must be at most {MAX_CANDIDATES}, got {count}.")
    return count


def check_entry(action: object, candidates: int) -> int:
    """Check that an action is an entry of the menu.

    Raises:
        gymnasium.error.InvalidAction: it is not.
    """
    value = action.item() if isinstance(action, np.ndarray) and action.ndim == 0 else action
    if not is_whole_number(value) or not 0 <= value < action_count(candidates):
        last = action_count(candidates) - 1
        raise InvalidAction(f"an action must be a whole number from 0 to {last}, got {action!r}.")
    return int(value)


def check_documents(env: ZeroSearchEnv | ZeroSearchVectorEnv) -> None:
    """Check that some documents of a dataset hold candidates. What a remote engine will find is not known before.

    Raises:
        ConfigError: none does; the environment is closed.
    """
    documents = list(islice(_known_documents(env.engine, env.dataset), _SAMPLED))
    if documents and not any(s.spans for d in documents for s in read_document(d.title, d.text).sentences):
        env.close()
        raise ConfigError(
            f"the documents of dataset {env.dataset.name!r} hold no candidates for a menu: expected names with "
            f"capital letters, or numbers, and none of the first {len(documents)} has any; the first is "
            f"{documents[0].text[:80]!r}. Use ZeroSearch-v0, in which a policy writes its answers."
        )


def _known_documents(engine: SearchEngine, dataset: Dataset) -> Iterator[Document]:
    if isinstance(engine, CorpusEngine):
        yield from engine.passages
    yield from dataset.passages or ()
    for question in dataset.questions:
        for paragraph in question.paragraphs or ():
            yield Document(paragraph.title, paragraph.text)
