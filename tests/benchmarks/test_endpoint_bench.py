"""The benchmark of endpoints: its model plays whole episodes, and the record has every case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import endpoint as bench
from zerosearch_benchmarks.speed.chat_server import take_turn


def test_the_model_searches_three_times_and_answers() -> None:
    turns = [take_turn([{"role": "user", "content": ""}] * (2 * turn + 1)) for turn in range(4)]
    assert turns[:3] == [f"I look it up. <search>treaty {turn}" for turn in range(3)]
    assert turns[3].endswith("<answer>Geneva")


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "record.json"
    monkeypatch.setattr(bench, "CONCURRENCY", (2,))
    assert bench.main(["--rounds", "1", "--turn-ms", "5", "--waves", "1", "--output", str(output)]) == 0
    (value,) = json.loads(output.read_text())["medians"].values()
    assert (value["concurrency"], value["episodes"]) == (2, 2)
    assert 0 < value["of_ideal"] <= 1
    assert value["cpu_ms"] > 0
    assert "of the ideal" in capsys.readouterr().out
