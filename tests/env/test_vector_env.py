from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import MISBEHAVIOURS, BadEngine, EchoEngine, make_dataset
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList

from zerosearch_env.engines import FailingEngine
from zerosearch_env.envs.vector import ZeroSearchVectorEnv
from zerosearch_env.errors import ConfigError, DataError, EngineError

MODES = list(AutoresetMode)
# Kinds of turns of which sub-environments take different ones, so that episodes end at different times.
TURNS = ("<search>thing number {}</search>", "nothing {}", "<search>more {}</search>", "<answer>thing {}</answer>")


def make(num_envs: int = 4, **arguments: Any) -> ZeroSearchVectorEnv:
    arguments.setdefault("dataset", make_dataset())
    arguments.setdefault("search_engine", EchoEngine())
    envs = gym.make_vec("ZeroSearch-v0", num_envs=num_envs, **arguments)
    assert isinstance(envs, ZeroSearchVectorEnv)
    return envs


def make_single(**arguments: Any) -> gym.Env[str, str]:
    return gym.make("ZeroSearch-v0", dataset=make_dataset(), search_engine=EchoEngine(), **arguments)


def actions_at(step: int, num_envs: int) -> list[str]:
    rng = np.random.default_rng(step)
    return [TURNS[kind].format(index) for index, kind in enumerate(rng.integers(len(TURNS), size=num_envs))]


def single_histories(mode: AutoresetMode, seeds: Sequence[int], steps: int, **arguments: Any) -> list[list[Any]]:
    """What each of N single environments shows when its caller resets it as the mode says: one list per environment."""
    histories = []
    for index, seed in enumerate(seeds):
        env = make_single(**arguments)
        history: list[Any] = [env.reset(seed=seed)]
        over = False
        for step in range(steps):
            if over and mode is not AutoresetMode.SAME_STEP:
                observation, info = env.reset()
                if mode is AutoresetMode.NEXT_STEP:
                    history.append((observation, 0.0, False, False, info))
                    over = False
                    continue
            observation, reward, terminated, truncated, info = env.step(actions_at(step, len(seeds))[index])
            over = terminated or truncated
            if over and mode is AutoresetMode.SAME_STEP:
                final = {"final_obs": observation, "final_info": info}
                observation, info = env.reset()
                info = {**info, **final}
            history.append((observation, reward, terminated, truncated, info))
        histories.append(history)
    return histories


