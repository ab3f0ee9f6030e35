"""`zerosearch bench robustness`: one definition for all agents, and folders that belong to one definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_agents.commands.evaluate import main as evaluate
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_benchmarks.robustness.bench import main
from zerosearch_benchmarks.robustness.definitions import load_definition
from zerosearch_env.cli import main as zerosearch
from zerosearch_env.errors import ConfigError

SMALL = """
questions = 3
noise = [0, 0.5, 1]
noise_kind = ["distractor", "outage"]
max_turns = 2
top_k = 2
[world]
passages = 400
"""
AGENT = """
def agent(observation, info):
    return "<answer>unknown</answer>" if info["turn"] else f"<search>{info['question']}</search>"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a definition and an agent."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL)
    Path("mine.py").write_text(AGENT)
    return tmp_path


def test_every_agent_plays_the_definition(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agents = ["--agent", "mine.py:agent", "--agent", "baseline:oracle"]
    assert zerosearch(["bench", "robustness", "--definition", "small.toml", *agents]) == 0
    out = capsys.readouterr().out
    definition = load_definition("small.toml")
    assert out.startswith(
        f"definition small ({definition.hash}), 30 episodes per agent\n6 questions of world/test, 2 ag"
    )
    evaluation = load_evaluation("runs/robustness-small")
    settings = json.loads(json.dumps(evaluation.settings))
    assert settings["definition"] == definition.record
    assert (settings["questions"], settings["max_turns"], settings["top_k"]) == (6, 2, 2)
    assert settings["command"] == "zerosearch bench robustness --definition small.toml " + " ".join(agents)
    assert {"agents", "engines", "contents", "noise", "versions"} <= settings.keys()
    played = {(cell.noise_kind, cell.noise_level) for cell in evaluation.cells if cell.agent == "mine.py:agent"}
    assert played == set(definition.conditions)
    assert all(cell.complete and cell.planned == 6 for cell in evaluation.cells)
    assert evaluation.find("mine.py:agent", 1.0, "corpus", "outage").summary().abstained.mean == 1.0
    assert Path("runs/robustness-small/report.html").is_file()
    # Another agent, and the definition under another name and layout, go to the same folder.
    Path("same.toml").write_text(f'name = "same"\n{SMALL.replace("[0, 0.5, 1]", "[1.0, 0.5, 0.0]")}')
    options = ["--definition", "same.toml", "--output", "runs/robustness-small", "--no-report"]
    assert main(["--agent", "baseline:random", *options]) == 0
    assert len(load_evaluation("runs/robustness-small").agents) == 3


def test_a_folder_of_another_definition_is_refused(folder: Path) -> None:
    definition = ["--definition", "small.toml", "--no-report", "--output"]
    agent = ["--agent", "baseline:random"]
    assert main([*agent, *definition, "bench"]) == 0
    small = load_definition("small.toml")
    Path("small.toml").write_text(SMALL.replace("questions = 3", "questions = 2"))
    with pytest.raises(ConfigError) as refused:
        main([*agent, *definition, "bench"])
    assert str(refused.value) == (
        f"bench holds results of the definition 'small' ({small.hash}), and this run is of the definition 'small' "
        f"({load_definition('small.toml').hash}): questions: 3 -> 2; choose another --output, or pass --fresh to start "
        "from scratch"
    )
    task = ["--world.passages", "400", "--questions", "2", "--per-hop", "--noise", "0", "0.5", "--max-turns", "2"]
    task += ["--top-k", "2", "--no-report", "--output"]
    with pytest.raises(ConfigError, match=r"holds results of the definition 'small'.*follows no definition; `zero"):
        evaluate([*agent, *task, "bench"])
    assert evaluate([*agent, *task, "eval"]) == 0
    with pytest.raises(ConfigError, match="eval holds results of `zerosearch eval`, which follow no definition"):
        main([*agent, *definition, "eval"])
    assert main([*agent, *definition, "bench", "--fresh"]) == 0
    assert load_evaluation("bench").cells[0].planned == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--questions", "9"], r"--questions is decided by the definition 'small' \(questions = 3\)"),
        (["--noise=0"], r"--noise is decided by .* \(noise = \[0.0, 0.5, 1.0\]\)"),
        (["--noise_kind", "empty"], "--noise_kind is decided by"),
        (["--no-per-hop"], "--no-per-hop is decided by"),
        (["--world.seed", "4"], "--world.seed is decided by"),
        (["--engine", "mine.py:engine"], "--engine is decided by"),
        (["--on-bad-row", "skip"], "--on-bad-row is decided by"),
        (["--agent", "more=mine.py:agent,max_turns=9"], "max_turns of the agent 'more' is decided by"),
        (["--tool-agent", "mine.py:tool,top_k=1"], "top_k of the agent 'mine.py:tool' is decided by"),
    ],
)
def test_what_the_definition_decides_is_no_option(folder: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*zerosearch eval"):
        main(["--agent", "mine.py:agent", "--definition", "small.toml", *options])
    assert not Path("runs").exists()


def test_the_help_has_only_options_that_are_free(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out.partition("options")[2]
    assert out.index("--definition") < out.index("--agent ") < out.index("--budget") < out.index("--policy")
    for name in load_definition("v1").decided:
        assert f"--{name.replace('_', '-')} " not in out


def test_a_budget_ends_and_the_same_command_continues(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--agent", "mine.py:agent", "--definition", "small.toml", "--budget", "requests=41"]
    assert main(command) == 3
    assert "42 of 41 requests; 9 of 30 episodes are left" in capsys.readouterr().out.splitlines()[-1]
    assert main(command) == 0
    assert "the budget is used up" not in capsys.readouterr().out
    evaluation = load_evaluation("runs/robustness-small")
    assert sum(cell.spent["requests"] for cell in evaluation.cells if cell.spent) == 60
    assert all(cell.complete for cell in evaluation.cells)
