from __future__ import annotations

import fcntl
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from killed_runs import KILLS, train_until_killed
from metrics_page import DOCUMENTED
from two_processes import FORKS

from zerosearch_agents.config.train import (
    AlgorithmConfig,
    CurriculumConfig,
    OptimizerConfig,
    OutputConfig,
    RolloutConfig,
    dump_config,
    read_config,
)
from zerosearch_agents.objective.credit import assign_credit, make_samples
from zerosearch_agents.policy.policy import load_policy
from zerosearch_agents.processes.workers import Workers, start_workers
from zerosearch_agents.runs.checkpoint import checkpoint_paths, load_latest, weights_hash
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training import update as learner_module
from zerosearch_agents.training.optimizer import learning_rate
from zerosearch_agents.training.run_files import learner_weights
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.engines import ConstantEngine, FailingEngine
from zerosearch_env.errors import CheckpointError, ConfigError, TrainingError
from zerosearch_env.records.transcripts import read_transcripts

pytestmark = pytest.mark.slow

TIMES = {"seconds", "tokens_per_second", "rollout_seconds", "update_seconds"}


def weights_of(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def run(config, **options):
    return train(config, dataset=tiny.tiny_dataset(), **options)


def learning(metrics):
    """What does not depend on the clock."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in metrics]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its configuration and its result."""
    config = tiny.tiny_train_config(tmp_path_factory.mktemp("whole"))
    return config, run(config)


def test_a_run_leaves_what_it_promises(whole):
    config, result = whole
    output = Path(config.output)
    assert (result.step, result.stopped, result.output) == (3, "finished", output)
    assert read_config(output / "config.toml") == config
    metrics = read_metrics(output / "metrics.jsonl")
    assert [record["step"] for record in metrics] == [1, 2, 3]
    assert set().union(*metrics) <= set(DOCUMENTED)
    assert [path.name for path in checkpoint_paths(output / "checkpoints")] == ["step-000002", "step-000003"]
    records = list(read_transcripts(output / "transcripts.jsonl"))
    assert [record["extra"]["step"] for record in records] == [1, 1, 1, 2, 2, 2]
    assert len({record["question"]["id"] for record in records[:3]}) == 3
    on_disk = load_policy(output / "policy")
    assert weights_hash(weights_of(on_disk.model)) == weights_hash(weights_of(result.policy.model))
    assert on_disk.card == result.policy.card
    assert all(parameter.grad is None for parameter in result.policy.model.parameters())


def test_something_was_learnt_from_and_it_changed_the_policy(whole):
    config, result = whole
    metrics = read_metrics(Path(config.output) / "metrics.jsonl")
    assert sum(record["updates"] for record in metrics) >= 2
    assert all(record["mismatch_kl"] < 1e-6 for record in metrics if "mismatch_kl" in record)
    initial = load_policy(config.policy)
    assert weights_hash(weights_of(initial.model)) != weights_hash(weights_of(result.policy.model))


def test_training_raises_the_reward(tmp_path):
    config = tiny.tiny_train_config(
        tmp_path,
        steps=14,
        rollout=RolloutConfig(prompts=8, group_size=8),
        algorithm=AlgorithmConfig(minibatches=1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        files=OutputConfig(checkpoint_every=None, transcripts_every=None),
    )
    rewards = []
    run(config, callback=lambda report: rewards.append(report.metrics["reward"]))
    print("REW", np.round(rewards, 3))
    assert np.mean(rewards[-4:]) > np.mean(rewards[:2]) + 0.08


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path, kill):
    config, result = whole
    mine = replace(config, output=str(tmp_path / "run"))
    if kill == "before the old one goes":
        mine = replace(mine, files=replace(config.files, keep_checkpoints=1))
    (tmp_path / "config.toml").write_text(dump_config(mine))
    child = FORKS.Process(target=train_until_killed, args=(tmp_path / "config.toml", kill), daemon=True)
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    again = run(mine, resume=True)
    assert again.step == 3
    assert weights_hash(weights_of(again.policy.model)) == weights_hash(weights_of(result.policy.model))
    expected = read_metrics(Path(config.output) / "metrics.jsonl")
    assert learning(read_metrics(Path(mine.output) / "metrics.jsonl")) == learning(expected)
    transcripts = [
        [json.dumps(record) for record in read_transcripts(Path(c.output) / "transcripts.jsonl")]
        for c in (config, mine)
    ]
    assert transcripts[0] == transcripts[1]
    optimizers = [load_latest(Path(c.output) / "checkpoints")[3]["state"] for c in (config, mine)]
    for one, other in zip(*(state.values() for state in optimizers), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_stops_by_time_and_goes_on(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), max_seconds=1e-6)
    assert run(config).stopped == "time"
    metrics = Path(config.output) / "metrics.jsonl"
    assert read_metrics(metrics) == []
    again = run(replace(config, max_seconds=None), resume=True)
    assert again.stopped == "finished"
    assert weights_hash(weights_of(again.policy.model)) == weights_hash(weights_of(whole[1].policy.model))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_once_stops_after_the_step(whole, tmp_path, capfd, number):
    config = replace(whole[0], output=str(tmp_path / "run"))
    before = signal.getsignal(number)
    result = run(config, callback=lambda report: os.kill(os.getpid(), number))
    assert (result.stopped, result.step) == ("interrupt", 1)
    assert signal.getsignal(number) is before
    assert "stopping after this step" in capfd.readouterr().err
    assert load_latest(Path(config.output) / "checkpoints")[1].step == 1


def test_ctrl_c_twice_stops_at_once(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), steps=2)

    def twice(report):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(config, callback=twice)
    assert run(config, resume=True).stopped == "finished"


