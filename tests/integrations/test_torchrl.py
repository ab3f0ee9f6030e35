"""TorchRL's `GymEnv` takes the environment as it is. `make test-torchrl` runs this in its own environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from env_fakes import EchoEngine, make_dataset
from pages import run_page

from zerosearch_env.engines import FailingEngine
from zerosearch_env.errors import EngineError

torchrl = pytest.importorskip("torchrl.envs", reason="TorchRL is not installed: make test-torchrl")
nn = pytest.importorskip("tensordict.nn")

ID = "zerosearch_env:ZeroSearch-v0"
ARGUMENTS: dict[str, Any] = {"noise_level": 0.5, "world": {"passages": 400}}
TURNS = ("<search>oldest bridge</search>", "no tag", "<search>who founded it</search>", "<answer>no idea</answer>")


def test_specs_are_right() -> None:
    torchrl.check_env_specs(torchrl.GymEnv(ID, **ARGUMENTS))


def test_episodes_are_those_of_gymnasium() -> None:
    """Same seed: same texts, same rewards, same ends, same noise."""
    env, plain = torchrl.GymEnv(ID, **ARGUMENTS), gym.make(ID, **ARGUMENTS)
    for seed in range(3):
        data = env.reset(seed=seed)
        observation, info = plain.reset(seed=seed)
        assert data["observation"] == observation
        question = plain.unwrapped.episode.question  # type: ignore[attr-defined]
        noisy = []
        for action in (*TURNS[:-1], f"<answer>{question.answers[0]}</answer>"):
            data["action"] = action
            data = env.step(data)["next"]
            observation, reward, terminated, truncated, info = plain.step(action)
            noisy.append(info["noisy"])
            assert data["observation"] == observation
            assert (data["reward"].item(), data["terminated"].item()) == (reward, terminated)
            assert (data["truncated"].item(), data["done"].item()) == (truncated, terminated or truncated)
        assert reward == 1.0
        assert [turn.step.noisy or False for turn in env.unwrapped.episode.turns] == noisy


def test_a_rollout_with_a_policy_stops_at_the_end_of_the_episode() -> None:
    env = torchrl.TransformedEnv(
        torchrl.GymEnv(ID, **ARGUMENTS), torchrl.Compose(torchrl.StepCounter(), torchrl.RewardSum())
    )
    turns = iter(TURNS)
    policy = nn.TensorDictModule(lambda observation: next(turns), in_keys=["observation"], out_keys=["action"])

    data = env.rollout(10, policy)
    assert data.shape == (4,)
    assert list(data["action"]) == list(TURNS)
    assert data["observation"][1].strip().startswith("<information>Doc 1")
    assert data["next", "terminated"].squeeze(-1).tolist() == [False, False, False, True]
    assert data["next", "step_count"].squeeze(-1).tolist() == [1, 2, 3, 4]
    assert data["next", "episode_reward"][-1].item() == 0.0


def test_several_environments_share_data_and_engine() -> None:
    shared = {"dataset": make_dataset(), "search_engine": EchoEngine()}
    envs = torchrl.SerialEnv(2, lambda: torchrl.GymEnv(ID, **shared))
    data = envs.rollout(3)
    assert data.shape == (2, 3)
    assert all(env.unwrapped.engine is shared["search_engine"] for env in envs._envs)
    envs.close()


def test_a_failed_engine_is_never_a_bad_answer() -> None:
    for handling in ("raise", "truncate"):
        engine = FailingEngine("HTTP 503", inner=EchoEngine())
        env = torchrl.GymEnv(ID, dataset=make_dataset(), search_engine=engine, on_engine_error=handling)
        data = env.reset(seed=0)
        data["action"] = TURNS[0]
        if handling == "raise":
            with pytest.raises(EngineError, match="HTTP 503"):
                env.step(data)
        else:
            assert env.step(data)["next", "truncated"].item()
            assert env.unwrapped.episode.stop_reason == "engine_error"


def test_the_example_of_the_page_runs() -> None:
    data = run_page("frameworks/torchrl.md")["data"]
    assert list(data["action"])[1:] == ["<answer>unknown</answer>"]
    assert data["next", "step_count"][-1].item() == 2


def test_what_goes_wrong_is_said() -> None:
    with pytest.raises(TypeError, match="Did you mean 'noise_level'"):
        torchrl.GymEnv(ID, noise_levl=0.5)
    env = torchrl.GymEnv(ID, world={"passages": 400}, max_turns=1)
    data = env.reset(seed=0)
    for action in ("", "<search>a</search>"):  # an empty turn, and a search when only an answer counts
        data["action"] = action
        data = env.step(data)["next"]
    assert data["truncated"].item()
    assert data["reward"].item() == 0.0
    assert env.unwrapped.episode.stop_reason == "max_turns"
