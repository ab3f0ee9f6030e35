"""Agents of Stable-Baselines3 as players: `menu:FILE.zip` or a folder with one, trained on `"ZeroSearchMenu-v0"`.

They see what the menu environment shows (`zerosearch_env.integrations.menu`) and play the episodes of every other
agent. An algorithm that takes action masks gets them; the most probable action is taken.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.errors import CheckpointError, ConfigError, require
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules
from zerosearch_env.game.together import advance
from zerosearch_env.identity import file_hash
from zerosearch_env.integrations.menu.envs import turn_text
from zerosearch_env.integrations.menu.menu import Bools, Floats, Menu, feature_count
from zerosearch_env.progress import WORK
from zerosearch_env.types import Step

from .base import OnDone, Player, blocks
from .builtin.turns import take_turns

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

Choose = Callable[[Floats, Bools], NDArray[np.int64]]
"""(observations (N, features), masks (N, actions)) -> an action for each."""

_ALGORITHMS = {
    "sb3_contrib.common.maskable.policies": "sb3_contrib.MaskablePPO",
    "sb3_contrib.qrdqn.policies": "sb3_contrib.QRDQN",
    "stable_baselines3.dqn.policies": "stable_baselines3.DQN",
    "stable_baselines3.common.policies": "stable_baselines3.PPO",
}
"""Module of a policy -> the algorithm that trains it."""
_BEST = ("best_model.zip", "model.zip")
"""Names that decide if a folder holds several files."""


class MenuPlayer(Player):
    """Plays by choosing from menus; all episodes turn by turn.

    Args:
        choose: chooses an action for each of several observations.
        candidates: number of candidates on the menus that it knows.
        name: name in results.
        identity: see `Player.identity`.
    """

    def __init__(
        self, choose: Choose, *, candidates: int = 4, name: str = "menu", identity: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self._choose = choose
        self._candidates = candidates
        self._identity = identity or {}

    @property
    def greedy(self) -> bool:
        """See `Player.greedy`."""
        return True

    @property
    def identity(self) -> dict[str, str]:
        """See `Player.identity`: the file of the agent."""
        return self._identity

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`."""
        for block, done in blocks(episodes, on_done):
            menus = {i: self._menu(block[i]) for i in range(len(block))}
            rules = block[0].rules
            while menus:
                texts = self._turns(menus, rules)
                WORK.add(turns=len(texts))
                steps = take_turns(block, texts, engine, done, take=advance)
                menus = {i: _read(menus[i], step) for i, step in steps.items()}

    def _menu(self, episode: Episode) -> Menu:
        return Menu(episode.question.text, episode.rules, self._candidates)

    def _turns(self, menus: dict[int, Menu], rules: Rules) -> dict[int, str]:
        features = np.stack([menu.features() for menu in menus.values()])
        masks = np.stack([menu.mask() for menu in menus.values()])
        actions = self._choose(features, masks)
        return {i: turn_text(menus[i], int(action), rules) for i, action in zip(menus, actions, strict=True)}


def _read(menu: Menu, step: Step) -> Menu:
    menu.observe(step.documents if step.action == "search" else None)
    return menu


def load_menu_player(path: str, *, name: str | None = None) -> MenuPlayer:
    """Load an agent that Stable-Baselines3 has saved (`model.save`). Loading runs code in the file: use your own.

    Args:
        path: the zip file, or a folder that holds one; of several, `best_model.zip` or `model.zip`.
        name: name in results; None: `menu:PATH`.

    Raises:
        ConfigError: there is no such file, or it was trained on other observations.
        CheckpointError: the file is damaged or holds no agent of a known algorithm.
        MissingExtraError: Stable-Baselines3 is not installed.
    """
    file = find_model(path)
    model, masked = _load(file)
    shape, actions = model.observation_space.shape, int(getattr(model.action_space, "n", 0))
    candidates = (actions - 2) // 2
    if actions < 4 or shape != (feature_count(candidates),):
        raise ConfigError(
            f"agent {file}: it was trained on observations of shape {shape} with {actions} actions, not on those of "
            '"ZeroSearchMenu-v0"; train it on gym.make("zerosearch_env:ZeroSearchMenu-v0")'
        )

    def choose(features: Floats, masks: Bools) -> NDArray[np.int64]:
        options = {"action_masks": masks} if masked else {}
        chosen: NDArray[np.int64] = model.predict(features, deterministic=True, **options)[0]
        return chosen

    return MenuPlayer(choose, candidates=candidates, name=name or f"menu:{path}", identity={"model": file_hash(file)})


def find_model(path: str) -> Path:
    """The zip file that a path means; see `load_menu_player`.

    Raises:
        ConfigError: there is none, or a folder holds several.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(place.glob("*.zip"))
        named = [place / name for name in _BEST if (place / name) in files]
        if len(files) == 1 or named:
            return (named or files)[0]
        what = ", ".join(file.name for file in files) or "none"
        raise ConfigError(f"agent menu:{path}: expected one model (.zip) in this folder, found {what}")
    for file in (place, place.with_name(f"{place.name}.zip")):
        if file.is_file():
            return file
    raise ConfigError(
        f"agent menu:{path}: no such file or folder; expected what model.save(...) of Stable-Baselines3 has written, "
        "for example menu:runs/ppo.zip"
    )


# Any: a model of any algorithm
def _load(file: Path) -> tuple[Any, bool]:
    """The model, and whether it takes action masks."""
    try:
        with zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data"))
        module = data["policy_class"]["__module__"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as cause:
        raise CheckpointError(f"agent {file}: not a model that Stable-Baselines3 has saved ({cause})") from cause
    if module not in _ALGORITHMS:
        known = ", ".join(name.rpartition(".")[2] for name in _ALGORITHMS.values())
        raise CheckpointError(f"agent {file}: its policy is from {module}; known are those of {known} and A2C")
    library, _, name = _ALGORITHMS[module].rpartition(".")
    if name == "PPO" and "clip_range" not in data:
        name = "A2C"
    algorithm = getattr(require(library), name)
    try:
        return algorithm.load(file, device="cpu"), name.startswith("Maskable")
    except (RuntimeError, ValueError, EOFError, AssertionError) as cause:
        raise CheckpointError(f"agent {file}: it could not be loaded: {cause}") from cause
