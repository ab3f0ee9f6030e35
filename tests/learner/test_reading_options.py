"""Commands read files with other column names and with bad rows, and several files at once."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zerosearch_agents.commands.evaluate import main as evaluate
from zerosearch_agents.config.train import DataConfig, TrainConfig, dump_config, parse_config
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_env.commands.index import Bm25Config, _passages
from zerosearch_env.commands.play import PlayConfig, make_env
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.serve.command import ServeConfig, make_service

COLUMNS = ("question=Frage", "answers=Antwort")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sets with German column names and a bad row each, and a corpus."""
    monkeypatch.chdir(tmp_path)
    for name in ("nq", "popqa"):
        rows: list[dict[str, Any]] = [{"Frage": f"{name} {i}?", "Antwort": f"a{i}"} for i in range(4)]
        write(tmp_path / f"{name}.jsonl", [*rows, {"Frage": "no answer?"}])
    write(tmp_path / "good.jsonl", [{"text": f"Passage {i}."} for i in range(20)])
    write(tmp_path / "corpus.jsonl", [{"body_text": f"Passage {i}."} for i in range(20)] + [{"other": ""}])
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_an_evaluation_of_two_files_with_weights(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["--agent", "baseline:random", "--dataset", "nq.jsonl=1,popqa.jsonl=2", "--output", "out"]
    reading = ["--on-bad-row", "skip", "--columns", *COLUMNS, "--engine", "corpus:good.jsonl", "--noise", "0"]
    with caplog.at_level(logging.WARNING):
        assert evaluate([*arguments, *reading]) == 0
    assert caplog.text.count("1 row was left out") == 2
    results = load_evaluation("out")
    assert results.settings["skipped_rows"] == 2
    names = Counter(episode.question_id.split("-")[0] for episode in results.cells[0].episodes)
    assert names == {"nq": 2, "popqa": 4}


def test_a_training_run_reads_them_and_writes_them_down(folder: Path) -> None:
    data = DataConfig(dataset="nq.jsonl,popqa.jsonl", on_bad_row="skip", columns=COLUMNS)
    assert parse_config(dump_config(TrainConfig(data=data))).data == data
    questions = data.load(data.dataset, data.split, world=data.world).questions
    assert Counter(question.dataset for question in questions) == {"nq": 4, "popqa": 4}


def test_play_serve_and_index_read_them(folder: Path) -> None:
    env = make_env(
        PlayConfig(dataset="nq.jsonl", search_engine="simulated:tiny", on_bad_row="skip", columns=COLUMNS)
    ).unwrapped
    assert isinstance(env, ZeroSearchEnv)
    assert env.dataset.skipped_rows == 1
    served = make_service(ServeConfig(dataset="nq.jsonl", on_bad_row="skip", columns=COLUMNS), ConstantEngine())
    assert len(served.defaults._questions._by_id) == 4
    build = Bm25Config(
        output=folder / "i", corpus=(folder / "corpus.jsonl",), on_bad_row="skip", columns=("text=body_text",)
    )
    assert [passage.text for passage in _passages(build)][:2] == ["Passage 0.", "Passage 1."]
