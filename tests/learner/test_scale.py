"""Several processes with sharded models: the same run as one process, also after a kill and with another number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from two_processes import run_in_two

from zerosearch_agents.config.lora import LoraShape
from zerosearch_agents.config.train import (
    CriticConfig,
    DataConfig,
    EnvironmentConfig,
    OptimizerConfig,
    ScaleConfig,
    dump_config,
    with_algorithm,
)
from zerosearch_agents.forward.fsdp import full_copy, local, wants_fsdp
from zerosearch_agents.processes.workers import Workers, local_device, start_workers, under_torchrun
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training.run_files import restore_learner
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.errors import CheckpointError, ConfigError

# Two processes wait for each other at every layer: on cores that others use too they are many times slower.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def config_of(folder: Path, algorithm: str, **changes):
    """Three steps on files, with micro-batches so small that the processes have unlike many."""
    folder.mkdir(parents=True, exist_ok=True)
    data, places = tiny.tiny_dataset(), (folder / "data.jsonl", folder / "corpus.jsonl")
    rows = [{"question": question.text, "answers": list(question.answers)} for question in data.questions]
    passages = [{"title": passage.title, "text": passage.text} for passage in data.passages]
    for place, lines in zip(places, (rows, passages), strict=True):
        place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {
        "data": DataConfig(dataset=str(places[0])),
        "environment": EnvironmentConfig(search_engine=f"corpus:{places[1]}", max_turns=2, top_k=2),
        "optimizer": OptimizerConfig(learning_rate=3e-3, warmup_steps=0, micro_batch_tokens=600),
    }
    return with_algorithm(tiny.tiny_train_config(folder, **(options | changes)), algorithm)


DYING = """
import os, signal, sys
from zerosearch_agents.training import trainer
from zerosearch_env.cli import main

def train_step(learner, step, real=trainer.train_step):
    if step == 1 and learner.workers.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(learner, step)

trainer.train_step = train_step
main(sys.argv[1:])
"""


def options_of(config, output: Path) -> tuple[str, ...]:
    """The options of `zerosearch train` for a configuration."""
    file = output.with_name(f"{output.name}.toml")
    file.write_text(dump_config(replace(config, workers=None)))
    return ("--preset", str(file), "--output", str(output))


def launch(config, output: Path, *, program: tuple[str, ...] = ("--module", "zerosearch_env.cli")):
    """`zerosearch train` in two processes that torchrun starts."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*start, *program, "train", *options_of(config, output)], env=environment, **pipes)


def finish(child: subprocess.Popen[str]) -> str:
    """What a launch prints when it goes well."""
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return out


