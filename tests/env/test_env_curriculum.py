"""The progress of the noise curriculum: which episodes count."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from env_fakes import EchoEngine, make_dataset


def make(**arguments: Any) -> gym.Env[str, str]:
    return gym.make("ZeroSearch-v0", dataset=make_dataset(), search_engine=EchoEngine(), **arguments)


def make_vector(num_envs: int, **arguments: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.make_vec(
        "ZeroSearch-v0", num_envs=num_envs, dataset=make_dataset(), search_engine=EchoEngine(), **arguments
    )


def test_the_curriculum_counts_finished_episodes() -> None:
    env = make(noise_schedule="linear", noise_end=1.0, curriculum_episodes=4)
    seen = []
    for _ in range(6):
        seen.append(env.reset()[1]["progress"])
        env.reset()  # an episode without a turn does not count
        env.step("<answer>x</answer>")
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert env.get_wrapper_attr("episode").noise_level == 1.0


def test_the_curriculum_counts_episodes_that_were_cut_off() -> None:
    arguments: dict[str, Any] = {"noise_schedule": "linear", "noise_end": 1.0, "curriculum_episodes": 8}
    for limit, turns in ((2, 2), (None, 1)):  # a time limit, or a reset in the middle of an episode
        env = make(max_episode_steps=limit, **arguments)
        seen = []
        for _ in range(3):
            seen.append(env.reset()[1]["progress"])
            over = [env.step("only thoughts")[3] for _ in range(turns)]
            assert over[-1] is (limit is not None)
        assert seen == [0.0, 0.125, 0.25]
        assert env.reset()[1]["progress"] == 0.375
        assert env.reset()[1]["progress"] == 0.375  # no turn was played
        env.step("<answer>x</answer>")
        assert env.reset(seed=0)[1]["progress"] == 0.5  # counted once
        env.step("only thoughts")
        assert env.reset(seed=0)[1]["progress"] == 0.5  # the same episode again
        env.step("only thoughts")
        assert env.reset(seed=0, options={"question": 1})[1]["progress"] == 0.625


def test_the_vector_environment_counts_episodes_that_were_cut_off() -> None:
    arguments: dict[str, Any] = {"noise_schedule": "linear", "noise_end": 1.0, "curriculum_episodes": 8}
    envs = make_vector(2, max_episode_steps=2, autoreset_mode="SameStep", **arguments)
    envs.reset(seed=0)
    envs.step(["nothing"] * 2)
    infos = envs.step(["nothing", "<answer>x</answer>"])[4]
    assert infos["progress"].tolist() == [0.25] * 2
    envs.step(["nothing"] * 2)
    assert envs.reset(options={"reset_mask": np.array([True, False])})[1]["progress"].tolist() == [0.375, 0.0]
    assert envs.reset()[1]["progress"].tolist() == [0.5] * 2  # the first had no turn since
    for progress in (0.5, 0.5, 0.5):
        assert envs.reset(seed=0)[1]["progress"].tolist() == [progress] * 2  # the same episodes again
        envs.step(["nothing"] * 2)
    envs = make_vector(2, autoreset_mode="Disabled", **arguments)
    envs.reset(seed=0)
    over = envs.step(["<answer>x</answer>", "nothing"])[2]
    assert envs.reset(options={"reset_mask": over})[1]["progress"].tolist() == [0.125, 0.0]  # counted once
