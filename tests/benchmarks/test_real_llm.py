from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.learning.real_llm import stages, table
from zerosearch_benchmarks.learning.real_llm.bench import earlier
from zerosearch_benchmarks.learning.real_llm.stages import SMOKE, Data, Sizes
from zerosearch_benchmarks.measure import write_record
from zerosearch_env.errors import ConfigError


@pytest.fixture
def data(tmp_path):
    for name in Data.FILES:
        (tmp_path / name).write_text("{}\n")
    return Data(tmp_path)


def test_missing_files_are_named_with_the_command_that_makes_them(data):
    (data.folder / "wikipedia_passages.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"wikipedia_passages\.jsonl is missing\. .*wiki_questions"):
        Data(data.folder)


def test_every_stage_is_a_command_with_a_folder_of_its_own(data, tmp_path):
    model = tmp_path / "model"
    listed = [
        *stages.untrained_stages(model, data, Sizes(), tmp_path / "runs"),
        *stages.seed_stages(model, data, Sizes(), tmp_path / "runs", 7, "bfloat16"),
    ]
    assert len({stage.output for stage in listed}) == len(listed)
    assert [stage.command[0] for stage in listed] == ["eval"] * 4 + ["demos", "sft"] + ["eval"] * 4 + ["train"] + [
        "eval"
    ] * 4
    seeds = [stage.command[stage.command.index("--seed") + 1] for stage in listed if "--seed" in stage.command]
    assert seeds == ["7", "7", "7"]
    # No stage trains on test questions.
    for stage in listed:
        dataset = next((stage.command[i + 1] for i, word in enumerate(stage.command) if word.endswith("dataset")), "")
        assert ("test" in Path(dataset).name) == (stage.command[0] == "eval")


def cell(weights, agent, seed, noise, em, kind="one-hop"):
    interval = {"mean": em, "low": em - 0.1, "high": em + 0.1, "n": 150}
    return {
        "seed": seed, "weights": weights, "agent": agent, "kind": kind, "noise": noise, "em": interval,
        "subem": interval | {"mean": em + 0.1},
        "searches": 1.5, "invalid_rate": 0.0, "relations": {"director": interval}, "seconds": 1.0,
    }  # fmt: skip


RECORD = {
    "seeds": [0, 1],
    "cells": [
        *(cell("untrained", agent, None, noise, 0.1) for agent in ("untrained", "rag") for noise in (0.0, 0.5)),
        *(cell("trained", "trained", 0, noise, 0.8 - noise / 2) for noise in (0.0, 0.5)),
        *(cell("trained", "trained", 1, noise, 0.6 - noise / 2) for noise in (0.0, 0.5)),
        cell("trained", "trained", 0, 0.0, 0.2, "two-hop"),
    ],
    "runs": [
        {
            "seed": seed,
            "seconds": {"warm start": 720, "training": 7200, "test of a": 360, "test of b": 720},
            "steps": [{"reward": 0.1 * i, "searches": 1.0} for i in range(5)],
        }
        for seed in (0, 1)
    ],
}


def test_the_table_has_every_seed_and_their_mean():
    text = table.markdown(RECORD)
    assert "| as downloaded | 10 (0-20) | 10 (0-20) |" in text
    assert "| RAG, weights as downloaded | 20 (0-20) | 20 (0-20) |" in text.partition("contains a gold answer")[2]
    assert "| after reinforcement learning | 80 (70-90) 60 (50-70), **70** | 55 (45-65) 35 (25-45), **45** |" in text
    assert "## two-hop, 150 test questions" in text
    assert "| 0 | 5 | 0.20, 0.20 | 1.00, 1.00 | 0.2 | 2.0 | 0.3 |" in text


def test_the_picture_has_the_mean_of_the_seeds_and_the_training():
    em, reward, searches = table.charts(RECORD)
    lines = {series.name: [point.y for point in series.points] for series in em.series if not series.faint}
    assert lines == {"as downloaded": [0.1, 0.1], "after reinforcement learning": pytest.approx([0.7, 0.45])}
    assert [len(chart.series) for chart in (em, reward, searches)] == [4, 3, 3]


def test_seeds_are_added_only_to_a_record_of_the_same_model_data_and_sizes(tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(ConfigError, match="no record to add seeds to"):
        earlier(path, {"model": "a"}, SMOKE)
    write_record(path, (), hashes={"model": "a"}, sizes=SMOKE, **RECORD)
    assert earlier(path, {"model": "a"}, SMOKE)["cells"] == RECORD["cells"]
    with pytest.raises(ConfigError, match="made with other hashes, so"):
        earlier(path, {"model": "b"}, SMOKE)
    with pytest.raises(ConfigError, match="made with other hashes and sizes"):
        earlier(path, {"model": "b"}, Sizes())


def test_the_smoke_run_has_every_stage():
    assert SMOKE.steps == 2
    assert json.dumps(SMOKE.levels) == "[0.0, 0.5]"
