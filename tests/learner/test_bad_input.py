"""What a user gets wrong, or a machine does: each case has a message that says what to do, and nothing is lost."""

from __future__ import annotations

import json
import math
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from zerosearch_agents.config.train import AlgorithmConfig, OptimizerConfig, RolloutConfig
from zerosearch_agents.policy.policy import load_policy, save_policy
from zerosearch_agents.processes.workers import Workers
from zerosearch_agents.runs.checkpoint import checkpoint_paths, load_latest, weights_hash
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training import run_files
from zerosearch_agents.training.run_files import learner_weights
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.errors import CheckpointError, ConfigError, TrainingError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm.backend import Prompt
from zerosearch_env.llm.local.backend import TransformersBackend

FEW = RolloutConfig(prompts=2, group_size=3, slots=6)


def run(config, **options):
    return train(config, dataset=tiny.tiny_dataset(), **options)


def with_tokenizer(folder, **changes):
    """A configuration whose initial policy's tokenizer differs."""
    policy = tiny.tiny_policy()
    save_policy(policy, folder / "initial")
    file = folder / "initial" / "tokenizer_config.json"
    values = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}), "utf-8")
    return tiny.tiny_train_config(folder, steps=1)


@pytest.mark.slow
def test_padding_never_depends_on_a_pad_token(tmp_path):
    prints, start = set(), weights_hash({k: v.detach() for k, v in tiny.tiny_policy().model.named_parameters()})
    for name, changes in {"own": {}, "none": {"pad_token": None}, "eos": {"pad_token": "<|eos|>"}}.items():
        config = with_tokenizer(tmp_path / name, **changes)
        loaded = load_policy(config.policy).tokenizer
        assert loaded.pad_token == {"own": "<|pad|>", "none": None, "eos": "<|eos|>"}[name]
        result = run(config)
        prints.add(weights_hash({key: value.detach() for key, value in result.policy.model.named_parameters()}))
        assert load_policy(result.output / "policy").tokenizer.pad_token == loaded.pad_token
    assert len(prints) == 1
    assert start not in prints


def test_a_device_that_this_machine_lacks_is_named_before_anything_is_loaded(tmp_path):
    for device, reason in {"gpu": "Expected one of", "cuda:99": "GPUs found: "}.items():
        with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used here: .*{reason}"):
            load_policy(tmp_path / "missing", device=device)
        backend = TransformersBackend(str(tmp_path), device=device)
        with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used here"):
            backend.complete([Prompt("a", seed=0, max_tokens=1)])


def test_a_model_without_a_chat_template(tmp_path):
    config = tiny.tiny_train_config(tmp_path, steps=1, rollout=FEW)
    assert load_policy(config.policy).tokenizer.chat_template is None
    assert run(config).step == 1
    card = Path(config.policy) / "zerosearch.json"
    card.write_text(json.dumps(json.loads(card.read_text("utf-8")) | {"chat": True}), "utf-8")
    with pytest.raises(ConfigError, match=r"has no chat template: put one into .*, or set chat to off"):
        run(config, overwrite=True)


@pytest.mark.parametrize(("chat", "decided"), [(None, True), ("off", False)])
def test_a_policy_without_a_card_is_trained_with_its_chat_template(tmp_path, caplog, chat, decided):
    config = tiny.tiny_train_config(tmp_path, steps=1, rollout=FEW)
    folder = Path(config.policy)
    (folder / "zerosearch.json").unlink()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}\n", "utf-8"
    )
    environment = replace(config.environment, prompt_template="{question}\n", chat=chat)
    learner = build_learner(replace(config, environment=environment), Workers(), tiny.tiny_dataset())
    assert learner.policy.card.chat is decided
    (note,) = [record.getMessage() for record in caplog.records if "has no card" in record.getMessage()]
    assert ("with the chat template of its tokenizer" in note) is decided


def test_a_context_too_short_for_the_prompts(tmp_path):
    config = tiny.tiny_train_config(tmp_path, rollout=RolloutConfig(prompts=4, group_size=4, context_tokens=3))
    with pytest.raises(TrainingError, match=r"the shortest has \d+ tokens.*Raise rollout\.context_tokens"):
        run(config)


