"""Definitions of the robustness benchmark: what is frozen, how files are read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_agents.config.definition import Definition, definition_differences, definition_hash
from zerosearch_agents.evaluation.items import select_questions
from zerosearch_benchmarks.robustness.definitions import definition_names, load_definition, parse_definition
from zerosearch_env.datasets import load_dataset
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise_kinds import KINDS
from zerosearch_env.identity import text_hash


def parse(text: str) -> Definition:
    return parse_definition(text, "mine", "mine.toml")


def test_v1_is_frozen() -> None:
    v1, small = load_definition("v1"), load_definition("v1-small")
    assert definition_names() == ["v1", "v1-small"]
    assert (v1.name, v1.hash) == ("v1", "bd092fbffe4ff734")
    assert (small.name, small.hash) == ("v1-small", "03382b61eb36b5d7")
    assert set(v1.noise_kind) == set(KINDS)
    world = load_dataset("world", "test", world=v1.world)
    chosen = {d.name: select_questions(world.questions, d.questions, seed=d.seed, per_hop=True) for d in (v1, small)}
    assert [len(chosen["v1"]), len(chosen["v1-small"])] == [400, 80]
    assert {item.index for item in chosen["v1-small"]} < {item.index for item in chosen["v1"]}
    assert (400 * v1.played, 80 * small.played) == (18_000, 560)
    # A change of the world's generator would be another benchmark under the same name.
    asked = [[q.id, q.text, q.answers] for q in (item.question for item in chosen["v1"])]
    assert text_hash(json.dumps(asked)) == "1828735fbfbe408250acd93dfb7a35f9"


def test_the_hash_depends_on_values_only() -> None:
    one = parse('questions = 7\nnoise = [0, 0.5]\nnoise_kind = ["outage", "empty"]')
    assert one.hash == parse('# note\nnoise_kind = ["empty","outage"]\nname = "x"\nnoise=[0.5, 0.0]\nquestions=7').hash
    assert one.hash == definition_hash(json.loads(json.dumps(one.record))["values"])
    assert one.hash == Definition.from_values({**one.values, "name": "again"}, "results.json").hash
    assert one.hash != parse('questions = 8\nnoise = [0, 0.5]\nnoise_kind = ["outage", "empty"]').hash
    assert len(one.hash) == 16
    assert one.conditions == (("outage", 0.0), ("outage", 0.5), ("empty", 0.0), ("empty", 0.5))
    assert one.played == 3


def test_what_is_missing_is_as_in_v1() -> None:
    assert parse("").hash == load_definition("v1").hash
    assert parse("[world]\npassages = 800").world.hops == (1, 2)
    other = parse('dataset = "mine.jsonl"')
    assert "world" not in other.values
    assert other.hash == parse('dataset = "mine.jsonl"\n[world]\nseed = 3').hash  # it has no meaning there


def test_differences_name_the_values() -> None:
    v1, small = load_definition("v1").values, load_definition("v1-small").values
    assert definition_differences(small, v1)[0] == "questions: 40 -> 200"
    assert [text.partition(":")[0] for text in definition_differences(small, v1)] == [
        "questions",
        "noise",
        "noise_kind",
    ]
    assert definition_differences(v1, {**v1, "noise": v1["noise"][::-1]}) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quests = 3", r"unknown field of mine.toml 'quests'. Did you mean 'questions'\?"),
        ("[world]\npasages = 800", r"unknown field of mine.toml 'world.pasages'. Did you mean 'world.passages'\?"),
        ('noise_kind = ["outtage"]', r"unknown kind of noise 'outtage'. Did you mean 'outage'\?"),
        ("noise = [0, 1.5]", r"noise level.*1\.5"),
        ("noise = []", "the definition 'mine': noise is empty; give at least one"),
        ("noise = [0.5, 0.5]", "noise has a value twice"),
        ("questions = 0", "questions must be a whole number of at least 1, got 0"),
        ('questions = "all"', "questions must be of type int, got 'all'"),
        ("seed = -1", "seed must be a whole number of at least 0, got -1"),
        ('noise_unit = "word"', "unknown noise_unit in mine.toml 'word'"),
        ('name = " "', "name is empty"),
        ("questions 3", "mine.toml is not valid TOML"),
        ('engine = "my_engine:make"', r"engine = 'my_engine:make' names code.*zerosearch eval --engine my_engine:make"),
        ('engine = \'{"kind": "evil.py:engine"}\'', "names code, and a definition is data only"),
        ('dataset = "evil.py:rows"', "dataset = 'evil.py:rows' names code, and a definition is data only"),
    ],
)
def test_bad_definitions_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown definition 'v1-smal'. Did you mean 'v1-small'\?.*my\.toml"):
        load_definition("v1-smal")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_definition(str(tmp_path / "none.toml"))
    file = tmp_path / "mine.toml"
    file.write_text("questions = 3")
    assert load_definition(str(file)).name == "mine"
    file.write_text('name = "v1"\nquestions = 3')
    with pytest.raises(ConfigError, match=r"calls itself 'v1'.*questions: 200 -> 3.*name = \"my-v1\""):
        load_definition(str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is damaged"):
        load_definition(str(file))
    incomplete = {name: value for name, value in load_definition("v1").record["values"].items() if name != "seed"}
    with pytest.raises(ConfigError, match=r"results\.json has no name, seed"):
        Definition.from_values(incomplete, "results.json")
