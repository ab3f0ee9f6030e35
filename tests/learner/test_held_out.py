from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from killed_runs import train_until_killed
from two_processes import FORKS

from zerosearch_agents.config.alarms import AlarmConfig
from zerosearch_agents.config.train import EvaluationConfig, OutputConfig, RolloutConfig, TrainConfig, dump_config
from zerosearch_agents.policy.policy import load_policy
from zerosearch_agents.runs.alarms import Alarm
from zerosearch_agents.runs.checkpoint import checkpoint_paths, weights_hash
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.runs.rollbacks import read_rollbacks
from zerosearch_agents.sampling.engine import TurnLimits, TurnRequest
from zerosearch_agents.sampling.vllm.parameters import vllm_parameters
from zerosearch_agents.training import run_files, trainer
from zerosearch_agents.training.held_out import is_due, split_held_out
from zerosearch_agents.training.trainer import train
from zerosearch_env.errors import ConfigError, TrainingError
from zerosearch_env.records.transcripts import read_transcripts

EVALUATION = EvaluationConfig(every=2, questions=3, noise=(0.0, 0.5))
TIMES = {"seconds", "tokens_per_second", "rollout_seconds", "update_seconds", "held_out_seconds"}


def _config(folder: Path, **changes) -> TrainConfig:
    return tiny.tiny_train_config(folder, **{"steps": 5, "evaluation": EVALUATION} | changes)


