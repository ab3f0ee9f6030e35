"""Both servers answer the load without an error, ours in batches, and the record says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import real_text
from zerosearch_benchmarks.speed.serve import bench


def test_ratios_are_ours_over_the_peers() -> None:
    def load(rate: float, cpu: float | None) -> bench.Load:
        return bench.Load(2, 10, 0, 1.0, rate, None, 1.0, 1.0, cpu)

    ours, peer = bench.case_name(bench.OURS, 2), bench.case_name(bench.PEER, 2)
    loads = {
        ours: [load(1.0, 5.0), load(30.0, 5.0), load(9.0, 5.0)],
        peer: [load(2.0, 10.0), load(6.0, 20.0), load(6.0, 5.0)],
    }
    assert bench.ratios(loads, (2,)) == {
        "requests/s": {"2 clients": 1.5},
        "requests per CPU second": {"2 clients": 2.0},
    }
    unknown = {ours: [load(3.0, None)], peer: [load(2.0, 1.0)]}
    assert bench.ratios(unknown, (2,)) == {"requests/s": {"2 clients": 1.5}, "requests per CPU second": {}}


@pytest.mark.slow
def test_the_benchmark_loads_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for library in ("starlette", "uvicorn"):
        pytest.importorskip(library, reason=f"{library} is not installed (extra serve)")
    passages = [{"contents": f'"Mill {i}"\n' + f"The mill {i} – old – stands by the river. " * 15} for i in range(40)]
    questions = [{"id": f"q{i}", "question": f"Who built mill {i}?", "answers": [f"Zoë {i}"]} for i in range(8)]
    for name, rows in (real_text.PASSAGES, passages), (real_text.QUESTIONS, questions):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    output = tmp_path / "record.json"
    options = [
        "--passages",
        "60",
        "--clients",
        "20",
        "--requests",
        "100",
        "--call-ms",
        "50",
        "--rounds",
        "1",
        "--data",
        str(tmp_path),
    ]
    assert bench.main([*options, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert {load["errors"] for load in (*record["medians"].values(), *record["peer_medians"].values())} == {0}
    assert record["medians"][bench.BATCHED]["requests_per_engine_call"] > 4
    assert record["medians"][bench.UNBATCHED]["requests_per_engine_call"] == 1
    assert record[f"times {bench.UNBATCHED}"] > 2
    assert set(record["times_peer"]["requests/s"]) == {"1 client", "20 clients"}
    assert bench.case_name(bench.PEER, 20) in record["peer_medians"]
    assert "latency ms (p95)" in capsys.readouterr().out
