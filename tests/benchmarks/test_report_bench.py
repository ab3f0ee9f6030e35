from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zerosearch_benchmarks.measure import RESULTS
from zerosearch_benchmarks.speed.reports import page as report_page
from zerosearch_benchmarks.speed.reports import stored as report
from zerosearch_env.errors import ConfigError


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


def test_a_page_of_ten_thousand_episodes_is_open_in_two_seconds() -> None:
    page = json.loads((RESULTS / "report-page.json").read_text("utf-8"))
    assert page["episodes"] >= 10_000
    assert page["cpu_s"] < 2
    assert page["rendered_s"] + page["filtered_s"] < 2


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, report_page.NAMES)), reason="Chromium is not installed")
def test_the_page_is_measured_in_a_browser(tmp_path: Path) -> None:
    output = tmp_path / "page.json"
    assert report_page.main(["--questions", "2", "--visits", "1", "--output", str(output)]) == 0
    page = json.loads(output.read_text())
    assert page["listed"] == "90 rows, 450 episodes"
    assert page["after_filter"] == "10 of 90 rows, 50 episodes"
    assert page["rendered_s"] > 0
    assert page["cpu_s"] > 0
    assert page["filtered_s"] > 0


def test_a_browser_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="there is no Chromium: install one of chromium"):
        report_page.main([])
