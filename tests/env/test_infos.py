from __future__ import annotations

import json
import math
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import SEARCH, make_dataset
from gymnasium.wrappers import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.engines import ConstantEngine, FailingEngine
from zerosearch_env.envs.infos import SCORE_KEYS, STEP_KEYS, batch_infos, plain, step_info
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Scores, SearchRequest, Step

ACTIONS = (SEARCH, "nothing", "<answer>thing 1</answer>", "<search>fail</search>")


def step_of(action: str, number: int) -> Step:
    episode = Episode(make_dataset(9).questions[number], make_rules(), noise_level=0.5, seed=number)
    outcome = episode.advance(action)
    if isinstance(outcome, SearchRequest):
        outcome = episode.observe((FailingEngine() if "fail" in action else ConstantEngine()).search([outcome])[0])
    return outcome


def test_the_keys_are_those_that_are_documented() -> None:
    assert tuple(step_info(step_of(SEARCH, 0))) == STEP_KEYS
    assert tuple(step_info(step_of("<answer>x</answer>", 0))) == STEP_KEYS + SCORE_KEYS
    assert tuple(step_info(step_of("<search>fail</search>", 0))) == (*STEP_KEYS, *SCORE_KEYS, "error")
    assert set(SCORE_KEYS) == set(Scores.__dataclass_fields__) - {"reward", "extra"}


@settings(max_examples=40)
@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=6), st.data())
def test_arrays_hold_what_the_infos_of_each_say_in_whatever_order_they_come(
    actions: list[str], data: st.DataObject
) -> None:
    played = data.draw(st.permutations([(index, action) for index, action in enumerate(actions)]))
    absent = data.draw(st.integers(0, 2))
    steps = {index: step_of(action, index) for index, action in played}
    infos = batch_infos(len(actions) + absent, {}, steps)
    single = [step_info(steps[index]) for index in range(len(actions))] + [{}] * absent
    for key in STEP_KEYS + SCORE_KEYS:
        assert (key in infos) == any(key in info for info in single)
    for key in [key for key in infos if not key.startswith("_")]:
        assert infos[f"_{key}"].tolist() == [key in info for info in single]
        empty = None if infos[key].dtype == object else 0
        assert infos[key].tolist() == [info.get(key, empty) for info in single]
    assert plain(infos) == json.loads(json.dumps(plain(infos)))
    arrays = list(infos.values())
    assert all(array.flags.owndata and array.flags.writeable for array in arrays)
    assert not any(np.shares_memory(one, other) for one in arrays for other in arrays if one is not other)


def test_every_info_has_a_plain_form() -> None:
    env = RecordEpisodeStatistics(
        gym.make("ZeroSearch-v0", dataset=make_dataset(9), search_engine=ConstantEngine(), noise_unit="document")
    )
    infos = [env.reset(seed=0)[1], *(env.step(action)[4] for action in ACTIONS[:3])]
    assert "episode" in infos[-1]
    envs = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=2,
        dataset=make_dataset(9),
        search_engine=ConstantEngine(),
        autoreset_mode="SameStep",
    )
    infos += [envs.reset(seed=0)[1], *(envs.step([SEARCH, action])[4] for action in ACTIONS[:3])]
    assert "final_info" in infos[-1]
    for info in infos:
        assert set(plain(info)) == set(info)
        assert json.loads(json.dumps(plain(info), allow_nan=False)) == plain(info)
    document = plain(infos[1])["documents"][0]
    assert document == asdict(infos[1]["documents"][0])
    assert plain(infos[3])["stop_reason"] == "answer"


def test_plain_values_of_odd_ones() -> None:
    odd = {"nan": math.nan, "seven": np.int64(7), "none": None, "row": np.array([1.5, np.inf]), "of": {3: {"b", "a"}}}
    assert plain(odd) == {"nan": None, "seven": 7, "none": None, "row": [1.5, None], "of": {"3": ["a", "b"]}}
    assert plain({"question": make_dataset(1).questions[0]})["question"]["answers"] == ["thing 0"]
    with pytest.raises(ConfigError, match=r"info\['extra.model\[0\]'\] is a object"):
        plain({"extra": {"model": [object()]}})