def test_resuming_with_another_configuration_names_the_differences(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), steps=1, max_seconds=1e-6)
    run(config)
    other = replace(config, max_seconds=None, seed=5, curriculum=CurriculumConfig(end=0.9))
    with pytest.raises(CheckpointError, match=r"seed: 0 -> 5; curriculum\.end: 0\.5 -> 0\.9"):
        run(other, resume=True)
    assert run(other, resume=True, force=True).step == 1
    assert read_config(Path(config.output) / "config.toml") == other


def test_resuming_with_other_questions_or_without_a_record_names_them(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), steps=1, max_seconds=1e-6)
    run(config)
    config, data = replace(config, max_seconds=None), tiny.tiny_dataset()
    edited = replace(data, questions=[replace(data.questions[0], answers=("other",)), *data.questions[1:]])
    with pytest.raises(CheckpointError, match=r"began, the dataset \S+ \(\w+\) has changed\. Force it"):
        train(config, dataset=edited, resume=True)
    assert train(config, dataset=edited, resume=True, force=True).step == 1
    (tmp_path / "run" / "contents.json").write_text("[1")
    with pytest.raises(CheckpointError, match="there is no record of the version of zerosearch-env"):
        train(config, dataset=edited, resume=True)


def test_a_run_that_another_process_writes_is_refused(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), steps=1, max_seconds=1e-6)
    run(config)
    file = os.open(tmp_path / "run" / ".lock", os.O_RDWR)  # as another process would, since `flock` is per open file
    fcntl.flock(file, fcntl.LOCK_EX)
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="run is in use by process"):
            run(config, **options)
    os.close(file)
    assert run(config, resume=True).stopped == "time"


