"""The load on the server is answered without an error, in batches, and the record says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import serve as bench


@pytest.mark.slow
def test_the_benchmark_loads_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for library in ("starlette", "uvicorn"):
        pytest.importorskip(library, reason=f"{library} is not installed (extra serve)")
    output = tmp_path / "record.json"
    options = ["--clients", "20", "--requests", "100", "--call-ms", "50", "--rounds", "1"]
    assert bench.main([*options, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert {load["errors"] for load in record["medians"].values()} == {0}
    assert record["medians"][bench.BATCHED]["requests_per_engine_call"] > 4
    assert record["medians"][bench.UNBATCHED]["requests_per_engine_call"] == 1
    assert record[f"times {bench.UNBATCHED}"] > 2
    assert "latency ms (p95)" in capsys.readouterr().out
