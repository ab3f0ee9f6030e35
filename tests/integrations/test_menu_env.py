"""The menu environment: the episodes of "ZeroSearch-v0", chosen from a menu."""

from __future__ import annotations

import copy
import doctest
import pickle
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import make_dataset
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import zerosearch_env.integrations.menu.envs
import zerosearch_env.integrations.menu.menu
from zerosearch_env import (
    ConstantEngine,
    Dataset,
    Document,
    Question,
    SearchResult,
    WorldConfig,
    load_dataset,
    make_engine,
    make_rules,
)
from zerosearch_env.engines import BatchedEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise_kinds import KINDS
from zerosearch_env.integrations.menu.envs import MenuEnv, turn_text
from zerosearch_env.integrations.menu.menu import CANDIDATE_FEATURES, FEATURES, Menu, action_count, feature_count

ID = "zerosearch_env:ZeroSearchMenu-v0"
DATA = load_dataset("world", "train", world=WorldConfig(passages=400, questions=60))
ENGINE = make_engine("corpus", dataset=DATA)


def make(**arguments: Any) -> Any:
    return gym.make(ID, dataset=DATA, search_engine=ENGINE, **arguments)


def make_vec(count: int, **arguments: Any) -> Any:
    return gym.make_vec(ID, num_envs=count, dataset=DATA, search_engine=ENGINE, **arguments)


def choose(env: Any, rng: np.random.Generator) -> int:
    """A random entry that is not empty; answers end an episode, so they are rare."""
    entries = np.flatnonzero(env.unwrapped.action_masks())
    searches = [entry for entry in entries if entry <= env.unwrapped.candidates]
    return int(rng.choice(searches if searches and rng.random() < 0.7 else entries))


def test_the_environment_passes_gymnasiums_checks() -> None:
    check_env(make(noise_level=0.5).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_it_plays_the_episodes_of_the_text_environment(noise: float) -> None:
    env = make(noise_level=noise)
    text_env = gym.make("ZeroSearch-v0", dataset=DATA, search_engine=ENGINE, noise_level=noise)
    rng = np.random.default_rng(3)
    for seed in range(6):
        env.reset(seed=seed)
        text_env.reset(seed=seed)
        done = False
        while not done:
            entry = choose(env, rng)
            text = turn_text(copy.deepcopy(env.unwrapped.menu), entry, env.unwrapped.rules)
            *_, reward, terminated, truncated, info = env.step(entry)
            *_, text_reward, text_terminated, text_truncated, text_info = text_env.step(text)
            assert (reward, terminated, truncated) == (text_reward, text_terminated, text_truncated)
            assert info.pop("action_mask").dtype == np.int8
            assert dict(info) == dict(text_info)
            done = terminated or truncated


def test_the_observation_does_not_depend_on_answers_or_sources() -> None:
    hidden = replace(DATA, questions=[replace(q, answers=("nothing",), metadata=None) for q in DATA.questions])
    envs = make(), gym.make(ID, dataset=hidden, search_engine=make_engine("corpus", dataset=hidden))
    for seed in range(5):
        for env in envs:
            env.reset(seed=seed)
        for entry in (0, 1, 2, 0):
            first, second = (env.step(entry)[0] for env in envs)
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_the_vector_environment_plays_the_episodes_of_single_ones(mode: str) -> None:
    envs = make_vec(3, noise_level=0.5, autoreset_mode=mode)
    singles = [make(noise_level=0.5) for _ in range(3)]
    observations, infos = envs.reset(seed=7)
    wanted = [env.reset(seed=7 + i) for i, env in enumerate(singles)]
    rng, over = np.random.default_rng(0), np.zeros(3, bool)
    for _ in range(14):
        for i, (observation, info) in enumerate(wanted):
            np.testing.assert_array_equal(observations[i], observation)
            np.testing.assert_array_equal(infos["action_mask"][i], info["action_mask"])
        actions = [choose(env, rng) for env in singles]
        if mode == "Disabled" and over.any():
            observations, infos = envs.reset(options={"reset_mask": over})
            infos["action_mask"] = envs.action_masks()
            wanted = [env.reset() if over[i] else wanted[i] for i, env in enumerate(singles)]
            over[:] = False
            continue
        observations, rewards, terminations, truncations, infos = envs.step(np.array(actions))
        before, over = over, terminations | truncations
        for i, env in enumerate(singles):
            if mode == "NextStep" and before[i]:
                wanted[i] = env.reset()
                continue
            observation, reward, terminated, truncated, info = env.step(actions[i])
            assert (rewards[i], terminations[i], truncations[i]) == (reward, terminated, truncated)
            wanted[i] = observation, info
            if mode == "SameStep" and over[i]:
                np.testing.assert_array_equal(infos["final_obs"][i], observation)
                wanted[i] = env.reset()


def test_the_mask_says_which_entries_act() -> None:
    env = make(candidates=2, max_turns=1)
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 0, 0, 0, 0, 1]
    info = env.step(0)[-1]
    assert info["action_mask"].tolist() == [0, 0, 0, 1, 1, 1]
    *_, terminated, _, info = env.step(5)
    assert terminated
    assert info["prediction"] == env.unwrapped.rules.abstentions[0]
    env.reset(seed=0)
    assert env.step(1)[-1]["action"] == "invalid"


def test_questions_of_two_steps_are_answered_through_a_bridge() -> None:
    menu = Menu("Who is the mayor of the birthplace of Al Berg?", make_rules(), 4)
    menu.observe([Document("Al Berg", "Al Berg was born in Kara Falls. Al Berg married Di Hart.")])
    bridge = [candidate.text for candidate in menu.candidates].index("Kara Falls")
    assert menu.take(1 + bridge) == ("search", "mayor Kara Falls")
    menu.observe([Document("Kara Falls", "Kara Falls is a town in Kara County. Bo Grey is the mayor of Kara Falls.")])
    assert menu.action(1 + menu.size) == ("answer", "Bo Grey")
    assert menu.searched([candidate.text for candidate in menu.candidates].index("Kara Falls"))


