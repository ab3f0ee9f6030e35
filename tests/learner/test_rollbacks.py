"""Runs that are made to collapse: they warn, stop, or turn back; and turning back survives a kill."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from zerosearch_agents.config.alarms import BOUNDS, AlarmConfig
from zerosearch_agents.config.train import (
    AlgorithmConfig,
    EnvironmentConfig,
    OptimizerConfig,
    OutputConfig,
    RolloutConfig,
)
from zerosearch_agents.report.page import write_report
from zerosearch_agents.runs import checkpoint
from zerosearch_agents.runs import rollbacks as rollbacks_module
from zerosearch_agents.runs.checkpoint import RunState, checkpoint_paths, weights_hash
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.runs.rollbacks import Rollback, is_current, read_rollbacks, record_rollback
from zerosearch_agents.training import run_files
from zerosearch_agents.training.progress import TrainProgress
from zerosearch_agents.training.trainer import StepReport, train
from zerosearch_env.errors import CheckpointError, TrainingError

pytestmark = pytest.mark.slow

TIMES = {"seconds", "tokens_per_second", "rollout_seconds", "update_seconds"}
QUIET = {bound.field: None for bound in BOUNDS} | {"reward_fraction": None}
# a rate at which the small policy forgets within two steps how to write a turn
COLLAPSE = OptimizerConfig(learning_rate=0.5, warmup_steps=2)
ALARMS = AlarmConfig(**(QUIET | {"action": "rollback", "patience": 1, "invalid_rate_above": 0.9, "max_rollbacks": 2}))


def collapsing(folder, **changes):
    values = {
        "steps": 5,
        "optimizer": COLLAPSE,
        "alarms": ALARMS,
        "environment": EnvironmentConfig(max_turns=1, top_k=2),
        "rollout": RolloutConfig(prompts=2, group_size=3, slots=6),
        "algorithm": AlgorithmConfig(kl_coefficient=0.01, minibatches=1),
        "files": OutputConfig(checkpoint_every=1, keep_checkpoints=1, transcripts_every=None),
    }
    return tiny.tiny_train_config(folder, **(values | changes))


def run(config, **options):
    return train(config, dataset=tiny.tiny_dataset(), **options)


def learning(output):
    return [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in read_metrics(Path(output) / "metrics.jsonl")
    ]


def timeless(rollbacks):
    return [
        (one.alarm, one.step, one.to_step, [{k: v for k, v in u.items() if k not in TIMES} for u in one.undone])
        for one in rollbacks
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that collapses again and again: its configuration, its end, and its reports."""
    config = collapsing(tmp_path_factory.mktemp("whole"))
    reports: list[StepReport] = []
    with pytest.raises(TrainingError) as ended:
        run(config, callback=reports.append)
    return config, str(ended.value), reports


def test_a_collapsing_run_turns_back_a_bounded_number_of_times(whole):
    config, message, reports = whole
    output = Path(config.output)
    rollbacks = read_rollbacks(output)
    assert len(rollbacks) == 2
    for one in rollbacks:
        assert "invalid_rate" in one.alarm
        assert one.to_step <= one.step - 2
        assert [record["step"] for record in one.undone] == list(range(one.to_step + 1, one.step + 1))
    assert "rolled back 2 times already" in message
    assert "lower optimizer.learning_rate" in message
    metrics = read_metrics(output / "metrics.jsonl")
    assert [record["step"] for record in metrics] == list(range(1, len(metrics) + 1))
    assert metrics[-1]["rollbacks"] == 2
    assert metrics[-1]["alarms"] == 1
    rates = [one.undone[-1]["learning_rate"] for one in rollbacks]
    assert metrics[-1]["learning_rate"] < rates[1] < rates[0]
    assert [report.step for report in reports if report.alarms] == [*(one.step for one in rollbacks), len(metrics)]
    page = write_report(output).read_text("utf-8")
    assert f"After step {rollbacks[0].step} the run went back to step {rollbacks[0].to_step}" in page
    assert f"An alarm was on after steps {len(metrics)}." in page


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def die(*_, **__):
    raise KilledError


def die_after(original):
    def call(*arguments):
        original(*arguments)
        die()

    return call