def test_damaged_metrics_do_not_lose_the_run(whole, tmp_path, caplog):
    config = replace(whole[0], output=str(tmp_path / "run"), steps=2)
    run(config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(b"\x00" * 40 + b"\n" + metrics.read_bytes()[41:])
    assert run(replace(config, steps=3), resume=True, force=True).step == 3
    assert [record["step"] for record in read_metrics(metrics)][-1] == 3
    assert "damaged" in caplog.text


def test_a_directory_with_a_run_is_not_overwritten_by_accident(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), steps=1)
    run(config)
    notes = tmp_path / "run" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(ConfigError, match="already holds a run"):
        run(config)
    # what a quickstart, `eval` and `report` write about the run, and what a killed save leaves of it
    about = ("evaluation/results.json", "results.json", "transcripts/before.jsonl", "report.html", "report.json")
    remains = (".policy.old/config.json", ".policy.new/config.json", ".config.toml.new", "tensorboard/events", "sync/1")
    stale = [tmp_path / "run" / name for name in (*about, *remains)]
    for file in stale:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("of the earlier run")
    with pytest.raises(ConfigError, match=r"belongs to the run in .*choose another output"):
        run(replace(config, policy=str(tmp_path / "run" / "policy")), overwrite=True)
    assert all(file.exists() for file in stale)
    assert run(config, overwrite=True).step == 1
    assert [file.name for file in stale if file.exists()] == ["report.html"]  # a new one
    assert "of the earlier run" not in (tmp_path / "run" / "report.html").read_text()
    assert notes.read_text() == "mine"
    with pytest.raises(CheckpointError, match="no run to resume"):
        run(replace(config, output=str(tmp_path / "nothing")), resume=True)


def test_the_reference_of_a_resumed_run_must_be_the_same(tmp_path):
    config = tiny.tiny_train_config(tmp_path, steps=1, algorithm=AlgorithmConfig(kl_coefficient=0.1))
    run(config)
    (metrics,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert metrics["trained_rollouts"] == 16  # with a KL term every rollout has a gradient
    assert metrics["kl"] >= 0
    changed = tiny.tiny_policy(seed=1)
    from zerosearch_agents.policy.policy import save_policy

    save_policy(changed, config.policy)
    with pytest.raises(CheckpointError, match=r"since the run in .* began, the policy .* has changed\. Force it"):
        run(config, resume=True)
    with pytest.raises(CheckpointError, match="not the policy that the run"):
        run(config, resume=True, force=True)


def make_learner(folder, **changes):
    engine = changes.pop("engine", None)
    return build_learner(tiny.tiny_train_config(folder, **changes), Workers(), tiny.tiny_dataset(), engine)


def step_gradients(learner, step=0):
    """One step with every gradient that reached the optimizer."""
    gradients = []
    original = learner.optimizer.step
    learner.optimizer.step = lambda: (gradients.append(learner.gradient.clone()), original())
    metrics, _ = train_step(learner, step)
    return metrics, gradients


def test_micro_batches_and_slots_change_no_gradient(tmp_path):
    results = [
        step_gradients(
            make_learner(
                tmp_path,
                optimizer=OptimizerConfig(micro_batch_tokens=tokens, warmup_steps=0),
                rollout=RolloutConfig(prompts=4, group_size=4, slots=slots),
                algorithm=AlgorithmConfig(kl_coefficient=0.01, minibatches=2),
            )
        )[1]
        for tokens, slots in ((100_000, 16), (1, 5))
    ]
    assert len(results[0]) == len(results[1]) == 2
    assert results[0][0].norm() > 1e-3
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-6, rtol=0)


def test_recomputed_logprobs_agree_with_the_samplers(tmp_path):
    algorithm = AlgorithmConfig(minibatches=2, epochs=2)
    plain, gradients = step_gradients(make_learner(tmp_path, algorithm=algorithm))
    metrics, again = step_gradients(make_learner(tmp_path, algorithm=replace(algorithm, recompute_logprobs=True)))
    assert len(gradients) == len(again) >= 2
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert metrics["importance_weight"] == pytest.approx(1, abs=1e-4)
    assert metrics["mismatch_kl"] == pytest.approx(0, abs=1e-6)
    assert plain["update_kl"] > 1e-6