def _weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _learning(config: TrainConfig) -> list[dict[str, float]]:
    records = read_metrics(Path(config.output) / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def _run(config: TrainConfig, **options):
    return train(config, dataset=tiny.tiny_dataset(), **options)


@pytest.mark.parametrize(
    ("every", "due"), [(None, []), (2, [0, 2, 4, 5]), (5, [0, 5]), (9, [0, 5]), (1, [0, 1, 2, 3, 4, 5])]
)
def test_evaluations_come_before_between_and_after_the_steps(every, due):
    config = TrainConfig(steps=5, evaluation=EvaluationConfig(every=every))
    assert [step for step in range(6) if is_due(config, step)] == due


def test_questions_are_taken_out_of_the_training_questions():
    data = tiny.tiny_dataset()
    config = TrainConfig(evaluation=EVALUATION)
    trained, held = split_held_out(config, data, given=True)
    texts = [{question.text for question in part.questions} for part in (trained, held)]
    assert (len(texts[0]), len(texts[1])) == (5, 3)
    assert not texts[0] & texts[1]
    assert held.passages is data.passages
    assert split_held_out(config, data, given=True)[1].questions == held.questions
    more = replace(config, evaluation=replace(EVALUATION, questions=4))
    assert texts[1] < {question.text for question in split_held_out(more, data, given=True)[1].questions}
    assert split_held_out(TrainConfig(), data, given=True) == (data, None)
    with pytest.raises(ConfigError, match="has 8 questions, of which"):
        split_held_out(replace(config, evaluation=replace(EVALUATION, questions=8)), data, given=True)


def test_a_split_is_used_where_there_is_one(tmp_path):
    rows = ['{"question": "letter %d", "answers": ["k"]}' % number for number in range(6)]  # noqa: UP031
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:4]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[3:]))  # one question is in both
    config = replace(TrainConfig(), evaluation=EVALUATION)
    folder = replace(config, data=replace(config.data, dataset=str(tmp_path)))
    data = config.data.load(str(tmp_path), "train", world=config.data.world)
    trained, held = split_held_out(folder, data, given=False)
    assert trained is data
    assert {question.text for question in held.questions} == {"letter 4", "letter 5"}
    file = replace(config, data=replace(config.data, dataset=str(tmp_path / "train.jsonl")))
    trained, held = split_held_out(file, data, given=False)  # the split of a file is only a label
    assert (len(trained.questions), len(held.questions)) == (1, 3)
    same = replace(folder, evaluation=replace(EVALUATION, dataset=str(tmp_path / "train.jsonl")))
    with pytest.raises(ConfigError, match=r"all questions of train \(test\) are training questions"):
        split_held_out(same, data, given=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": ()}, "at least one level"),
        ({"noise": (0.5, 0.5)}, "a level twice"),
        ({"noise": (1.5,)}, "at most 1, got 1.5"),
        ({"noise_kind": "empti"}, "Did you mean 'empty'"),
        ({"every": 0}, "evaluation.every must be a number above 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(evaluation=EvaluationConfig(**options))
    with pytest.raises(ConfigError, match="needs rollout"):
        TrainConfig(evaluation=EvaluationConfig(every=1), rollout=RolloutConfig(max_staleness=1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with evaluations."""
    config = _config(tmp_path_factory.mktemp("held-out"))
    return config, _run(config)


@pytest.mark.slow
def test_a_run_evaluates_and_keeps_the_best_policy(whole):
    config, _ = whole
    output = Path(config.output)
    metrics = read_metrics(output / "metrics.jsonl")
    assert [record["step"] for record in metrics] == [0, 1, 2, 3, 4, 5]
    evaluated = {record["step"]: record for record in metrics if "held_out_em" in record}
    assert list(evaluated) == [0, 2, 4, 5]
    for record in evaluated.values():
        assert record["held_out_em"] == pytest.approx((record["held_out_em_0"] + record["held_out_em_0.5"]) / 2)
        assert record["held_out_questions"] == 3
    best = max(evaluated, key=lambda step: (evaluated[step]["held_out_em"], -step))
    saved = {0: config.policy, 5: output / "policy", 4: output / "checkpoints" / "step-000004"}
    if best in saved:
        expected = load_policy(saved[best]).model
        assert weights_hash(_weights(load_policy(output / "best").model)) == weights_hash(_weights(expected))
    held = [record for record in read_transcripts(output / "transcripts.jsonl") if record["extra"].get("held_out")]
    assert [record["extra"]["step"] for record in held] == [0, 0, 0, 2, 2, 2, 4, 4, 4, 5, 5, 5]
    questions = {record["question"]["id"] for record in held}
    trained = {
        r["question"]["id"] for r in read_transcripts(output / "transcripts.jsonl") if "held_out" not in r["extra"]
    }
    assert not questions & trained
    page = (output / "report.html").read_text("utf-8")
    assert "Held-out questions during training" in page
    assert "Before training" in page


@pytest.mark.slow
def test_checkpoints_are_policies(whole):
    config, result = whole
    last = checkpoint_paths(Path(config.output) / "checkpoints")[-1]
    assert not (last / "weights.safetensors").exists()
    policy = load_policy(last)
    assert weights_hash(_weights(policy.model)) == weights_hash(_weights(result.policy.model))
    assert policy.card == result.policy.card


@pytest.mark.slow
def test_evaluations_change_nothing_of_the_training(whole, tmp_path):
    config, result = whole
    trained, _ = split_held_out(config, tiny.tiny_dataset(), given=True)
    plain = replace(config, output=str(tmp_path / "run"), evaluation=EvaluationConfig())
    assert weights_hash(_weights(train(plain, dataset=trained).policy.model)) == weights_hash(
        _weights(result.policy.model)
    )


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_run_evaluates_and_keeps_as_an_uninterrupted_one(whole, tmp_path, after):
    config, result = whole
    mine = replace(config, output=str(tmp_path / "run"))

    def interrupt(report):
        if report.step == after:
            os.kill(os.getpid(), signal.SIGINT)

    assert _run(mine, callback=interrupt).step == after
    again = _run(mine, resume=True)
    assert weights_hash(_weights(again.policy.model)) == weights_hash(_weights(result.policy.model))
    assert _learning(mine) == _learning(config)
    texts = [
        [json.dumps(record) for record in read_transcripts(Path(one.output) / "transcripts.jsonl")]
        for one in (config, mine)
    ]
    assert texts[0] == texts[1]
    best = [weights_hash(_weights(load_policy(Path(one.output) / "best").model)) for one in (config, mine)]
    assert best[0] == best[1]


def test_a_run_interrupted_before_its_first_step_has_one_evaluation_there(tmp_path, monkeypatch):
    config = _config(tmp_path, steps=1)
    measure = trainer.evaluate_held_out

    def interrupted(learner, step):
        result = measure(learner, step)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_held_out", interrupted)
        assert _run(config).step == 0
    assert _run(config, resume=True).step == 1
    assert [record["step"] for record in _learning(config)] == [0, 1]


@pytest.mark.slow
def test_a_killed_run_evaluates_and_keeps_as_an_uninterrupted_one(whole, tmp_path):
    config, result = whole
    mine = replace(config, output=str(tmp_path / "run"))
    (tmp_path / "config.toml").write_text(dump_config(mine))
    kill = "between steps"  # after the evaluation of step 2 and the checkpoint of that step
    child = FORKS.Process(target=train_until_killed, args=(tmp_path / "config.toml", kill), daemon=True)
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    again = _run(mine, resume=True)
    assert weights_hash(_weights(again.policy.model)) == weights_hash(_weights(result.policy.model))
    assert _learning(mine) == _learning(config)
    best = [weights_hash(_weights(load_policy(Path(one.output) / "best").model)) for one in (config, mine)]
    assert best[0] == best[1]


def test_a_turn_of_an_evaluation_is_greedy_in_vllm():
    limits = TurnLimits(("</answer>",), (0,), temperature=0.7)
    turns = [TurnRequest((1,), 8, seed=3, home=0, greedy=greedy) for greedy in (False, True)]
    assert [vllm_parameters(limits, turn)["temperature"] for turn in turns] == [0.7, 0.0]


@pytest.mark.slow
def test_two_workers_evaluate_as_one_does(whole, tmp_path, caplog):
    config, _ = whole
    both = replace(config, output=str(tmp_path / "run"), workers=2, steps=1)
    with caplog.at_level(logging.INFO):
        _run(both)
    assert "before training, held-out EM " in caplog.text
    names = [name for name in _learning(config)[0] if name.startswith("held_out")]
    assert [_learning(both)[0][name] for name in names] == [_learning(config)[0][name] for name in names]


@pytest.mark.slow
def test_a_run_that_turns_back_to_its_start_is_evaluated_there_again(tmp_path, monkeypatch):
    alarms = AlarmConfig(action="rollback", patience=1, max_rollbacks=1, reward_fraction=None)

    def find(config, history):
        return [Alarm("answered_below", 0.0, 1.0, 2, 1)] if history and history[-1]["step"] == 2 else []

    monkeypatch.setattr(run_files, "find_alarms", find)
    config = _config(tmp_path, steps=3, alarms=alarms, files=OutputConfig(checkpoint_every=None))
    with pytest.raises(TrainingError, match="rolled back 1 times already"):
        _run(config)
    records = _learning(config)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert "held_out_em" in records[0]
    assert len(read_rollbacks(Path(config.output))) == 1
