from __future__ import annotations

import io
import os
import signal
from types import SimpleNamespace

import pytest
import tiny
from rich.console import Console

from zerosearch_agents.config.train import load_preset, read_config
from zerosearch_agents.policy.policy import save_policy
from zerosearch_agents.runs.advice import format_seconds
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training import cli as train_cli
from zerosearch_agents.training import progress as progress_module
from zerosearch_agents.training.cli import main, parse_command
from zerosearch_agents.training.progress import TrainProgress, describe
from zerosearch_agents.training.trainer import StepReport
from zerosearch_env.errors import CheckpointError, ConfigError

METRICS = {"reward": 0.5, "em": 0.25, "searches": 1.5, "noise_level": 0.1, "tokens_per_second": 12345.0}


def test_options_override_the_preset():
    command = parse_command(
        ["--preset", "tiny", "--steps", "7", "--rollout.prompts", "5", "--data.world.seed", "3", "--tensorboard"]
    )
    config, preset = command.config, load_preset("tiny")
    assert (config.steps, config.rollout.prompts, config.data.world.seed) == (7, 5, 3)
    assert config.files.tensorboard
    assert config.rollout.group_size == preset.rollout.group_size
    assert parse_command(["--preset=tiny"]).config == preset


def test_wrong_commands(tmp_path, capsys):
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        parse_command(["--preset", "tinny"])
    with pytest.raises(ConfigError, match="not both"):
        parse_command(["--preset", "tiny", "--resume", "x"])
    with pytest.raises(CheckpointError, match="no run to resume"):
        main(["--resume", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        parse_command(["--stepz", "3"])
    assert "--steps" in capsys.readouterr().err  # the nearest option


def test_help_says_what_every_option_means(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for part in ("--preset", "--resume", "--rollout.group-size", "Rollouts per question", "qwen2.5-3b-zerosearch"):
        assert part in text


@pytest.mark.slow
def test_a_run_is_interrupted_and_resumed_from_the_command_line(tmp_path, monkeypatch, capsys):
    save_policy(tiny.tiny_policy(), tmp_path / "policy")
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "letter 0", "answers": ["k"]}\n{"question": "letter 1", "answers": ["b"]}\n')
    (tmp_path / "corpus.jsonl").write_text(
        "".join(f'{{"title": "Letter {i}", "text": "the letter {i} is {"kb"[i % 2]}"}}\n' for i in range(12))
    )
    run = tmp_path / "run"
    arguments = ["--preset", "tiny", "--policy", str(tmp_path / "policy"), "--output", str(run), "--workers", "1"]
    arguments += ["--steps", "2", "--data.dataset", str(data)]
    arguments += ["--rollout.prompts", "2", "--rollout.group-size", "3", "--rollout.turn-tokens", "4"]
    arguments += ["--environment.search-engine", f"corpus:{tmp_path / 'corpus.jsonl'}"]

    class Interrupting(TrainProgress):
        def __call__(self, report):
            super().__call__(report)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train_cli, "TrainProgress", Interrupting)
        assert main(arguments) == 130
    output = capsys.readouterr()
    assert "1 of 2 steps and " in output.out
    assert f"continue with: zerosearch train --resume {run}" in output.out
    assert output.err.startswith("first step, 6 episodes of 2 questions: reward ")
    assert "\nstep 1/2  reward " in output.err
    assert main(["--resume", str(run)]) == 0
    assert "2 of 2 steps" in capsys.readouterr().out
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == [1, 2]
    with pytest.raises(CheckpointError, match="steps: 2 -> 3"):
        main(["--resume", str(run), "--steps", "3"])
    moved = tmp_path / "moved"
    run.rename(moved)
    assert main(["--resume", str(moved)]) == 0
    assert read_config(moved / "config.toml").output == str(moved)


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    clock = iter([0.0, 10.0, 12.0, 14.0])
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stream = io.StringIO()
    with TrainProgress(100, stream=stream) as show:
        for step in (1, 2, 3):
            show(StepReport(step, 100, METRICS, 2.0 * step))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 1/100  reward 0.50  EM 0.25  searches 1.50  noise 0.10  tokens/s 12,345  16:30 left"
    assert lines[2].endswith("3:14 left")  # 97 steps of 2 s: the first one included loading


def test_a_bar_in_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda file: Console(file=stream, force_terminal=True, width=150, legacy_windows=False),
    )
    with TrainProgress(4, max_seconds=0.0) as show:
        show(StepReport(2, 4, METRICS, 1.0))
    text = stream.getvalue()
    assert "step 2/4" in text
    assert "reward 0.50  EM 0.25" in text
    assert "0:00 left" in text


def test_failed_searches_are_shown_and_times_are_short():
    assert describe(StepReport(1, 2, {"engine_failures": 3.0}, 1.0)) == "failed searches 3"
    assert [format_seconds(value) for value in (-1, 59.6, 3600, 3725)] == ["0:00", "1:00", "1:00:00", "1:02:05"]
