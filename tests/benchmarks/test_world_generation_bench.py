from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks import cli
from zerosearch_benchmarks.speed.data import world_generation


def test_the_benchmark_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    options = ["--passages", "200", "400", "--rounds", "2", "--seconds", "0", "--output", str(output)]
    assert cli.main(["world-generation", *options]) == 0
    record = json.loads(output.read_text())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert json.loads(line) == {"passages_per_cpu_second": record["passages_per_cpu_second"], "target": 50_000}
    names = {f"{size} {kind}" for size in (200, 400) for kind in ("passages", "with questions")}
    assert set(record["timings"]) == set(record["passages_per_cpu_second"]) == names
    assert record["timings"]["400 passages"]["items"] == 2 * 400
    assert all(rate > 0 for rate in record["passages_per_cpu_second"].values())


def test_every_case_makes_all_passages() -> None:
    timings = world_generation.bench_worlds([200], rounds=1, seconds=0.0)
    assert [timing.items for timing in timings.values()] == [200, 200]
