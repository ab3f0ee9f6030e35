"""`rows`: plain rows for the datasets of trainers, with the noise of an evaluation and no gold answers."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from env_fakes import EchoEngine, make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import zerosearch_env.envs.rows
from zerosearch_env.datasets import load_dataset
from zerosearch_env.envs.rows import rows
from zerosearch_env.envs.session import Session
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.randomness import mix

DATASET = make_dataset(9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_row_has_the_prompt_of_the_protocol_and_no_gold_answer(protocol: str) -> None:
    table = rows(DATASET, protocol=protocol, noise_level=0.5, seed=3)
    assert len(table) == 9
    row, question = table[4], DATASET.questions[4]
    assert row == {
        "question_id": "q4",
        "question": question.text,
        "prompt": [{"role": "user", "content": Episode(question, make_rules(protocol=protocol)).prompt}],
        "noise_level": 0.5,
        "seed": row["seed"],
        "extra_info": {"dataset": "fake", "split": "train", "index": 4, "protocol": protocol},
    }
    assert 'thing 4"' not in json.dumps(row)


def test_gold_answers_are_included_where_they_are_asked_for(tmp_path: Path) -> None:
    table = rows(DATASET, answers=True, count=4)
    assert table[1]["answers"] == ["thing 1", "lake"]
    assert table[1]["reward_spec"] == {"method": "rule", "ground_truth": ["thing 1", "lake"]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in table), "utf-8")
    read = load_dataset(path).questions
    assert [(q.text, q.answers) for q in read] == [(q.text, q.answers) for q in DATASET.questions[:4]]


def test_count_takes_the_first_questions_and_changes_no_row() -> None:
    table = rows(DATASET, noise_level=0.5)
    assert rows(DATASET, noise_level=0.5, count=3) == table[:3]
    assert rows(DATASET, noise_level=0.5, count=100) == table
    assert [row["seed"] for row in rows(DATASET, noise_level=1)] == [row["seed"] for row in table]


@settings(max_examples=15)
@given(seed=st.integers(0, 2**40), level=st.floats(0, 1), unit=st.sampled_from(["search", "document"]))
def test_a_row_meets_the_noise_of_the_evaluation(seed: int, level: float, unit: str) -> None:
    """`evaluate` plays question `index` with the seed `mix(seed, index)`; a row holds the same 64 bits, signed."""
    rules = make_rules(noise_unit=unit)
    for row in rows(DATASET, seed=seed, noise_level=level, count=3):
        index = row["extra_info"]["index"]
        assert row["seed"] % 2**64 == mix(seed, index)
        played = []
        for number in (mix(seed, index), row["seed"]):
            session = Session(
                DATASET.questions[index], rules, EchoEngine(), noise_level=row["noise_level"], seed=number
            )
            for query in ("one", "two"):
                session.search(query)
            played.append(session.episode.turns)
        assert played[0] == played[1]


def test_seeds_are_signed_64_bit_integers() -> None:
    seeds = [row["seed"] for row in rows(DATASET)]
    assert np.array(seeds, np.int64).tolist() == seeds
    assert min(seeds) < 0 < max(seeds)


@pytest.mark.slow  # loading pyarrow takes a second
def test_rows_fit_into_an_arrow_table() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = rows(DATASET, noise_level=0.5, answers=True)
    assert pyarrow.Table.from_pylist(table).to_pylist() == table


def test_rows_take_every_dataset_that_the_environment_takes() -> None:
    question = {"question": "What is the capital of France?", "answers": ["Paris"]}
    assert rows([question])[0]["question"] == question["question"]
    row = rows("world", split="test", count=1)[0]
    assert row["extra_info"] == {"dataset": "world", "split": "test", "index": 0, "protocol": "zerosearch"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": "wrld"}, ConfigError, r"'wrld'.*Did you mean 'world'\?"),
        ({"dataset": []}, DataError, "has no questions"),
        ({"split": "tset"}, ConfigError, "tset"),
        ({"protocol": "zero-search"}, ConfigError, r"Did you mean 'zerosearch'\?"),
        ({"dataset": DATASET, "noise_level": 2}, ConfigError, "noise"),
        ({"dataset": DATASET, "count": 0}, ConfigError, "count must be a whole number of at least 1, got 0"),
        ({"dataset": DATASET, "seed": -1}, ConfigError, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rows(**arguments)


def test_the_example_runs() -> None:
    assert doctest.testmod(zerosearch_env.envs.rows).failed == 0