def test_the_gradient_is_cut_and_norms_do_not_decay(tmp_path):
    learner = make_learner(tmp_path, optimizer=OptimizerConfig(max_grad_norm=1e-3, weight_decay=0.5))
    _, gradients = step_gradients(learner)
    assert all(float(gradient.norm()) == pytest.approx(1e-3, rel=1e-2) for gradient in gradients)
    decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in learner.optimizer.param_groups}
    assert decays == {0.5: {2}, 0.0: {1}}


def test_learning_rate_warms_up_and_falls():
    config = replace(
        tiny.TrainConfig(steps=11), optimizer=OptimizerConfig(learning_rate=1.0, warmup_steps=4, final_fraction=0.5)
    )
    rates = [learning_rate(config, step) for step in range(11)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[-1] == pytest.approx(0.5)
    assert sorted(rates[4:], reverse=True) == rates[4:]


def test_failed_searches_stay_out_of_the_loss(tmp_path):
    learner = make_learner(tmp_path, engine=FailingEngine("down", after=2, inner=ConstantEngine()))
    metrics, groups = train_step(learner, 0)
    failures = [one for group in groups for one in group if not one.trainable]
    assert metrics["engine_failures"] == len(failures) > 0
    weighed = assign_credit(learner.config.algorithm, make_samples(groups))
    assert sum(map(len, weighed)) == 16 - len(failures)


def test_a_step_without_any_rollout_to_train_on_stops_the_run(tmp_path):
    learner = make_learner(tmp_path)
    _, groups = train_step(learner, 0)
    lost = [[replace(one, stop_reason="engine_error", error="no route") for one in group] for group in groups]
    lost = [[replace(one, loss_mask=np.zeros_like(one.loss_mask)) for one in group] for group in lost]
    with pytest.raises(TrainingError, match="every search failed: no route"):
        make_samples(lost)
    with pytest.raises(TrainingError, match="no prompt fits into context_tokens"):
        train_step(make_learner(tmp_path, rollout=RolloutConfig(prompts=4, group_size=2, context_tokens=3)), 0)


def test_gradients_that_are_not_finite_are_left_out_and_end_the_run_at_last(tmp_path, monkeypatch):
    learner = make_learner(tmp_path)
    _, groups = train_step(learner, 0)
    samples = [s for group in assign_credit(learner.config.algorithm, make_samples(groups)) for s in group]
    before = weights_hash(learner_weights(learner))
    tiny.spoil_loss(monkeypatch, float("nan"))
    stats = learner_module.update(learner, samples, 1.0)
    assert stats is not None
    assert not stats.applied
    assert weights_hash(learner_weights(learner)) == before
    for _ in range(learner_module.MAX_SKIPPED - 2):
        learner_module.update(learner, samples, 1.0)
    with pytest.raises(TrainingError, match="not finite"):
        learner_module.update(learner, samples, 1.0)


def two_steps(workers, config):
    """Two steps from the start, twice; the weights of both must agree in every worker. Runs in both workers."""
    assert workers.agree(7 - workers.rank) == 7
    prints, learner = [], None
    for _ in range(2):
        learner = build_learner(config, workers, tiny.tiny_dataset())
        groups = [train_step(learner, step)[1] for step in range(2)]
        prints.append(weights_hash(learner_weights(learner)))
    everyone = workers.gather(prints)
    return everyone, learner_weights(learner), groups


def test_two_workers_learn_what_one_learns(tmp_path):
    config = tiny.tiny_train_config(tmp_path, steps=2)
    with start_workers(2, two_steps, config) as workers:
        assert (workers.rank, workers.size) == (0, 2)
        prints, weights, groups = two_steps(workers, config)
    assert len({one for worker in prints for one in worker}) == 1
    single = build_learner(config, Workers(), tiny.tiny_dataset())
    alone = [train_step(single, step)[1] for step in range(2)]
    for step, other in zip(groups, alone, strict=True):
        for group, others in zip(step, other, strict=True):
            assert [one.token_ids.tolist() for one in group] == [one.token_ids.tolist() for one in others]
    for name, value in learner_weights(single).items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0)
