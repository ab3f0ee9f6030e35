"""Agents of Stable-Baselines3 in the evaluation."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.players.base import PolicyOptions
from zerosearch_agents.players.make import make_player
from zerosearch_agents.players.menu import MenuPlayer, find_model, load_menu_player
from zerosearch_benchmarks.learning.sb3.ceiling import first_candidate
from zerosearch_env import Episode, WorldConfig, load_dataset, make_engine, make_rules
from zerosearch_env.errors import CheckpointError, ConfigError

DATA = load_dataset("world", "test", world=WorldConfig(passages=400, questions=40))
ENGINE = make_engine("corpus", dataset=DATA)
ID = "zerosearch_env:ZeroSearchMenu-v0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    env = gym.make(ID, dataset=DATA, search_engine=ENGINE)
    agent = sb3_contrib.MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=1, device="cpu")
    file = tmp_path_factory.mktemp("menu") / "masked.zip"
    agent.save(file)
    return agent, file


def test_the_player_plays_the_episodes_of_the_environment(model: tuple[Any, Path]) -> None:
    agent, file = model
    rules = make_rules()
    env = gym.make(ID, dataset=DATA, search_engine=ENGINE, noise_level=0.5)
    episodes, records = [], []
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        played = env.unwrapped.episode
        episodes.append(Episode(played.question, rules, noise_level=0.5, seed=played.seed))
        done = False
        while not done:
            mask = env.unwrapped.action_masks()
            action, _ = agent.predict(observation, deterministic=True, action_masks=mask)
            observation, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
        records.append(played.text)
    ended: list[int] = []
    load_menu_player(str(file)).play(episodes, ENGINE, ended.append)
    assert [episode.text for episode in episodes] == records
    assert sorted(ended) == list(range(8))


def test_the_first_candidate_is_an_agent_of_one_search() -> None:
    player = MenuPlayer(first_candidate, name="first")
    result = evaluate(player, DATA.questions, ENGINE, make_rules(), (0.0, 1.0))
    assert [cell.summary().searches.mean for cell in result.cells] == [1.0, 1.0]
    assert result.cells[0].summary("1-hop").em.mean > 0.8
    assert result.cells[1].summary().em.mean == 0.0
    assert player.greedy


def test_a_model_is_found_by_file_or_folder(model: tuple[Any, Path], tmp_path: Path) -> None:
    _, file = model
    assert find_model(str(file)) == find_model(str(file.with_suffix(""))) == find_model(str(file.parent)) == file
    player = make_player(f"mine=menu:{file.parent}", policy=PolicyOptions("tiny"))
    assert isinstance(player, MenuPlayer)
    assert (player.name, list(player.identity)) == ("mine", ["model"])
    assert load_menu_player(str(file)).name == f"menu:{file}"
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"expected one model .* found a.zip, b.zip"):
        find_model(str(tmp_path))
    (tmp_path / "best_model.zip").write_bytes(file.read_bytes())
    assert find_model(str(tmp_path)).name == "best_model.zip"


def test_wrong_files_are_refused(model: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file or folder.*menu:runs/ppo.zip"):
        load_menu_player(str(tmp_path / "nothing"))
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a model that Stable-Baselines3 has saved"):
        load_menu_player(str(broken))
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "stable_baselines3.sac.policies"}}))
    with pytest.raises(CheckpointError, match=r"stable_baselines3.sac.policies; known are .* and A2C"):
        load_menu_player(str(broken))
    with pytest.raises(ConfigError, match="protocol is not an option"):
        make_player(f"menu:{model[1]},protocol=hermes", policy=PolicyOptions("tiny"))


class Other(gym.Env[Any, Any]):
    """An environment that has nothing to do with menus."""

    observation_space = gym.spaces.Box(0, 1, (3,))
    action_space = gym.spaces.Discrete(4)


def test_a_model_of_another_environment_is_refused(tmp_path: Path) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    stable_baselines3.A2C("MlpPolicy", Other(), device="cpu").save(tmp_path / "other.zip")
    with pytest.raises(ConfigError, match=r"observations of shape \(3,\) with 4 actions, not on those of"):
        load_menu_player(str(tmp_path / "other.zip"))


def test_first_candidate_abstains_without_candidates() -> None:
    features = np.zeros((3, 53), np.float32)
    features[1:, 0] = 0.2
    masks = np.ones((3, 10), bool)
    masks[2, 1:9] = False
    assert first_candidate(features, masks).tolist() == [0, 5, 9]
