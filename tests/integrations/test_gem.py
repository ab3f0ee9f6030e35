"""GEM plays the episodes of the environment, alone, spawned and in vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from env_fakes import ANSWER, SEARCH, BadEngine, EchoEngine, make_dataset
from gym_reference import OPTIONS, SCRIPTS, reference
from gymnasium.error import ResetNeeded
from pages import run_page

from zerosearch_env import plain
from zerosearch_env.engines.kinds.engine import KindsEngine
from zerosearch_env.errors import ConfigError, EngineError

pytest.importorskip("gem")

import gem
from gem.envs.registration import ENV_REGISTRY
from gem.wrappers.episode_tracking_wrapper import EpisodeTrackingWrapper
from gem.wrappers.observation_wrapper import ObservationWrapper

from zerosearch_env.integrations.gem import ZeroSearchGemEnv, register

ID = "zerosearch:ZeroSearch-v0"


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = set(ENV_REGISTRY)
    yield
    for name in set(ENV_REGISTRY) - before:
        del ENV_REGISTRY[name]


def fake(**options: Any) -> ZeroSearchGemEnv:
    env = ZeroSearchGemEnv(seed=0, **{"dataset": make_dataset(3), "search_engine": EchoEngine(), **options})
    env.reset()
    return env


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_episode_is_that_of_the_environment(seed: int, script: str) -> None:
    expected = reference(seed, script)
    register(ID, **OPTIONS)
    env = gem.make(ID)
    prompt, info = env.reset(seed=seed)
    assert prompt == expected.prompt
    assert info["noise_level"] == 0.5
    steps = [env.step(text) for text in expected.turns]
    assert [step[0] for step in steps] == expected.observations
    assert [step[1] for step in steps] == expected.rewards
    assert [step[2] or step[3] for step in steps] == expected.done
    assert [plain(step[4])["noise_flags"] for step in steps] == expected.flags
    assert [plain(step[4]) for step in steps] == expected.infos


@pytest.mark.parametrize("kind", ["counterfactual", "redundant"])
def test_kinds_of_noise_are_those_of_the_environment(kind: str) -> None:
    expected = reference(1, "silent", noise_kind=kind, noise_level=1.0)
    env = ZeroSearchGemEnv(seed=1, **{**OPTIONS, "noise_kind": kind, "noise_level": 1.0})
    env.reset()
    steps = [env.step(text) for text in expected.turns]
    assert [step[0] for step in steps] == expected.observations
    assert [plain(step[4]) for step in steps] == expected.infos
    assert expected.observations != reference(1, "silent", noise_level=1.0).observations
    assert isinstance(env._env.engine, KindsEngine)
    assert not isinstance(env._env.engine.engine, KindsEngine)


@pytest.mark.parametrize("async_mode", [False, True])
def test_a_vector_gives_each_environment_its_seed(async_mode: bool) -> None:
    register(ID, **OPTIONS)
    played = [reference(seed, "right") for seed in (5, 6, 7)]
    envs = gem.make_vec([ID] * 3, seed=5, async_mode=async_mode)
    observations, _ = envs.reset()
    assert observations == [one.prompt for one in played]
    for turn in range(3):
        observations, rewards, terminations, truncations, infos = envs.step([one.turns[turn] for one in played])
        assert rewards.tolist() == [one.rewards[turn] for one in played]
        if turn < 2:
            assert observations == [one.observations[turn] for one in played]
            assert [plain(info)["noise_flags"] for info in infos] == [one.flags[turn] for one in played]
    assert terminations.all()
    assert not truncations.any()
    # GEM has reset the environments already; the last info of the episodes is kept
    assert [plain(info["final_info"]) for info in infos] == [one.infos[2] for one in played]
    assert len({id(env._env.engine) for env in envs.envs}) == 1
    seeded, _ = envs.reset(seed=5)
    assert seeded == [one.prompt for one in played]


def test_environments_without_a_seed_continue_their_random_numbers() -> None:
    env = ZeroSearchGemEnv(seed=3, **OPTIONS)
    prompts = [env.reset()[0] for _ in range(4)]
    assert prompts[0] == reference(3, "right").prompt
    assert len(set(prompts)) > 1


def test_spawn_copies_the_state_or_begins_again() -> None:
    env = ZeroSearchGemEnv(seed=2, **OPTIONS)
    env.reset()
    env.step(SEARCH)
    twin = env.spawn(same_state=True)
    assert plain(twin.step(SEARCH)[4]) == plain(env.step(SEARCH)[4])
    assert twin.step(ANSWER)[2]
    assert not env.step(SEARCH)[2]  # the episode of the original continues
    assert twin.reset()[0] == env.reset()[0]
    other = env.spawn(noise_level=1.0, seed=9)
    _, info = other.reset()
    assert info["noise_level"] == 1.0
    assert other.step(SEARCH)[4]["noisy"]
    with pytest.raises(ConfigError, match=r"leave out \['noise_level'\]"):
        env.spawn(same_state=True, noise_level=1.0)


def test_an_engine_failure_raises_and_is_no_reward() -> None:
    env = fake(search_engine=BadEngine("a failure of the engine"))
    with pytest.raises(EngineError, match="down"):
        env.step("<search>bad</search>")
    assert env.reset()[0]


def test_calls_after_the_end_and_before_the_start() -> None:
    env = fake()
    assert env.step(ANSWER)[2]
    observation, reward, terminated, truncated, info = env.step(SEARCH)
    assert "finished (answer)" in observation
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["prediction"] == "The lake"
    assert env.reset()[1]["final_info"]["prediction"] == "The lake"
    assert "final_info" not in env.reset()[1]
    with pytest.raises(ResetNeeded):
        ZeroSearchGemEnv(**OPTIONS).step(SEARCH)


def test_more_searches_than_allowed_an_empty_answer_and_random_actions() -> None:
    env = fake(max_turns=2)
    assert env.step("<answer> </answer>")[4]["action"] == "invalid"
    assert not env.step(SEARCH)[3]
    _, reward, terminated, truncated, info = env.step(SEARCH)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["stop_reason"] == "max_turns"
    env.reset()
    assert env.step(env.sample_random_action())[4]["action"] in ("search", "answer")


def test_gems_wrappers_take_the_environment() -> None:
    env = EpisodeTrackingWrapper(ObservationWrapper(fake(), include_chat_template=False))
    prompt, _ = env.reset(seed=1)
    assert "What is thing number" in prompt
    assert "the lake of" in env.step(SEARCH)[0]
    assert env.step(ANSWER)[2]


def test_bad_registrations_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean"):
        register(ID, noise_levle=0.5)
    assert ID not in ENV_REGISTRY
    register(ID, **OPTIONS)
    register(ID, **OPTIONS)
    with pytest.raises(ConfigError, match="choose another id"):
        register(ID, **{**OPTIONS, "noise_level": 0.25})


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("frameworks/gem.md")
    assert len(names["finished"]) == 4
