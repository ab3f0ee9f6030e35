"""`zerosearch bench robustness-overhead` at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.robustness.overhead import main


def test_it_plays_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    definition, output = tmp_path / "few.toml", tmp_path / "record.json"
    definition.write_text('questions = 2\nnoise = [0, 1]\nnoise_kind = ["outage"]\n[world]\npassages = 400')
    assert main(["--definition", str(definition), "--rounds", "1", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    (timing,) = record["timings"].values()
    assert timing["items"] == 8
    assert record["cpu_ms"] == timing["median"] / 1e3
    assert record["agent_ms"] == pytest.approx(19 * record["cpu_ms"])
    assert "ms per episode: 5% of a run" in capsys.readouterr().out
    assert "policy" not in record


def test_the_share_of_a_run_with_a_policy_is_what_its_sampler_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "few.toml", tmp_path / "record.json"
    file.write_text('questions = 2\nnoise = [0, 1]\nnoise_kind = ["outage"]\n[world]\npassages = 400')
    options = ["--definition", str(file), "--rounds", "1", "--policy", "start=tiny", "--questions", "1"]
    assert main([*options, "--output", str(output)]) == 0
    policy = json.loads(output.read_text())["policy"]
    assert (policy["agent"], policy["episodes"]) == ("start", 4)
    assert 0 < policy["sampler_cpu_s"] < policy["cpu_s"]
    assert policy["share"] == pytest.approx(1 - policy["sampler_cpu_s"] / policy["cpu_s"])
    assert "start: 4 episodes take" in capsys.readouterr().out
