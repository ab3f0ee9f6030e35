"""The benchmark of many agents: its engines keep their times, and the record has every case."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import agents as bench
from zerosearch_env.types import SearchRequest


def test_searches_return_new_documents_of_100_words() -> None:
    request = SearchRequest("q", "q", ("a",), False, 5, 1)
    (result,) = bench.TimedEngine(0.0, waits=False).search([request])
    assert [len(document.text.split()) for document in result.documents] == [100] * 5


def test_the_share_of_the_ideal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns and calls are counted instead of waited for, on a clock of their own."""
    lock, now = threading.Lock(), [0.0]

    def sleep(seconds: float) -> None:
        with lock:
            now[0] += seconds

    monkeypatch.setattr(bench.time, "sleep", sleep)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    measured = bench.throughput(1, waits=True, turn_s=0.05, call_s=0.1, waves=4)
    assert (measured.concurrency, measured.episodes) == (1, 4)
    assert measured.episodes_per_second == 2.0
    assert measured.of_ideal == 1.0


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    options = ["--rounds", "1", "--turn-ms", "5", "--call-ms", "5", "--own-call-ms", "5", "--waves", "1"]
    assert bench.main([*options, "--episodes", "40", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert len(record["medians"]) == 6
    assert all(0 < value["of_ideal"] <= 1 for value in record["medians"].values())
    assert set(record["peak_mib"]) == {"10", "40"}
    assert "of the ideal" in capsys.readouterr().out
