"""`zerosearch bench sb3` at a small size."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from zerosearch_benchmarks.learning.sb3.bench import FIRST, LEVELS, main, markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_trains_tests_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sb3_contrib")
    arguments = ["--steps", "64", "--questions", "4", "--passages", "300", "--algorithms", "A2C", "--seeds", "0", "1"]
    arguments += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "sb3.json")]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "sb3.json").read_text("utf-8"))
    assert [(row["name"], row["seed"]) for row in record["runs"]] == [("A2C", 0), ("A2C", 1)]
    assert all(row["steps"] >= 64 and len(row["tests"]["test world"]) == 8 for row in record["runs"])
    assert record["ceilings"]["test world"]["1-hop"]["questions"] == 4
    text = (tmp_path / "sb3.md").read_text("utf-8")
    assert text == markdown(record)
    assert f"| {FIRST} |" in text
    assert "| A2C |" in text
    assert "| test world, 2-hop, 4 questions |" in text
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == files
    assert "A2C" in capsys.readouterr().out


def test_the_page_and_the_tables_show_the_record() -> None:
    file = ROOT / "benchmarks" / "results" / "sb3.json"
    record = json.loads(file.read_text("utf-8"))
    assert file.with_suffix(".md").read_text("utf-8") == markdown(record)
    page = (ROOT / "docs" / "stable-baselines3.md").read_text("utf-8")
    runs = [row for row in record["runs"] if row["name"] == "MaskablePPO"]
    for test in record["ceilings"]:
        for group in record["ceilings"][test]:
            figures = []
            for level in LEVELS:
                cells = [cell for row in runs for cell in row["tests"][test]]
                ems = [cell["em"]["mean"] for cell in cells if (cell["group"], cell["noise"]) == (group, level)]
                figures.append(f"{100 * statistics.mean(ems):.0f}")
            assert f"| {test}, {group} | {' | '.join(figures)} |" in page
