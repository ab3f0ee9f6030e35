"""Stable-Baselines3 on the menu environment: its checks, the native vector form, and short trainings."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from zerosearch_env import WorldConfig, load_dataset, make_engine
from zerosearch_env.errors import ConfigError, MissingExtraError

stable_baselines3 = pytest.importorskip("stable_baselines3")
sb3_contrib = pytest.importorskip("sb3_contrib")

from stable_baselines3.common.env_checker import check_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402

from zerosearch_env.integrations.sb3 import MenuVecEnv, make_vec_env  # noqa: E402

ID = "zerosearch_env:ZeroSearchMenu-v0"
DATA = load_dataset("world", "train", world=WorldConfig(passages=400, questions=60))
ENGINE = make_engine("corpus", dataset=DATA)


def parts(**arguments: Any) -> dict[str, Any]:
    return {"dataset": DATA, "search_engine": ENGINE, "noise_level": 0.5, **arguments}


def test_the_environment_passes_the_librarys_checks() -> None:
    check_env(gym.make(ID, **parts()))  # warnings are errors in these tests


def test_the_vector_form_plays_the_episodes_of_single_environments() -> None:
    env = MenuVecEnv(2, **parts())
    env.seed(5)
    observations = env.reset()
    singles = [gym.make(ID, **parts()) for _ in range(2)]
    wanted = [single.reset(seed=5 + i)[0] for i, single in enumerate(singles)]
    ended = 0
    for entry in (0, 1, 5, 0, 0, 9, 0, 5):
        np.testing.assert_array_equal(observations, wanted)
        masks = env.env_method("action_masks")
        observations, rewards, dones, infos = env.step(np.array([entry, entry]))
        assert rewards.dtype == np.float32
        for i, single in enumerate(singles):
            np.testing.assert_array_equal(masks[i], single.unwrapped.action_masks())
            wanted[i], reward, terminated, truncated, info = single.step(entry)
            assert (rewards[i], dones[i]) == (np.float32(reward), terminated or truncated)
            if dones[i]:
                ended += 1
                np.testing.assert_array_equal(infos[i]["terminal_observation"], wanted[i])
                assert infos[i]["TimeLimit.truncated"] == truncated
                assert (infos[i]["em"], infos[i]["prediction"]) == (info["em"], info["prediction"])
                wanted[i] = single.reset()[0]
            else:
                assert infos[i] == {}
    assert ended >= 4


def test_attributes_and_methods_are_shared() -> None:
    env = make_vec_env(3, seed=0, **parts(candidates=2))
    assert env.get_attr("candidates") == [2, 2, 2]
    env.env_method("set_progress", 0.25)
    assert env.get_attr("progress", indices=[1]) == [0.25]
    assert env.has_attr("action_masks")
    assert not env.has_attr("nothing")
    assert env.env_is_wrapped(gym.Wrapper, indices=0) == [False]
    with pytest.raises(AttributeError, match="set_progress"):
        env.set_attr("progress", 0.5)
    with pytest.raises(ConfigError, match="Did you mean 'noise_level'"):
        make_vec_env(2, noise_levl=0.5)
    first = env.reset()
    env.seed(0)
    np.testing.assert_array_equal(env.reset(), first)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (stable_baselines3.PPO, {"n_steps": 16, "batch_size": 32}),
        (stable_baselines3.A2C, {}),
        (stable_baselines3.DQN, {"learning_starts": 20, "buffer_size": 500}),
        (sb3_contrib.MaskablePPO, {"n_steps": 16, "batch_size": 32}),
    ],
)
def test_algorithms_train(algorithm: Any, settings: dict[str, Any]) -> None:
    env = make_vec_env(2, **parts())
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **settings).learn(64)
    assert len(model.ep_info_buffer) > 0
    if algorithm is not sb3_contrib.MaskablePPO:
        mean, _ = evaluate_policy(model, env, n_eval_episodes=2, warn=False)
        assert 0 <= mean <= 1


@pytest.mark.slow
def test_an_algorithm_takes_the_id() -> None:
    with pytest.warns(UserWarning, match="rgb_array"):  # the library asks for images first
        model = stable_baselines3.PPO("MlpPolicy", ID, n_steps=8, batch_size=8, device="cpu")
    model.learn(8)


def test_the_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "zerosearch_env.integrations.sb3")
    with pytest.raises(MissingExtraError, match=r'pip install "zerosearch-env\[sb3\]"'):
        __import__("zerosearch_env.integrations.sb3")
