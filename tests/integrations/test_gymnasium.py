"""Gymnasium's own wrappers and its way to import an environment by its id."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import EchoEngine, make_dataset
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit, TransformAction, TransformReward
from gymnasium.wrappers.vector import ClipReward, DictInfoToList
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics

LEVEL = {"noise_level": 0.5, "reward": lambda prediction, answers: 1.0 if prediction == "a" else -2.0}
TURNS = (
    ["<search>a</search>", "<answer>a</answer>"],
    ["<answer>a</answer>", "<search>b</search>"],
    ["no tag", "<answer>b</answer>"],
    ["<answer>b</answer>", "<answer>a</answer>"],
)


def make(**arguments: Any) -> gym.Env[str, str]:
    return gym.make("ZeroSearch-v0", dataset=make_dataset(), search_engine=EchoEngine(), **{**LEVEL, **arguments})


def make_vec(mode: AutoresetMode = AutoresetMode.SAME_STEP, count: int = 2) -> Any:
    return gym.make_vec(
        "ZeroSearch-v0",
        num_envs=count,
        autoreset_mode=mode,
        dataset=make_dataset(),
        search_engine=EchoEngine(),
        **LEVEL,
    )


def test_an_id_with_the_module_needs_no_import() -> None:
    code = """
import sys
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

arguments = {"world": {"passages": 400}, "noise_level": 0.5}
env = gym.make("zerosearch_env:ZeroSearch-v0", **arguments)
print(env.reset(seed=3)[1]["question"])
print(gym.make_vec("zerosearch_env:ZeroSearch-v0", num_envs=2, **arguments).reset(seed=3)[1]["question"][0])
text = env.spec.to_json()
for name in [name for name in sys.modules if name.startswith("zerosearch_env")]:
    del sys.modules[name]
gym.registry.clear()
print(gym.make(EnvSpec.from_json(text)).reset(seed=3)[1]["question"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third = run.stdout.splitlines()
    assert first == second == third
    assert first.endswith("?")


def test_statistics_of_single_episodes() -> None:
    env = RecordEpisodeStatistics(TransformReward(make(), lambda reward: 10 * reward), buffer_length=3)
    for seed, actions in enumerate((["<search>a</search>", "<answer>a</answer>"], ["<answer>b</answer>"], ["x"] * 6)):
        env.reset(seed=seed)
        infos = [env.step(action)[4] for action in actions]
        assert ["episode" in info for info in infos] == [False] * (len(actions) - 1) + [True]
    assert infos[-1]["stop_reason"] == "max_turns"
    assert infos[-1]["episode"]["l"] == 6
    assert [float(total) for total in env.return_queue] == [10.0, -20.0, -20.0]
    assert list(env.length_queue) == [2, 1, 6]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_statistics_of_the_vector_environment(mode: AutoresetMode) -> None:
    envs, episodes = RecordVectorStatistics(make_vec(mode)), []
    envs.reset(seed=0)
    for actions in TURNS:
        _, _, terminations, truncations, infos = envs.step(actions)
        over = terminations | truncations
        assert infos["_episode"].tolist() == over.tolist()
        ended = infos["episode"]
        episodes += [(float(ended["r"][index]), int(ended["l"][index])) for index in np.flatnonzero(over)]
        if mode is AutoresetMode.DISABLED:
            envs.reset(options={"reset_mask": over})
    # In the mode "NextStep" the turn after the end only resets.
    later = [(-2.0, 1), (-2.0, 1)] if mode is AutoresetMode.NEXT_STEP else [(-2.0, 2), (-2.0, 2), (1.0, 1)]
    assert episodes == [(1.0, 1), (1.0, 2), *later]
    assert [float(total) for total in envs.return_queue] == [total for total, _ in episodes]
    assert [int(length) for length in envs.length_queue] == [length for _, length in episodes]


def test_a_time_limit_cuts_an_episode_without_scores_and_changes_nothing_after_it() -> None:
    env, plain = RecordEpisodeStatistics(TimeLimit(make(), 2)), make()
    assert env.reset(seed=5) == plain.reset(seed=5)
    for action, want in (("<search>a</search>", (False, False)), ("<search>b</search>", (False, True))):
        observation, reward, *ends, info = env.step(action)
        assert (observation, reward) == plain.step(action)[:2]
        assert (tuple(ends), info["stop_reason"]) == (want, None)
    assert info["episode"]["l"] == 2
    assert not {"em", "answers", "prediction"} & set(info)
    plain.step("<answer>b</answer>")
    assert env.reset() == plain.reset()  # the next episode is the same
    # The rules end every episode after one more turn than may search, so this limit never cuts.
    rules = plain.unwrapped.rules  # type: ignore[attr-defined]
    env = TimeLimit(make(), rules.max_turns + 1)
    env.reset(seed=0)
    ends = [env.step("no tag")[2:4] for _ in range(rules.max_turns + 1)]
    assert ends[-1] == (False, True)
    assert env.unwrapped.episode.stop_reason == "max_turns"  # type: ignore[attr-defined]


def test_rewards_actions_and_infos_can_be_wrapped() -> None:
    env = make()
    closed = TransformAction(make(), lambda text: text + "</answer>" if "<answer>" in text else text, env.action_space)
    closed.reset(seed=0)
    assert closed.step("<answer>a")[1:3] == (1.0, True)

    envs, wrapped = make_vec(), DictInfoToList(ClipReward(make_vec(), -1.0, 1.0))
    infos = wrapped.reset(seed=1)[1]
    assert [info["question"] for info in infos] == envs.reset(seed=1)[1]["question"].tolist()
    _, rewards, terminations, _, infos = wrapped.step(["<search>a</search>", "<answer>b</answer>"])
    assert envs.step(["<search>a</search>", "<answer>b</answer>"])[1].tolist() == [0.0, -2.0]
    assert (rewards.tolist(), terminations.tolist()) == ([0.0, -1.0], [False, True])
    assert infos[0]["query"] == "a"
    assert infos[1]["final_info"]["stop_reason"] == "answer"