def learnt(output: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(output / "metrics.jsonl")]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "policy" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """The same metrics to 1e-4, the same weights to 1e-4."""
    for expected, found in zip(learnt(one), learnt(other), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module", params=["grpo", "ppo"])
def runs(request, tmp_path_factory):
    """A run in one process and the same in two, as (configuration, folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    config = config_of(folder, request.param)
    if request.param == "grpo":
        child = launch(config, folder / "two")
        train(replace(config, output=str(folder / "one")))
        out = finish(child)
    else:
        train(replace(config, output=str(folder / "one")))
        out = run_in_two("train", *options_of(config, folder / "two"))
    assert out.count("3 of 3 steps") == 1
    return config, folder


def test_two_processes_are_one(runs):
    _, folder = runs
    rows = learnt(folder / "two")
    assert len(rows) == 3
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert_same_run(folder / "one", folder / "two")
    assert (folder / "two" / "checkpoints" / "step-000003" / "shards" / ".metadata").is_file()
    assert json.loads((folder / "two" / "policy" / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert len((folder / "two" / "transcripts.jsonl").read_text().splitlines()) == 6


@pytest.fixture(scope="module")
def killed(runs):
    """The run in two processes, one of which was killed in its second step."""
    config, folder = runs
    (folder / "dying.py").write_text(DYING)
    child = launch(config, folder / "killed", program=(str(folder / "dying.py"),))
    _, err = child.communicate(timeout=300)
    assert child.returncode != 0
    assert "Signal 9" in err
    assert [path.name for path in (folder / "killed" / "checkpoints").iterdir()] == ["step-000001"]
    assert not (folder / "killed" / "policy").exists()
    return config, folder


def test_killed_and_resumed_by_one_process(killed):
    _, folder = killed
    alone = shutil.copytree(folder / "killed", folder / "alone")
    config = replace(killed[0], output=str(alone))
    train(config, resume=True)
    assert_same_run(folder / "two", alone)


def test_killed_and_resumed_by_two_is_the_same_to_the_bit(killed):
    _, folder = killed
    run_in_two("train", "--resume", str(folder / "killed"))
    assert learnt(folder / "killed") == learnt(folder / "two")
    for name, value in weights(folder / "two").items():
        assert torch.equal(weights(folder / "killed")[name], value), name


def sharded_and_back(workers: Workers, config, folder: Path) -> dict[str, torch.Tensor]:
    """A step from a checkpoint that a single process wrote. Runs in both workers."""
    learner = build_learner(config, workers)
    assert learner.full_copy is not None
    assert learner.mode.packing == ("off" if config.optimizer.packing == "off" else "sequences")
    mine = sum(local(parameter).numel() for parameter in learner.policy.model.parameters())
    assert sum(workers.gather(mine)) == sum(p.numel() for p in learner.full_copy.parameters())
    assert restore_learner(learner, folder / "one", config).step == 1
    train_step(learner, 1)
    found = {name: full_copy(p.detach()) for name, p in learner.policy.model.named_parameters()}
    for name, parameter in learner.full_copy.named_parameters():
        assert torch.equal(parameter, found[name])
    return found


def sharded_worker(workers: Workers, config, folder: Path) -> None:
    sharded_and_back(workers, config, folder)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_a_checkpoint_of_one_process_is_read_by_two(tmp_path, trunk):
    """Also with activations computed again in the backward pass, and padded: neither changes anything."""
    config = config_of(tmp_path, "ppo", critic=CriticConfig(trunk=trunk))
    train(replace(config, steps=1, output=str(tmp_path / "one")))
    config = replace(config, output=str(tmp_path / "one"))
    single = build_learner(config, Workers())
    assert restore_learner(single, tmp_path / "one", config).step == 1
    train_step(single, 1)
    packing = "off" if trunk == "shared" else "auto"
    optimizer = replace(config.optimizer, gradient_checkpointing=True, packing=packing)
    sharded = replace(config, scale=ScaleConfig(fsdp="on"), optimizer=optimizer)
    with start_workers(2, sharded_worker, sharded, tmp_path) as workers:
        found = sharded_and_back(workers, sharded, tmp_path)
    for name, parameter in single.policy.model.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-3, atol=1e-4)


def test_a_shard_that_is_lost_or_of_another_model_is_named(runs, tmp_path):
    config, folder = runs
    output = shutil.copytree(folder / "two", tmp_path / "run")
    config = replace(config, output=str(output))
    newest = output / "checkpoints" / "step-000003" / "shards"
    (newest / "__1_0.distcp").unlink()
    learner = build_learner(config, Workers())
    assert restore_learner(learner, output, config).step == 2
    (output / "checkpoints" / "step-000002" / "shards" / ".metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match="half written"):
        restore_learner(learner, output, config)
    if learner.critic is not None:
        return
    from zerosearch_agents.policy.policy import new_model, save_policy, tiny_config

    model = new_model(tiny_config(320, hidden=16, layers=1, heads=2, mlp=16, context_tokens=512))
    save_policy(replace(tiny.tiny_policy(), model=model), tmp_path / "small")
    other = build_learner(replace(config, policy=str(tmp_path / "small")), Workers())
    with pytest.raises(CheckpointError, match="not the policy that the run"):
        restore_learner(other, folder / "two", config)
    other.reference = None
    with pytest.raises(CheckpointError, match="belongs to another model"):
        restore_learner(other, folder / "two", config)


def test_an_error_under_torchrun_is_said_once(tmp_path):
    config = config_of(tmp_path, "grpo")
    (tmp_path / "full" / "policy").mkdir(parents=True)
    child = launch(config, tmp_path / "full")
    _, err = child.communicate(timeout=300)
    assert child.returncode == 1
    assert err.count("zerosearch: error: ") == 1
    assert "already holds a run" in err


def test_settings_that_cannot_be(tmp_path, monkeypatch):
    config = config_of(tmp_path, "grpo", scale=ScaleConfig(fsdp="on"))
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        train(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not under_torchrun()
    monkeypatch.setenv("RANK", "1")
    assert under_torchrun()
    with pytest.raises(ConfigError, match="workers = 2 under torchrun"):
        train(replace(config, workers=2))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (local_device("cuda"), local_device("cpu")) == ("cuda:1", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU to itself: 0 here"):
            train(replace(config, device="cuda"))


def test_what_cannot_be_sharded_is_refused(tmp_path, monkeypatch):
    config, two = config_of(tmp_path, "grpo"), Workers(0, 2)
    on = replace(config, scale=ScaleConfig(fsdp="on"))
    with pytest.raises(ConfigError, match="several processes"):
        wants_fsdp(on, Workers())
    adapted = LoraShape(rank=4)
    with pytest.raises(ConfigError, match=r"lora\.rank"):
        wants_fsdp(replace(on, lora=adapted), two)
    with pytest.raises(ConfigError, match="eight_bit"):
        wants_fsdp(replace(on, optimizer=replace(on.optimizer, eight_bit=True)), two)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert wants_fsdp(config, two)
    assert not wants_fsdp(replace(config, lora=adapted), two)