# One run dies at each of these moments, the last two in its second rollback and after it.
DEATHS = {
    "before the record": (run_files, "record_rollback", die),
    "after the record": (rollbacks_module, "remove_given_up", die),
    "after the rollback": (run_files.RunFiles, "roll_back", die_after(run_files.RunFiles.roll_back)),
    "between steps": (run_files.RunFiles, "record", die),
}


def test_a_run_that_is_killed_while_it_turns_back_resumes_to_the_same_bits(whole, tmp_path, monkeypatch):
    config, message, _ = whole
    mine = replace(config, output=str(tmp_path / "run"))
    turned = []
    for moment, (module, name, death) in DEATHS.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, death)
            with pytest.raises(KilledError):
                run(mine, resume=moment != "before the record")
        turned.append(len(read_rollbacks(tmp_path / "run")))
    assert turned == [0, 1, 2, 2]
    with pytest.raises(TrainingError) as ended:
        run(mine, resume=True)
    assert str(ended.value) == message.replace(config.output, mine.output)
    assert learning(mine.output) == learning(config.output)
    assert timeless(read_rollbacks(Path(mine.output))) == timeless(read_rollbacks(Path(config.output)))
    weights = [checkpoint.load_latest(Path(one.output) / "checkpoints")[2] for one in (config, mine)]
    assert weights_hash(weights[0]) == weights_hash(weights[1])


def test_two_workers_turn_back_together(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), workers=2, alarms=replace(ALARMS, max_rollbacks=1))
    with pytest.raises(TrainingError, match="rolled back 1 times already"):
        run(config)
    assert len(read_rollbacks(tmp_path / "run")) == 1


def test_stop_saves_everything_and_says_how_to_go_on(tmp_path):
    config = collapsing(tmp_path, alarms=replace(ALARMS, action="stop"))
    with pytest.raises(TrainingError, match="stopped after") as ended:
        run(config)
    assert f"zerosearch train --resume {config.output} --alarms.action rollback" in str(ended.value)
    stopped = len(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert checkpoint_paths(tmp_path / "run" / "checkpoints")[-1].name == f"step-{stopped:06d}"
    with pytest.raises(TrainingError, match=f"stopped after {stopped} steps"):
        run(config, resume=True)
    # the way out is open: the last good checkpoint is still there
    with pytest.raises(TrainingError, match="rolled back 2 times"):
        run(replace(config, alarms=ALARMS), resume=True)
    result = run(replace(config, alarms=replace(ALARMS, action="warn")), resume=True)
    assert result.stopped == "finished"


def test_a_warning_is_a_line_and_a_figure_and_leaves_nothing_to_go_back_to(tmp_path):
    config = collapsing(tmp_path, alarms=replace(ALARMS, action="warn"))
    stream = io.StringIO()
    with TrainProgress(config.steps, stream=stream) as progress:
        assert run(config, callback=progress).stopped == "finished"
    assert stream.getvalue().count("alarm: invalid_rate") == 1
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["alarms"] == 1
    with pytest.raises(TrainingError, match="No checkpoint of 3 steps or fewer is left"):
        run(replace(config, alarms=ALARMS), resume=True)


def test_which_checkpoints_are_current():
    turns = [Rollback("a", 8, 4, ()), Rollback("b", 9, 6, ())]

    def state(step, rollbacks):
        return RunState(step, 0, 0, "", 0.0, rollbacks)

    assert [is_current(state(step, 0), turns) for step in (4, 5, 8)] == [True, False, False]
    assert [is_current(state(step, 1), turns) for step in (5, 6, 7)] == [True, True, False]
    assert is_current(state(9, 2), turns)


def test_the_record_forgives_a_line_cut_off_and_nothing_else(tmp_path):
    one = Rollback("entropy", 8, 4, [{"step": 5, "reward": 0.5}])
    record_rollback(tmp_path, one)
    path = tmp_path / "rollbacks.jsonl"
    path.write_text(path.read_text("utf-8") + '{"alarm": "half')
    assert read_rollbacks(tmp_path) == [one]
    for damaged in (b"{}\n", b"[1]\n", b"\xff{}\n", bytes(9) + b"\n"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"rollbacks\.jsonl is damaged: .*Delete it to continue"):
            read_rollbacks(tmp_path)
