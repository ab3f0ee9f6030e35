"""Stages of long benchmarks: commands that are not repeated, and continue after an interruption."""

from __future__ import annotations

import shlex
import subprocess
from types import SimpleNamespace

import pytest

from zerosearch_benchmarks.learning import stages
from zerosearch_benchmarks.learning.stages import Stage
from zerosearch_env.errors import ConfigError


@pytest.fixture
def runs(monkeypatch):
    """The commands that stages run; their exit status is the next of `statuses`, else 0."""
    done = SimpleNamespace(commands=[], statuses=[])

    def run(command, check):
        assert not check
        done.commands.append(shlex.join(command[3:]))
        status = done.statuses.pop(0) if done.statuses else 0
        if status is None:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(stages.subprocess, "run", run)
    return done


def test_a_finished_stage_is_not_run_again_but_with_another_command(tmp_path, runs):
    stage = Stage("trial", tmp_path / "out", ("eval", "--seed", "1"))
    stage.run()
    stage.run()
    assert runs.commands == ["eval --seed 1"]
    assert stage.record["finished"]
    with pytest.raises(ConfigError, match="another command"):
        Stage("trial", tmp_path / "out", ("eval", "--seed", "2")).run()


def test_an_interrupted_stage_continues_and_its_seconds_add_up(tmp_path, runs):
    runs.statuses = [None, 3, 0]
    stage = Stage(
        "training",
        tmp_path,
        ("train", "--steps", "2"),
        resume=("train", "--resume", "x"),
        started="state",
        speed=("-j2",),
    )
    with pytest.raises(KeyboardInterrupt):
        stage.run()  # before the run had anything to continue
    stage._write(finished=False, seconds=100.0)
    with pytest.raises(ConfigError, match="status 3"):
        stage.run()
    (tmp_path / "state").mkdir()
    stage.run()
    assert runs.commands == ["train --steps 2 -j2", "train --steps 2 -j2", "train --resume x -j2"]
    assert stage.record["command"] == ["train", "--steps", "2"]
    assert 100 <= stage.record["seconds"] < 110
