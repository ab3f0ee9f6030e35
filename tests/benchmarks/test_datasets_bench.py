"""The benchmark of loading questions measures both sides, prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks import cli
from zerosearch_benchmarks.speed.data import datasets
from zerosearch_env.datasets.files import tables


def test_no_row_is_a_copy() -> None:
    made = list(datasets.rows(4000))
    assert len({row["question"] for row in made}) == len({row["id"] for row in made}) == 4000
    assert all(row["answers"] for row in made)


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr(tables, "LEAST_ROWS", 100)
    output = tmp_path / "record.json"
    assert cli.main(["datasets", "--rows", "200", "--rounds", "1", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["rows"] == 200
    assert len(record["timings"]) == 6
    assert record["timings"]["parquet"]["items"] == 200
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert json.loads(line)["times_first_load_of_datasets"] == record["times_first_load_of_datasets"]
