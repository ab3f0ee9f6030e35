"""`answer_in_documents` is computed when it is read; every other way of reading an info sees the same values."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from zerosearch_env import ConstantEngine, Document, plain
from zerosearch_env.envs.infos import LateInfo, step_info
from zerosearch_env.game import episode as game

QUESTIONS = [{"question": "What is the capital of France?", "answers": ["Paris"]}]
SEARCH, ANSWER = "<search>capital of France</search>", "<answer>Paris</answer>"
FOUND = ConstantEngine((Document("France", "Its capital is Paris."),))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per look for answers."""
    seen: list[int] = []
    look = game.documents_contain_answer

    def counted(*arguments: Any) -> bool:
        seen.append(1)
        return look(*arguments)

    monkeypatch.setattr(game, "documents_contain_answer", counted)
    return seen


def searched() -> Any:
    env = gym.make("ZeroSearch-v0", dataset=QUESTIONS, search_engine=FOUND)
    env.reset(seed=0)
    return env.step(SEARCH)[4]


def test_only_reading_looks_for_answers_and_only_once(looks: list[int]) -> None:
    info = searched()
    assert "answer_in_documents" in info
    assert len(info) == len(list(info.keys())) == 11
    assert info["turn"] == 1
    info["mine"] = 1
    assert looks == []
    assert info["answer_in_documents"] is True
    assert info.get("answer_in_documents") is True
    assert looks == [1]


@pytest.mark.parametrize(
    "read",
    [
        dict,
        lambda info: {**info},
        lambda info: {} | info,
        lambda info: info | {},
        lambda info: dict(info.items()),
        lambda info: dict(zip(info, info.values(), strict=True)),
        lambda info: info.copy(),
        copy.copy,
        copy.deepcopy,
        lambda info: pickle.loads(pickle.dumps(info)),
        lambda info: json.loads(json.dumps(plain(info))),
        lambda info: {key: info.get(key) for key in info.keys()},  # noqa: SIM118
        lambda info: {key: info.pop(key) for key in list(info.keys())},
        lambda info: (lambda other: other.update(info) or other)({}),
    ],
)
def test_every_way_of_reading_sees_the_value(read: Callable[[Any], dict[str, Any]]) -> None:
    copied = read(searched())
    assert copied["answer_in_documents"] is True
    assert isinstance(copied, dict)
    assert len(copied) == 11


def test_it_compares_and_prints_like_a_dict() -> None:
    info = searched()
    assert info == searched() == dict(searched())
    assert (info != searched()) is False
    assert "'answer_in_documents': True" in repr(info)
    info = searched()
    info["answer_in_documents"] = "mine"
    assert dict(info)["answer_in_documents"] == "mine"


def test_a_turn_without_a_search_has_an_ordinary_info() -> None:
    env = gym.make("ZeroSearch-v0", dataset=QUESTIONS, search_engine=FOUND)
    env.reset(seed=0)
    info = env.step(ANSWER)[4]
    assert type(info) is dict
    assert info["answer_in_documents"] is False


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_vector_environment_computes_the_array_when_it_is_read(looks: list[int], mode: str) -> None:
    envs = gym.make_vec("ZeroSearch-v0", num_envs=3, dataset=QUESTIONS, search_engine=FOUND, autoreset_mode=mode)
    envs.reset(seed=0)
    info = envs.step((SEARCH, ANSWER, SEARCH))[4]
    assert looks == []
    assert info["_answer_in_documents"][[0, 2]].all()
    envs.step((ANSWER, SEARCH, SEARCH))  # an info keeps its own turns
    column = info["answer_in_documents"]
    assert column.dtype == np.bool_
    assert column.tolist() == [True, False, True]
    assert len(looks) == 2
    assert isinstance(info, LateInfo)
    assert dict(info)["answer_in_documents"] is column


def test_a_step_can_be_pickled_and_still_tells() -> None:
    env = gym.make("ZeroSearch-v0", dataset=QUESTIONS, search_engine=FOUND)
    env.reset(seed=0)
    env.step(SEARCH)
    step = pickle.loads(pickle.dumps(env.unwrapped.episode.turns[0].step))
    assert step.answer_in_documents is True
    assert step_info(step)["answer_in_documents"] is True
