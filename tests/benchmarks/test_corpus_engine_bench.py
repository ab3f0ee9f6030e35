from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import corpus_engine


def test_the_benchmark_compares_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    options = ["--world", "300", "--passages", "400", "--queries", "20", "--rounds", "1", "--seconds", "0"]
    assert corpus_engine.main([*options, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert json.loads(line)["times_bm25s"] == record["times_bm25s"]
    assert set(record["times_bm25s"]) == {"world of 300 passages", "400 Zipf passages"}
    assert len(record["timings"]) == 8
    assert all(rate > 0 for rate in record["queries_per_cpu_second"].values())
