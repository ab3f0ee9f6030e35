from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.measure import RESULTS
from zerosearch_benchmarks.speed import report


@pytest.mark.slow
def test_the_report_is_measured_over_every_kind_and_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report.json"
    assert report.main(["--questions", "2", "--output", str(output)]) == 0
    cost = json.loads(output.read_text())["report"]
    assert cost["episodes"] == 5 * 2 * (1 + 11 * 4)
    assert cost["cpu_s"] > 0
    assert 0 < cost["page_mb"] < 30
    assert 20 < cost["peak_mb"] < 1000
    assert "450 episodes" in capsys.readouterr().out


def test_a_report_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(report.subprocess.CalledProcessError):
        report.measure_report(tmp_path / "missing", 1, 1, 1)


def test_the_record_keeps_what_is_promised() -> None:
    cost = json.loads((RESULTS / "report.json").read_text("utf-8"))["report"]
    assert cost["episodes"] >= 100_000
    assert cost["cpu_s"] < 60
    assert cost["peak_mb"] < 1000
    assert cost["page_mb"] < 30
