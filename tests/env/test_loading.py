"""Engines, rewards, protocols and noise schedules given as `file.py:attribute` or `module:attribute`."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from zerosearch_env import make_engine
from zerosearch_env.engines import engine_name, engine_parts, loads_code
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise import get_schedule
from zerosearch_env.game.reward_registry import get_reward
from zerosearch_env.game.rules import make_rules
from zerosearch_env.loading import load_attribute, load_function, names_code
from zerosearch_env.protocols import get_protocol
from zerosearch_env.types import SearchRequest

PARTS = """
from dataclasses import replace

from helpers_next_to_parts import HALF
from zerosearch_env import BatchedEngine
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.protocols import get_protocol
from zerosearch_env.types import Document, SearchResult


class Engine(BatchedEngine):
    def __init__(self, dataset=None, *, text="a text"):
        super().__init__()
        self.dataset, self.text = dataset, text

    def search(self, requests):
        return [SearchResult((Document("title", self.text),) * request.top_k) for request in requests]


def by_argument(argument, dataset, **options):
    return Engine(dataset, **options)


def wrong(dataset):
    return dataset


def broken():
    raise RuntimeError("no licence")


def exits(*anything):
    raise SystemExit(0)


def reward_that_exits(prediction, answers):
    raise SystemExit(0)


READY = ConstantEngine()
NUMBER = 3


def reward(prediction, answers):
    return 0.25


class Reward:
    def __call__(self, prediction, answers):
        return HALF


def schedule(progress):
    return progress / 2


protocol = replace(get_protocol("zerosearch"), name="mine", max_turns=2)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "helpers_next_to_parts.py").write_text("HALF = 0.5\n")
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("parts", "helpers_next_to_parts"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("place", ["parts.py", "parts", "{folder}/parts.py"])
def test_every_part_of_an_environment_is_loaded_by_its_place(place: str, folder: Path) -> None:
    place = place.format(folder=folder)
    env = gym.make(
        "ZeroSearch-v0",
        search_engine=f"{place}:Engine",
        reward=f"{place}:reward",
        protocol=f"{place}:protocol",
        noise_schedule=f"{place}:schedule",
        world={"passages": 400},
    )
    base = env.unwrapped
    env.reset(seed=0, options={"progress": 1.0})
    assert base.rules.max_turns == 2
    assert base.engine.dataset is base.dataset
    observation, *_ = env.step("<search>x</search>")
    assert "a text" in observation
    _, reward, terminated, _, info = env.step("<answer>x</answer>")
    assert (reward, terminated, info["noise_level"]) == (0.25, True, 0.5)
    env.close()


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "parts.py:Engine", "text": "given"},
        '{"kind": "parts.py:Engine", "text": "given"}',
        {"kind": "parts:by_argument", "text": "given"},
        {"kind": "parts", "argument": "by_argument", "text": "given"},
    ],
)
def test_options_are_given_to_a_loaded_engine(spec: object) -> None:
    assert make_engine(spec).text == "given"


def test_a_ready_engine_and_a_class_of_reward_are_loaded_too() -> None:
    assert get_reward("parts.py:Reward")(None, ["a"]) == 0.5
    assert get_schedule("parts.py:schedule")(0.5) == 0.25
    assert load_function("parts.py:reward", "reward") is load_attribute("parts.py:reward", "reward")


