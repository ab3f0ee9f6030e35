from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.simulator_tiny import main, share
from zerosearch_benchmarks.style_distance import style_distance
from zerosearch_env.types import Document

pytest.importorskip("torch")


def documents(*texts: str) -> list[Document]:
    return [Document("", text) for text in texts]


def test_style_is_nothing_for_the_same_and_one_for_strangers() -> None:
    some = documents("A town by a river.", "It has a bridge and a market.")
    assert style_distance(some, some) == dict.fromkeys(("words", "pairs", "triples", "length", "mean"), 0.0)
    other = documents("Nobody knows whether that was so for such very long sentences")
    apart = style_distance(some, other)
    assert apart == pytest.approx(dict.fromkeys(("words", "pairs", "triples", "length", "mean"), 1.0))
    assert style_distance(some, other) == style_distance(other, some)


def test_lengths_count_too() -> None:
    few, many = documents("a b a b", "a b"), documents("a b a b a b a b", "a b a b a b")
    assert style_distance(few, many)["words"] == pytest.approx(0.0)
    assert style_distance(few, many)["length"] == 1.0


def test_shares_have_wilson_intervals() -> None:
    assert share([]) == {"n": 0}
    assert share([False] * 100) == {"share": 0.0, "low": 0.0, "high": 0.037, "n": 100}
    assert share([True] * 9 + [False]) == {"share": 0.9, "low": 0.5958, "high": 0.9821, "n": 10}


def test_it_runs_and_writes_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    assert main(["--searches", "24", "--rounds", "1", "--seconds", "0.05", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["quality"]["noisy sets with an answer, returned"]["answer"]["share"] == 0.0
    assert set(record["timings"]) == {"batch of 1", "batch of 16", "batch of 64"}
    assert record["wall"]["documents_per_s"] > 0
    assert "per CPU second" in capsys.readouterr().out