def infos_of(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The infos of each sub-environment, taken apart by their masks."""
    apart: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in infos.items():
        if key.startswith("_"):
            continue
        mask = infos[f"_{key}"]
        assert mask.dtype == np.bool_
        assert mask.shape == (count,)
        parts = infos_of(values, count) if isinstance(values, dict) else values
        for index in np.flatnonzero(mask):
            value = parts[index]
            apart[index][key] = value.item() if isinstance(value, np.generic) else value
    return apart


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "arguments", [{"noise_level": 0.5}, {"noise_unit": "document", "noise_level": 0.4, "max_turns": 2}]
)
def test_n_sub_environments_play_exactly_the_episodes_of_n_single_ones(
    mode: AutoresetMode, arguments: dict[str, Any]
) -> None:
    count, steps, seeds = 5, 14, [11, 3, 3, 2**40, 0]
    # progress counts the finished episodes of all sub-environments, so it is the one thing that is fixed here
    envs = make(count, autoreset_mode=mode, **arguments)
    envs.set_progress(0.0)
    expected = single_histories(mode, seeds, steps, **arguments)
    observations, infos = envs.reset(seed=seeds)
    assert observations == tuple(history[0][0] for history in expected)
    over = np.zeros(count, dtype=bool)
    ended = 0
    for step in range(steps):
        if mode is AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over})
        observations, rewards, terminations, truncations, infos = envs.step(actions_at(step, count))
        over = terminations | truncations
        ended += int(over.sum())
        for index, info in enumerate(infos_of(infos, count)):
            want = expected[index][step + 1]
            got = (observations[index], rewards[index], terminations[index], truncations[index])
            assert got == want[:4]
            reference = {key: value for key, value in want[4].items() if key != "progress"}
            info.pop("progress", None)
            assert info == reference
    assert ended > count


@pytest.mark.parametrize("mode", MODES)
def test_it_agrees_with_gymnasiums_own_vector_env(mode: AutoresetMode) -> None:
    ours = make(3, autoreset_mode=mode, noise_level=0.5)
    theirs = SyncVectorEnv([lambda: make_single(noise_level=0.5)] * 3, autoreset_mode=mode)
    ours.set_progress(0.0)
    theirs.call("set_progress", 0.0)
    assert data_equivalence(ours.reset(seed=5), theirs.reset(seed=5), exact=True)
    over = np.zeros(3, dtype=bool)
    for step in range(12):
        if mode is AutoresetMode.DISABLED and over.any():
            one, two = ours.reset(options={"reset_mask": over}), theirs.reset(options={"reset_mask": over})
            assert one[0] == two[0]
            assert infos_of(one[1], 3) == infos_of(two[1], 3)
        one, two = ours.step(actions_at(step, 3)), theirs.step(actions_at(step, 3))
        assert one[0] == two[0]
        for a, b in zip(one[1:4], two[1:4], strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
        over = one[2] | one[3]
        assert set(one[4]) == set(two[4])
        for mine, other in zip(infos_of(one[4], 3), infos_of(two[4], 3), strict=True):
            # Gymnasium stores None as False where a bool came first in its array
            assert {k: v or None for k, v in _flat(mine).items()} == {k: v or None for k, v in _flat(other).items()}


def _flat(info: dict[str, Any]) -> dict[str, Any]:
    final = info.get("final_info", {})
    return {**{k: v for k, v in info.items() if k != "final_info"}, **{f"final {k}": v for k, v in final.items()}}


def test_one_engine_call_a_step() -> None:
    engine = EchoEngine()
    envs = make(6, search_engine=engine)
    envs.reset(seed=0)
    envs.step(["<search>a</search>"] * 6)
    envs.step(["<search>a</search>", "x", "<answer>a</answer>", "<search>b</search>", "", "<search>c</search>"])
    envs.step(["x"] * 6)
    assert engine.batches == [6, 3]


def test_results_do_not_depend_on_how_many_run_side_by_side() -> None:
    def played(count: int) -> list[Any]:
        envs = make(count, noise_level=0.5)
        envs.reset(seed=100)
        steps = [envs.step([TURNS[step % 3].format("x")] * count) for step in range(4)]
        return [(step[0][0], step[1][0], infos_of(step[4], count)[0]) for step in steps]

    assert played(1) == played(2) == played(9)


def test_info_arrays_have_steady_types() -> None:
    envs = make(2, noise_level=0.5)
    infos = envs.reset(seed=0)[1]
    assert infos["noise_level"].dtype == infos["progress"].dtype == np.float64
    infos = envs.step(["nothing", "<answer>x</answer>"])[4]
    assert infos["turn"].dtype == infos["searches"].dtype == np.int64
    assert infos["em"].dtype == infos["f1"].dtype == infos["subem"].dtype == np.float64
    assert infos["noisy"].dtype == infos["answer_in_documents"].dtype == np.bool_
    for key in ("action", "query", "documents", "stop_reason", "prediction", "answers"):
        assert infos[key].dtype == object
    assert infos["_em"].tolist() == [False, True]
    assert infos["_action"].tolist() == [True, True]
    assert infos["answers"][0] is None


@pytest.mark.parametrize("unit", ["search", "document"])
@pytest.mark.parametrize("first", TURNS)
def test_info_arrays_have_the_types_of_gymnasiums_own_vector_env(first: str, unit: str) -> None:
    arguments: dict[str, Any] = {"noise_level": 0.5, "noise_unit": unit}
    theirs = SyncVectorEnv([lambda: make_single(**arguments)] * 2)
    for envs in (ours := make(2, **arguments), theirs):
        envs.reset(seed=0)
    for actions in [(first, second) for second in TURNS if "answer" not in first + second]:
        types = [{key: value.dtype for key, value in envs.step(actions)[4].items()} for envs in (ours, theirs)]
        assert types[0] == types[1]


def test_infos_can_be_turned_into_a_list() -> None:
    envs = DictInfoToList(make(2))
    assert [set(info) for info in envs.reset(seed=0)[1]] == [{"question", "question_id", "noise_level", "progress"}] * 2


def test_returned_arrays_and_texts_belong_to_the_caller() -> None:
    envs = make(3)
    envs.reset(seed=0)
    first = envs.step(["<search>a</search>"] * 3)
    kept = copy.deepcopy(first)
    envs.step(["<answer>b</answer>"] * 3)
    envs.step(["<answer>b</answer>"] * 3)
    assert data_equivalence(first, kept, exact=True)


def test_the_curriculum_counts_the_episodes_of_all() -> None:
    envs = make(4, noise_schedule="linear", noise_end=1.0, curriculum_episodes=8, autoreset_mode="SameStep")
    envs.reset(seed=0)
    infos = envs.step(["<answer>x</answer>"] * 4)[4]
    assert infos["progress"].tolist() == [0.5] * 4
    assert infos["noise_level"].tolist() == [0.5] * 4
    assert infos["final_info"]["noise_level"].tolist() == [0.0] * 4
    assert envs.progress == 0.5
    assert envs.call("set_progress", 0.25) == (None,) * 4
    assert envs.get_attr("progress") == (0.25,) * 4
    assert envs.step(["<answer>x</answer>"] * 4)[4]["noise_level"].tolist() == [0.25] * 4
    with pytest.raises(ConfigError):
        envs.set_progress(2.0)


def test_attributes_are_set_and_read_as_in_gymnasiums_own_vector_env() -> None:
    ours, theirs = make(2), SyncVectorEnv([make_single] * 2)
    for envs in (ours, theirs):
        envs.reset(seed=4)
        envs.set_attr("tag", ["a", "b"])
        envs.set_attr("level", 3)
        envs.set_attr("double", lambda x: 2 * x)
        with pytest.raises(ValueError, match=r"got 3|Got `3`"):
            envs.set_attr("tag", ["a", "b", "c"])
        for name in ("progress", "episode", "dataset", "stop_strings"):
            with pytest.raises(AttributeError):
                envs.set_attr(name, 1)
        with pytest.raises(AttributeError, match="nothing"):
            envs.get_attr("nothing")
    for name in ("tag", "level", "progress", "stop_strings", "np_random_seed", "observation_space", "render_mode"):
        assert ours.get_attr(name) == theirs.get_attr(name)
    assert ours.call("double", 4) == theirs.call("double", 4) == (8, 8)
    assert ours.call("set_progress", 0.5) == theirs.call("set_progress", 0.5) == (None, None)
    for envs in (ours, theirs):
        envs.set_attr("np_random", [np.random.default_rng(7), np.random.default_rng(8)])
        assert envs.get_attr("np_random_seed") == (-1, -1)
    assert ours.reset()[0] == theirs.reset()[0]
    with pytest.raises(AttributeError, match="on the vector environment"):
        ours.call("reset", seed=0)
    with pytest.raises(AttributeError, match="set_progress"):
        ours.set_attr("progress", 0.5)


def test_a_misspelt_argument_names_the_nearest_one() -> None:
    for name, near in (
        ("noise_lvl", "noise_level"),
        ("autoreset", "autoreset_mode"),
        ("max_steps", "max_episode_steps"),
    ):
        with pytest.raises(ConfigError, match=f"Did you mean '{near}'"):
            make(2, **{name: 1})


def test_call_and_attributes() -> None:
    envs = make(2)
    envs.reset(seed=4)
    assert envs.call("episode") == envs.episodes
    assert envs.call("stop_strings") == (envs.stop_strings,) * 2
    assert envs.np_random_seed == (4, 5)
    assert envs.call("np_random") == envs.np_random
    assert repr(envs) == "ZeroSearchVectorEnv(ZeroSearch-v0, num_envs=2)"
    assert envs.action_space.sample() in envs.action_space
    assert envs.reset()[0] in envs.observation_space


def test_reset_options_for_all_and_for_each() -> None:
    envs = make(3)
    options = {"question": [3, "q5", np.int64(7)], "noise_level": 0.5}
    before = copy.deepcopy(options)
    infos = envs.reset(seed=0, options=options)[1]
    assert options == before
    assert infos["question_id"].tolist() == ["q3", "q5", "q7"]
    assert infos["noise_level"].tolist() == [0.5] * 3
    assert set(envs.reset(options={"question": 1})[1]["question_id"]) == {"q1"}
    for wrong in ({"question": [1, 2]}, {"question": [1, 2, 99]}, {"questoin": 1}, {"noise_level": [0, 1, 2]}):
        with pytest.raises(ConfigError):
            envs.reset(options=wrong)


def test_a_mask_resets_some_and_leaves_the_callers_options_alone() -> None:
    envs = make(3, autoreset_mode="DISABLED")
    first = envs.reset(seed=0)[0]
    observations = envs.step(["<answer>x</answer>", "x", "<answer>x</answer>"])[0]
    with pytest.raises(ResetNeeded, match=r"\[0, 2\] are over and autoreset is disabled"):
        envs.step(["x"] * 3)
    mask = np.array([True, False, True])
    options = {"reset_mask": mask, "question": 2}
    observations_after, infos = envs.reset(seed=[0, 1, None], options=options)
    assert set(options) == {"reset_mask", "question"}
    assert infos["_question_id"].tolist() == [True, False, True]
    assert infos["question_id"].tolist() == ["q2", None, "q2"]
    assert observations_after[1] == observations[1]
    assert observations_after[0] != first[0] or "number 2?" in first[0]
    assert envs.step(["x"] * 3)[4]["turn"].tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    "mask", [np.zeros(3, bool), np.ones(2, bool), np.ones(3, int), [True, False, True], np.ones((3, 1), bool)]
)
def test_wrong_masks_are_refused(mask: Any) -> None:
    envs = make(3)
    envs.reset(seed=0)
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": mask})


def test_a_mask_needs_a_full_reset_first() -> None:
    with pytest.raises(ResetNeeded, match="before the first reset"):
        make(2).reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize(
    ("actions", "match"),
    [
        ("xx", "sequence of 2 strings, got str"),
        (["x"], "got 1"),
        (["x", 3], "got int"),
        (None, "NoneType"),
        (["x"] * 3, "got 3"),
    ],
)
def test_wrong_actions_are_refused_and_nothing_moves(actions: Any, match: str) -> None:
    envs = make(2)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=match):
        envs.step(actions)
    assert envs.step(np.array(["x", "y"], dtype=object))[4]["turn"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1"),
        ({"autoreset_mode": "same"}, "Expected one of: 'Disabled', 'NextStep', 'SameStep'"),
        ({"autoreset_mode": "SameStp"}, "Did you mean 'SameStep'"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number of at least 1"),
        ({"protocol": "zerosearc"}, "Did you mean 'zerosearch'"),
        ({"dataset": []}, "has no questions"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises((ConfigError, DataError), match=match):
        make(**{"num_envs": 2, **arguments})


def test_step_needs_a_reset_and_reset_an_open_environment() -> None:
    envs = make(2)
    with pytest.raises(ResetNeeded, match="before reset"):
        envs.step(["x", "x"])
    with pytest.raises(ResetNeeded):
        envs.render()
    with pytest.raises(ConfigError, match="2 seeds"):
        envs.reset(seed=[1])
    envs.reset(seed=0)
    envs.close()
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.reset()
    with pytest.raises(ResetNeeded):
        envs.step(["x", "x"])


def test_close_closes_only_an_engine_of_its_own() -> None:
    engine = EchoEngine()
    make(2, search_engine=engine).close()
    assert engine.closed == 0
    own = make(2, search_engine="corpus")
    own.close()
    with pytest.raises(ClosedEnvironmentError):
        own.reset()


def test_max_episode_steps_truncates_like_a_time_limit() -> None:
    envs = make(2, max_episode_steps=2)
    single = gym.make("ZeroSearch-v0", max_episode_steps=2, dataset=make_dataset(), search_engine=EchoEngine())
    envs.reset(seed=0)
    single.reset(seed=0)
    for _ in range(2):
        _, rewards, terminations, truncations, infos = envs.step(["<search>a</search>", "<search>a</search>"])
        want = single.step("<search>a</search>")
        assert (rewards[0], terminations[0], truncations[0]) == want[1:4]
        assert infos_of(infos, 2)[0] == want[4]
    assert truncations.all()
    assert [index for index, _ in envs.finished] == [0, 1]
    assert envs.step(["ignored"] * 2)[4]["_question"].all()


def test_failed_searches_truncate_their_episodes_alone() -> None:
    envs = make(3, search_engine=FailingEngine("HTTP 503", after=1, inner=EchoEngine()))
    envs.reset(seed=0)
    _, _, terminations, truncations, infos = envs.step(["<search>a</search>", "<search>a</search>", "no tag"])
    assert not terminations.any()
    assert truncations.tolist() == [False, True, False]
    assert infos["_error"].tolist() == [False, True, False]
    assert infos["error"][1] == "HTTP 503"


def test_failed_searches_raise_if_asked_to_and_the_rest_goes_on() -> None:
    engine = FailingEngine("HTTP 503", after=1, inner=EchoEngine())
    envs = make(2, search_engine=engine, on_engine_error="raise")
    envs.reset(seed=0)
    with pytest.raises(EngineError, match=r"HTTP 503 \(1 of 2 searches failed\)"):
        envs.step(["<search>a</search>"] * 2)
    assert [episode.done for episode in envs.episodes] == [False, True]
    infos = envs.step(["no tag"] * 2)[4]
    assert infos["turn"].tolist() == [2, 0]
    assert infos["_question"].tolist() == [False, True]


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_whatever_an_engine_does_wrong_ends_its_episodes_alone(misbehaviour: str) -> None:
    envs = make(3, search_engine=BadEngine(misbehaviour), reward=lambda prediction, answers: -1.0)
    envs.reset(seed=0)
    _, rewards, _, truncations, infos = envs.step(["<search>bad</search>", "<search>good</search>", "no tag"])
    assert truncations[0]
    assert not truncations[2]
    assert infos["error"][0]
    assert "BadEngine" in infos["error"][0] or misbehaviour == "a failure of the engine"
    assert not rewards.any(), "a failed engine pays nothing"
    _, _, _, truncations, infos = envs.step(["<search>good</search>"] * 3)
    assert infos["_question"][0]
    assert not truncations.any()


def test_a_bad_query_of_one_episode_does_not_fail_the_others() -> None:
    envs = make(3, search_engine=BadEngine("a bug"))
    envs.reset(seed=0)
    truncations, infos = envs.step(["<search>bad</search>", "<search>good</search>", "<search>fine</search>"])[3:]
    assert truncations.tolist() == [True, False, False]
    assert infos["error"][0] == "BadEngine raised KeyError: 'a bug'"


def test_rendering(capsys: pytest.CaptureFixture[str]) -> None:
    envs = make(2, render_mode="html")
    envs.reset(seed=0)
    assert [page.count("<section") for page in envs.render() or ()] == [1, 1]
    envs = make(2, render_mode="human")
    envs.reset(seed=0)
    envs.step(["<search>a</search>", "b"])
    shown = capsys.readouterr().out
    assert shown.count("environment 1") == 2
    assert shown.count("turn 1") == 2
    assert envs.render() == (None, None)
    assert capsys.readouterr().out == ""