def test_an_engine_that_a_module_has_made_stays_open() -> None:
    requests = [SearchRequest("q", "q?", ("a",), noisy=False, top_k=2, seed=0)]
    engines = [make_engine("parts.py:READY") for _ in range(2)]
    results = engines[0].search(requests)
    engines[0].close()
    copy = pickle.loads(pickle.dumps(engines[1]))
    assert engines[1].search(requests) == copy.search(requests) == results
    assert asyncio.run(engines[1].asearch(requests[0])) == results[0]
    assert engine_parts(engines[1]).waits is False
    for _ in range(2):  # two environments, one after the other
        env = gym.make("ZeroSearch-v0", search_engine="parts.py:READY", world={"passages": 400})
        env.reset(seed=0)
        assert not env.step("<search>x</search>")[3]
        env.close()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_engine("parts.py:Engin"), "search engine 'parts.py:Engin': .* Did you mean 'Engine'"),
        (lambda: make_engine("dens:index"), "unknown search engine 'dens'. Did you mean 'dense'"),
        (lambda: make_engine("part:Engine"), "there is no module 'part'"),
        (lambda: make_engine("retreive:http://127.0.0.1"), "Did you mean 'retrieve'"),
        (lambda: make_engine("parts.py:NUMBER"), "expected an engine, a class or a function, got 3"),
        (lambda: make_engine("parts.py:wrong"), "expected an object with search, asearch and close, got NoneType"),
        (lambda: make_engine("parts.py:broken"), "making it failed: RuntimeError: no licence"),
        (lambda: make_engine({"kind": "parts.py:Engine", "txt": 1}), "unknown option .* Did you mean 'text'"),
        (lambda: make_engine({"kind": "parts.py:READY", "text": 1}), "unknown option"),
        (lambda: make_engine("exits_at_once.py:Engine"), "running it failed: SystemExit: 0"),
        (lambda: make_engine("parts.py:exits"), "making it failed: SystemExit: 0"),
        (
            lambda: get_reward("parts.py:reward_that_exits")("x", ["a"]),
            "the reward reward_that_exits raised SystemExit",
        ),
        (lambda: get_schedule("parts.py:exits")(0.5), "the noise schedule exits raised SystemExit at progress 0.5: 0"),
        (lambda: make_engine('{"kind": "corpus"'), "is not JSON"),
        (lambda: make_engine({"kind": "retrieve", "adress": "x"}), "'argument'"),
        (lambda: make_engine({"kind": 3}), "unknown search engine 3"),
        (lambda: get_reward("parts.py:rewrd"), "reward 'parts.py:rewrd'.* Did you mean 'reward'"),
        (lambda: get_reward("parts.py:NUMBER"), "expected a callable, got int"),
        (lambda: get_schedule("parts.py:no"), "noise schedule 'parts.py:no'"),
        (lambda: make_rules(protocol="parts.py:NUMBER"), "protocol must be a name or a Protocol, got 3"),
        (lambda: make_rules(protocol="nowhere.py:p"), "protocol 'nowhere.py:p': there is no file"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_only_what_is_typed_is_loaded(folder: Path) -> None:
    Path("trap.py").write_text("from pathlib import Path\nPath('sprung').touch()\n")
    # A checkpoint's card is read with `get_protocol`, which knows names only.
    with pytest.raises(ConfigError, match=r"unknown protocol 'trap.py:protocol'"):
        get_protocol("trap.py:protocol")
    assert not Path("sprung").exists()
    typed = ("trap.py:E", {"kind": "trap.py:E"}, json.dumps({"kind": "trap.py", "argument": "E"}), "trap:E")
    assert all(loads_code(spec) for spec in typed)
    assert not any(map(loads_code, ("corpus", "simulated:tiny", "dense:index", "retrieve:http://h:1", "serper")))
    assert not any(map(names_code, ("em", "a b:c", "x:", ":x", "http://h:1/x", 3, None, "a.py:b-c")))


def test_a_retrieval_server_may_be_given_as_url_and_with_options() -> None:
    for spec in (
        {"kind": "retrieve", "url": "http://127.0.0.1:9", "dialect": "search-r1"},
        '{"kind": "retrieve:http://127.0.0.1:9", "dialect": "search-r1"}',
        {"kind": "retrieve", "url": ["http://127.0.0.1:9", "http://127.0.0.1:10"]},
    ):
        make_engine(spec).close()
    with pytest.raises(ConfigError, match="twice"):
        make_engine({"kind": "retrieve", "argument": "http://127.0.0.1:9", "url": "http://127.0.0.1:9"})


def test_the_name_of_an_engine_shows_its_options() -> None:
    assert engine_name("corpus") == "corpus"
    assert (
        engine_name('{"kind": "retrieve", "argument": "http://u:secret@h", "top": 3}')
        == "retrieve:http://***@h (top=3)"
    )
