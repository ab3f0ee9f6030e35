"""The benchmark of starts: its cases, and its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks import cli
from zerosearch_benchmarks.speed import start


def test_helps_of_a_command_of_commands() -> None:
    found = dict(start.helps(["cache"]))
    assert set(found) >= {("cache",), ("cache", "stats"), ("cache", "clear")}
    assert all(text.startswith(f"usage: zerosearch {' '.join(words)} ") for words, text in found.items())


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "record.json"
    some = {name: start.cases()[name] for name in ("interpreter alone", "import gymnasium")}
    monkeypatch.setattr(start, "cases", lambda: some)
    assert cli.main(["start", "--rounds", "1", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert set(record["starts"]) == {"interpreter alone", "import gymnasium"}
    assert 0 < record["starts"]["interpreter alone"]["cpu_s"] < record["starts"]["import gymnasium"]["cpu_s"]
    assert "import gymnasium" in capsys.readouterr().out