def test_a_reward_that_is_not_a_number_is_named_and_never_trained_on(tmp_path):
    learner = build_learner(tiny.tiny_train_config(tmp_path), Workers(), tiny.tiny_dataset())

    def my_reward(prediction, answers):
        return math.nan

    learner.rules = make_rules(
        protocol="zerosearch", prompt_template="{question}\n", max_turns=2, top_k=2, reward=my_reward
    )
    before = weights_hash(learner_weights(learner))
    with pytest.raises(ConfigError, match=r"my_reward returned for prediction .* must be a finite number, got nan"):
        train_step(learner, 0)
    assert weights_hash(learner_weights(learner)) == before


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_updates_without_a_finite_gradient_are_counted_and_end_the_run(tmp_path, monkeypatch, value):
    config = tiny.tiny_train_config(tmp_path, steps=9, rollout=FEW, algorithm=AlgorithmConfig(kl_coefficient=0.01))
    tiny.spoil_loss(monkeypatch, value)
    with pytest.raises(TrainingError, match="not finite in 5 updates in a row; lower the learning rate"):
        run(config)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(record["updates"], record["skipped_updates"]) for record in metrics] == [(0, 2), (0, 2)]
    assert "gradient_norm" not in metrics[0]  # JSON has no NaN: what is not finite is left out
    start = {key: value.detach() for key, value in load_policy(config.policy).model.named_parameters()}
    assert weights_hash(load_latest(tmp_path / "run" / "checkpoints")[2]) == weights_hash(start)


@contextmanager
def small_files(limit):
    """No file may grow beyond `limit` bytes: writes fail as on a full disk, in the kernel."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_loses_no_checkpoint(tmp_path, monkeypatch):
    always_trained = {"rollout": FEW, "algorithm": AlgorithmConfig(kl_coefficient=0.01)}
    whole = run(tiny.tiny_train_config(tmp_path / "whole", **always_trained))
    config = tiny.tiny_train_config(tmp_path, **always_trained)
    original, saves = run_files.write_policy, []

    def full(*arguments, **options):
        saves.append(arguments)
        if len(saves) < 2:
            return original(*arguments, **options)
        with small_files(20_000):
            return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_files, "write_policy", full)
        with pytest.raises(
            CheckpointError, match=r"step-000002 could not be written: .*step-000001 is untouched; make"
        ):
            run(config)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-000001"]
    result = run(config, resume=True)
    prints = [{k: v.detach() for k, v in one.policy.model.named_parameters()} for one in (whole, result)]
    assert weights_hash(prints[0]) == weights_hash(prints[1])


@pytest.mark.slow
def test_a_disk_that_is_full_of_metrics(tmp_path, monkeypatch):
    config = tiny.tiny_train_config(tmp_path, rollout=FEW)
    original = run_files.MetricsLog.write

    def full(log, step, metrics):
        with small_files(300 if step == 2 else 10**9):
            original(log, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(run_files.MetricsLog, "write", full)
        with pytest.raises(CheckpointError, match=r"could not be written: .*Its checkpoints are untouched; make room"):
            run(config)
    assert [path.name for path in checkpoint_paths(tmp_path / "run" / "checkpoints")] == ["step-000001"]
    assert run(config, resume=True).step == 3
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]


def test_a_policy_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    save_policy(tiny.tiny_policy(), tmp_path / "policy")
    before = weights_hash({k: v.detach() for k, v in load_policy(tmp_path / "policy").model.named_parameters()})
    with small_files(5_000), pytest.raises(CheckpointError, match="An existing one there is unchanged"):
        save_policy(tiny.tiny_policy(seed=1), tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    after = load_policy(tmp_path / "policy")
    assert weights_hash({k: v.detach() for k, v in after.model.named_parameters()}) == before


@pytest.mark.slow
def test_a_rate_that_breaks_every_weight_ends_in_an_error_not_in_a_policy(tmp_path):
    config = tiny.tiny_train_config(
        tmp_path,
        steps=20,
        rollout=replace(FEW, prompts=4),
        optimizer=OptimizerConfig(learning_rate=1e38, warmup_steps=0),
        algorithm=AlgorithmConfig(kl_coefficient=0.01, minibatches=4),
    )
    with pytest.raises(TrainingError, match="not finite"):
        run(config)
    assert not (tmp_path / "run" / "policy").exists()
    rescued = replace(config, alarms=replace(config.alarms, action="stop", patience=1), output=str(tmp_path / "stop"))
    with pytest.raises(TrainingError, match="skipped_updates"):
        run(rescued)
