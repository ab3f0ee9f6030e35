from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_policy

from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_agents.policy.policy import save_policy
from zerosearch_agents.quickstart import BASELINES, LARGE_ENGINE, QuickstartConfig, main, training_config
from zerosearch_env.cli import main as zerosearch


@pytest.mark.slow
def test_smoke_runs_every_stage_and_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_policy(tiny_policy(context_tokens=1024), tmp_path / "base")
    output = tmp_path / "run"
    arguments = ["--smoke", "--base", str(base), "--output", str(output), "--workers", "1", "--steps", "1"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for stage in ("[1/4]", "[2/4]", "[3/4]", "[4/4]"):
        assert stage in out
    for file in ("report.html", "config.toml", "metrics.jsonl", "policy/zerosearch.json", "evaluation/results.json"):
        assert (output / file).exists(), file
        assert str(output / Path(file).parts[0]) in out
    evaluation = load_evaluation(output / "evaluation")
    assert evaluation.agents == ("before", "after", *BASELINES)
    assert evaluation.engines == ("corpus", LARGE_ENGINE)
    assert evaluation.groups == ("1-hop", "2-hop")
    assert all(cell.complete and cell.planned == 8 for cell in evaluation.cells)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "zerosearch quickstart --smoke" in page
    assert "before training" in page
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 1
    # A second run replaces the first.
    results = json.loads((output / "evaluation" / "results.json").read_text())
    assert results["settings"]["seed"] == 0
    assert main([*arguments, "--seed", "1", "--questions", "1"]) == 0
    assert load_evaluation(output / "evaluation").settings["seed"] == 1


def test_the_presets_own_values_stay_unless_given() -> None:
    preset = training_config(QuickstartConfig())
    assert preset.policy == "tiny"
    assert preset.steps == training_config(QuickstartConfig(base="elsewhere")).steps
    changed = training_config(QuickstartConfig(steps=7, seed=3, workers=1, base="elsewhere", output=Path("x")))
    assert (changed.steps, changed.seed, changed.workers, changed.policy, changed.output) == (7, 3, 1, "elsewhere", "x")
    smoke = training_config(QuickstartConfig(smoke=True))
    assert smoke.steps == 2
    assert smoke.data.world.passages == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "quickstrat"], "Did you mean 'quickstart'"),
        (["--noise", "2"], "2.0"),
        (["--questions", "0"], "at least 1"),
        (["--base", "nowhere"], "no policy directory at nowhere"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert zerosearch(["quickstart", "--output", str(tmp_path / "run"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