def test_a_yes_no_question_offers_both() -> None:
    menu = Menu("Is Kara Falls a town?", make_rules(), 3)
    menu.observe([Document("Kara Falls", "Kara Falls is a town in Kara County.")])
    assert {candidate.text for candidate in menu.candidates} >= {"yes", "no"}


documents = st.lists(st.builds(Document, st.text(max_size=20), st.text(max_size=80)), max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.lists(st.none() | documents, max_size=4), st.integers(1, 5))
def test_features_have_a_fixed_length_and_lie_in_the_unit_interval(
    question: str, turns: list[list[Document] | None], candidates: int
) -> None:
    menu = Menu(question, make_rules(), candidates)
    for turn in turns:
        menu.observe(turn)
        features, mask = menu.features(), menu.mask()
        assert features.shape == (feature_count(candidates),)
        assert ((features >= 0) & (features <= 1)).all()
        assert mask.shape == (action_count(candidates),)
        assert all((menu.action(i)[0] != "invalid") for i in np.flatnonzero(mask))
    assert feature_count(candidates) == len(FEATURES) + candidates * len(CANDIDATE_FEATURES)


class SilentEngine(BatchedEngine):
    """Finds nothing, and says so in words every second time."""

    def search(self, requests: Any) -> list[SearchResult]:
        return [SearchResult((), message="503 Service Unavailable" if r.seed % 2 else None) for r in requests]


def test_searches_without_documents_leave_an_empty_menu() -> None:
    env = gym.make(ID, dataset=DATA, search_engine=SilentEngine())
    for seed in range(4):
        env.reset(seed=seed)
        observation, *_, info = env.step(0)
        assert info["documents"] == ()
        assert info["action_mask"].sum() == 2
        assert observation[FEATURES.index("documents")] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_noise_can_be_read(kind: str) -> None:
    env = make(noise_level=1.0, noise_kind=kind)
    for seed in range(3):
        env.reset(seed=seed)
        observation, *_, info = env.step(0)
        assert env.observation_space.contains(observation)
        assert bool(info["documents"]) is (kind not in ("empty", "outage"))


def test_arguments_of_the_environment_are_passed_on() -> None:
    env = make(noise_level=1.0, noise_kind="outage", reward="ternary", protocol="hermes", max_turns=2)
    env.reset(seed=0)
    assert env.unwrapped.rules.protocol.name == "hermes"
    assert str(env.unwrapped.episode.noise_kinds) == "outage"
    env.step(0)
    assert env.step(env.action_space.n - 1)[1] == 0.0  # abstained
    env.unwrapped.set_progress(0.5)
    assert env.unwrapped.progress == 0.5


def test_a_copy_continues_like_the_original_and_shares_the_data() -> None:
    env = gym.make(ID, world={"passages": 200}, noise_level=0.5)
    env.reset(seed=2)
    env.step(0)
    twin = copy.deepcopy(env.unwrapped)
    assert twin.dataset is env.unwrapped.dataset
    restored = pickle.loads(pickle.dumps(env.unwrapped))
    wanted = env.step(1)[0]
    np.testing.assert_array_equal(twin.step(1)[0], wanted)
    np.testing.assert_array_equal(restored.step(1)[0], wanted)


def test_bad_input_says_what_was_expected() -> None:
    with pytest.raises(ConfigError, match="candidates must be a whole number of at least 1, got 0"):
        make(candidates=0)
    with pytest.raises(ConfigError, match="candidates must be at most 64, got 65"):
        make_vec(1, candidates=65)
    with pytest.raises(ConfigError, match="Did you mean 'noise_level'"):
        make(noise_levle=0.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):  # what other libraries look for
        make(frameskip=4)
    with pytest.raises(ConfigError, match="there are no images"):
        MenuEnv(dataset=DATA, search_engine=ENGINE, render_mode="rgb_array")
    lower = Dataset("lower", "train", [Question("q", "what is it", ("rain",))], [Document("", "rain falls often")] * 9)
    with pytest.raises(ConfigError, match="dataset 'lower' hold no candidates"):
        gym.make(ID, dataset=lower)
    with pytest.raises(ConfigError, match="passages"):
        gym.make(ID, dataset=[{"question": "Who?", "answers": ["Ann"]}])
    env = make()
    env.reset(seed=0)
    for action in (-1, 10, 0.5, "0", True):
        with pytest.raises(InvalidAction, match="whole number from 0 to 9"):
            env.unwrapped.step(action)
    envs = make_vec(2)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match="expected 2 actions"):
        envs.step([0])


def test_other_engines_and_datasets_work() -> None:
    env = gym.make(ID, dataset=make_dataset(), search_engine=ConstantEngine())
    env.reset(seed=0)
    assert env.step(0)[0].max() <= 1


@pytest.mark.parametrize("module", [zerosearch_env.integrations.menu.envs, zerosearch_env.integrations.menu.menu])
def test_the_examples_in_docstrings_run(module: Any) -> None:
    outcome = doctest.testmod(module, extraglobs={"make_rules": make_rules, "Document": Document})
    assert outcome.attempted
    assert not outcome.failed


def test_torchrl_takes_it_as_it_is() -> None:
    envs = pytest.importorskip("torchrl.envs")
    envs.utils.check_env_specs(envs.GymEnv(ID, world={"passages": 200}))
