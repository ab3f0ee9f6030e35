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
from forks import ForkedPopen
from safetensors.torch import load_file
from two_processes import run_in_two

from zerosearch_agents.config.lora import LoraShape
from zerosearch_agents.config.train import (
    CriticConfig,
    DataConfig,
    EnvironmentConfig,
    OptimizerConfig,
    RolloutConfig,
    ScaleConfig,
    dump_config,
    with_algorithm,
)
from zerosearch_agents.forward.fsdp import full_copy, local, wants_fsdp
from zerosearch_agents.policy.policy import new_model, save_policy, tiny_config
from zerosearch_agents.processes.workers import Workers, local_device, start_workers, under_torchrun
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.sampling.vllm.sync import free_port
from zerosearch_agents.training.run_files import restore_learner
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_agents.training.update import Learner
from zerosearch_env.errors import CheckpointError, ConfigError

# Two processes wait for each other at every layer: on cores that others use too they are many times slower.
pytestmark = pytest.mark.timeout(600)


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
        "optimizer": OptimizerConfig(learning_rate=3e-3, warmup_steps=0, micro_batch_tokens=260),
        "rollout": RolloutConfig(prompts=2, group_size=4, slots=8),
    }
    return with_algorithm(tiny.tiny_train_config(folder, **(options | changes)), algorithm)


# One process of torchrun: a whole run, then one that is killed in its second step, and what a restart says to that.
PROGRAM = """
import multiprocessing, os, select, signal, sys
from zerosearch_agents.training import trainer
from zerosearch_env.cli import COMMANDS, main

multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked itself
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
arrived, writer = os.pipe()  # has something to read once a signal has come
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)

def train_step(learner, step, real=trainer.train_step):
    if step == 1 and learner.workers.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(learner, step)

port, whole, killed = sys.argv[1], sys.argv[2:4], sys.argv[4:]
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    assert COMMANDS["train"].load("train")(whole) == 0
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}  # torchrun's store is used up
    trainer.train_step = train_step
try:
    main(["train", *killed])
except RuntimeError:  # of two processes that fail at once torchrun may name either: the killed one is to be the first
    select.select([arrived], [], [], 5)  # torchrun has noticed the first when it ends the second
    raise
"""


def options_of(config, output: Path) -> tuple[str, ...]:
    """The options of `zerosearch train` for a configuration."""
    file = output.with_name(f"{output.name}.toml")
    file.write_text(dump_config(replace(config, workers=None)))
    return (f"--preset={file}", f"--output={output}")


