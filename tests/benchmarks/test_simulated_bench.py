from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import simulated


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    options = ["--concurrency", "4", "--latency", "0.01", "--entries", "20", "--rounds", "1", "--seconds", "0.01"]
    assert simulated.main([*options, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    line = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1]
    assert json.loads(line)["client_cpu_ms"] == record["client_cpu_ms"] > 0
    assert record["hits_per_cpu_second"] > 0
    assert list(record["throughput"]) == ["1", "2", "4"]
