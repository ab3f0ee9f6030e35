from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import dense

pytest.importorskip("faiss", reason="faiss is not installed (extra dense)")


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    options = ["--no-real", "--large", "400", "--queries", "70", "--rounds", "1", "--seconds", "0"]
    assert dense.main([*options, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert json.loads(line)["recall_at_5"] == record["recall_at_5"]
    (recall,) = record["recall_at_5"].values()
    assert recall["flat"] == 1.0
    assert min(recall.values()) > 0.5
    assert len(record["timings"]) == 6
    assert all(rate > 0 for rate in record["per_cpu_second"].values())