def launch(config, whole: Path, killed: Path) -> tuple[int, str, str]:
    """What two processes of torchrun leave and print that run `PROGRAM`; all of them are forked."""
    program, logs = killed.with_name("program.py"), killed.with_name("logs")
    program.write_text(PROGRAM)
    logs.mkdir()
    where = ("--standalone", "--nproc-per-node=2", "--start-method=forkserver", "--run-path")
    options = (*where, "--max-restarts=1", "--redirects=3", f"--log-dir={logs}")
    arguments = (str(free_port("127.0.0.1")), *options_of(config, whole), *options_of(config, killed))
    with (logs / "stdout.log").open("wb") as output, (logs / "stderr.log").open("wb") as errors:
        child = ForkedPopen(
            [sys.executable, "-m", "torch.distributed.run", *options, str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=dict(os.environ),
        )
        child.stdin.close()
        try:
            status = child.wait(300)
        finally:
            child.kill()
    out, err = ("".join(file.read_text() for file in logs.rglob(name)) for name in ("stdout.log", "stderr.log"))
    return status, out, err


def learnt(output: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(output / "metrics.jsonl")]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "policy" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """The same metrics to 1e-4, the same weights to 3e-4.

    AdamW's first updates are the learning rate times g / |g|, so rounding counts where a gradient is close to zero.
    """
    for expected, found in zip(learnt(one), learnt(other), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=1e-3, atol=3e-4)


def assert_two_are_one(folder: Path) -> None:
    """The run in two processes is the one in a single process, with the files of a sharded run."""
    rows = learnt(folder / "two")
    assert len(rows) == 3
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert_same_run(folder / "one", folder / "two")
    assert (folder / "two" / "checkpoints" / "step-000003" / "shards" / ".metadata").is_file()
    assert json.loads((folder / "two" / "policy" / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert len((folder / "two" / "transcripts.jsonl").read_text().splitlines()) == 6


def assert_resumed(config, folder: Path) -> None:
    """A run that was stopped goes on in one process, and in two to the same bits."""
    assert not (folder / "killed" / "policy").exists()
    alone = shutil.copytree(folder / "killed", folder / "alone")
    train(replace(config, output=str(alone)), resume=True)
    assert_same_run(folder / "two", alone)
    run_in_two("train", "--resume", str(folder / "killed"))
    assert learnt(folder / "killed") == learnt(folder / "two")
    for name, value in weights(folder / "two").items():
        assert torch.equal(weights(folder / "killed")[name], value), name


def assert_lost_shards_are_named(config, output: Path) -> Learner:
    """A run with a bit flipped in one of its newest shards goes on from the step before; half a checkpoint says so."""
    newest = output / "checkpoints" / "step-000003" / "shards"
    shard = bytearray((newest / "__1_0.distcp").read_bytes())
    shard[len(shard) // 2] ^= 1
    (newest / "__1_0.distcp").write_bytes(shard)
    learner = build_learner(config, Workers())
    assert restore_learner(learner, output, config).step == 2
    (output / "checkpoints" / "step-000002" / "shards" / ".metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match="half written"):
        restore_learner(learner, output, config)
    return learner


def assert_shards_of_another_model_are_refused(config, folder: Path) -> None:
    """They are told apart by the policy that the run started from, and without one by their shapes."""
    model = new_model(tiny_config(320, hidden=16, layers=1, heads=2, mlp=16, context_tokens=512))
    save_policy(replace(tiny.tiny_policy(), model=model), folder / "small")
    other = build_learner(replace(config, policy=str(folder / "small")), Workers())
    with pytest.raises(CheckpointError, match="not the policy that the run"):
        restore_learner(other, folder / "two", config)
    other.reference = None
    with pytest.raises(CheckpointError, match="belongs to another model"):
        restore_learner(other, folder / "two", config)


@pytest.mark.slow
def test_under_torchrun_also_killed_and_restarted(tmp_path):
    """A run that a restart of its processes finds is an error, which is said once."""
    config = config_of(tmp_path, "grpo")
    status, out, err = launch(config, tmp_path / "two", tmp_path / "killed")
    assert status == 1, err
    assert out.count("3 of 3 steps") == 1, err
    assert "exitcode: -9" in err
    assert err.count("zerosearch: error: ") == 1
    assert "already holds a run" in err
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-000001"]
    train(replace(config, output=str(tmp_path / "one")))
    assert_two_are_one(tmp_path)
    assert_resumed(config, tmp_path)
    assert_lost_shards_are_named(config, shutil.copytree(tmp_path / "two", tmp_path / "lost"))
    assert_shards_of_another_model_are_refused(config, tmp_path)


@pytest.mark.slow
def test_a_critic_in_two_processes(tmp_path):
    """Its run and its shards too; the run that is resumed has metrics of a step after its checkpoint."""
    config = config_of(tmp_path, "ppo")
    train(replace(config, output=str(tmp_path / "one")))
    out = run_in_two("train", *options_of(config, tmp_path / "two"))
    assert out.count("3 of 3 steps") == 1
    assert_two_are_one(tmp_path)
    killed = shutil.copytree(tmp_path / "two", tmp_path / "killed")
    shutil.rmtree(killed / "checkpoints" / "step-000003")
    shutil.rmtree(killed / "policy")
    assert_resumed(config, tmp_path)
    learner = assert_lost_shards_are_named(config, shutil.copytree(tmp_path / "two", tmp_path / "lost"))
    assert learner.critic is not None


def sharded_and_back(workers: Workers, config) -> dict[str, torch.Tensor]:
    """A step from a checkpoint that a single process wrote. Runs in both workers."""
    learner = build_learner(config, workers)
    assert learner.full_copy is not None
    assert learner.mode.packing == ("off" if config.optimizer.packing == "off" else "sequences")
    mine = sum(local(parameter).numel() for parameter in learner.policy.model.parameters())
    assert sum(workers.gather(mine)) == sum(p.numel() for p in learner.full_copy.parameters())
    assert restore_learner(learner, Path(config.output), config).step == 1
    train_step(learner, 1)
    found = {name: full_copy(p.detach()) for name, p in learner.policy.model.named_parameters()}
    for name, parameter in learner.full_copy.named_parameters():
        assert torch.equal(parameter, found[name])
    return found


def sharded_worker(workers: Workers, configs) -> list[dict[str, torch.Tensor]]:
    return [sharded_and_back(workers, config) for config in configs]


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_read_by_two(tmp_path):
    """Also with activations computed again in the backward pass, and padded: neither changes anything."""
    singles, configs = [], []
    for trunk in ("shared", "separate"):
        config = config_of(tmp_path / trunk, "ppo", critic=CriticConfig(trunk=trunk))
        config = replace(config, output=str(tmp_path / trunk / "one"))
        train(replace(config, steps=1))
        single = build_learner(config, Workers())
        assert restore_learner(single, Path(config.output), config).step == 1
        train_step(single, 1)
        singles.append(single)
        packing = "off" if trunk == "shared" else "auto"
        optimizer = replace(config.optimizer, gradient_checkpointing=True, packing=packing)
        configs.append(replace(config, scale=ScaleConfig(fsdp="on"), optimizer=optimizer))
    with start_workers(2, sharded_worker, configs) as workers:
        sharded = sharded_worker(workers, configs)
    for single, values in zip(singles, sharded, strict=True):
        for name, parameter in single.policy.model.named_parameters():
            torch.testing.assert_close(values[name], parameter, rtol=1e-3, atol=1e-4)


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
