"""The loop of `zerosearch simulator train`: one `tune_step` on one screen, and what surrounds it.

    pairs -> examples -> the step's rows -> a share for each process -> micro-batches -> loss / tokens of the whole step

Everything that is random is a function of (seed, step), so a checkpoint needs weights, optimizer and step alone, and
a resumed run on a CPU has the same bits. Gradients are sums over tokens, divided by the number of trained tokens of
the whole step over all processes: neither micro-batches nor processes change them (up to rounding).

Several processes (torchrun) hold the whole model each and add their gradients up once a step. That is data
parallelism as of DDP, by hand: DDP would average over processes, which is wrong where these have unlike many tokens.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from zerosearch_env.errors import CheckpointError, ConfigError, DataError, TrainingError
from zerosearch_env.randomness import mix, mix_array

from .attention import use_block_attention
from .batch import deal, plan_micro_batches
from .checkpoint import RunState, fingerprint, load_latest, save_checkpoint
from .metrics import MetricsLog
from .model import quiet_transformers
from .simulator_batch import Example, check_loss, encode, loss_sum, pack
from .simulator_model import SimulatorCard, add_lora, load_base, new_tiny, save_simulator
from .simulator_pairs import Pair, read_pairs
from .simulator_progress import CountBar
from .simulator_train import TuneConfig, prepare_output, settings_of, write_manifest
from .team import Team
from .trainer import interrupt_flag

_BUCKET = 1 << 24
"""Numbers of the gradient that travel together."""


@dataclass(frozen=True)
class Tuner:
    """Everything that a step needs. The model and the optimizer change in place."""

    config: TuneConfig
    team: Team
    model: Any
    """The language model; with LoRA the adapters sit inside it."""
    adapted: Any
    """peft's wrapper around it, or None."""
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    train: Sequence[Example]
    held_out: Sequence[Example]
    steps: int
    """Steps of the whole run."""
    packed: bool
    device: str

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained parameters by name, shared ones once."""
        return {name: p.data for name, p in self.model.named_parameters() if p.requires_grad}


def step_rows(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of a 0-based step's rows: every epoch has a seeded order of its own, and batches run across epochs."""
    rows = []
    orders: dict[int, list[int]] = {}
    for place in range(step * batch_size, (step + 1) * batch_size):
        epoch, position = divmod(place, count)
        if epoch not in orders:
            keys = mix_array(mix(seed, epoch), np.arange(count, dtype=np.uint64))
            orders[epoch] = np.argsort(keys, kind="stable").tolist()
        rows.append(orders[epoch][position])
    return rows


def tune_step(tuner: Tuner, step: int) -> dict[str, float]:
    """One optimizer step; returns its metrics.

    Raises:
        TrainingError: the loss or the gradient is not finite.
    """
    config, began = tuner.config, time.perf_counter()
    rows = [tuner.train[i] for i in step_rows(len(tuner.train), config.batch_size, config.seed, step)]
    trained = sum(example.trained for example in rows)
    mine = [rows[i] for i in deal([len(example.ids) for example in rows], tuner.team.size)[tuner.team.rank]]
    tuner.model.train()
    tuner.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=tuner.device)
    # Some models have dropout: its draws too are a function of seed and step.
    with torch.random.fork_rng(devices=[tuner.device] if tuner.device != "cpu" else []):
        torch.manual_seed(mix(config.seed, step, tuner.team.rank) >> 1)
        for group in micro_batches(mine, config.micro_batch_tokens, packed=tuner.packed):
            with _autocast(tuner):
                loss = loss_sum(tuner.model, group, packed=tuner.packed, device=tuner.device) / trained
            loss.backward()
            total += loss.detach()
    tuner.team.add(total)
    parameters = [p for p in tuner.model.parameters() if p.requires_grad]
    add_gradients(tuner.team, parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
    loss_value = float(total)
    if not math.isfinite(loss_value) or not math.isfinite(norm):
        raise TrainingError(
            f"step {step + 1}: loss {loss_value}, norm of the gradient {norm}: lower the learning rate "
            f"({config.peak:g}) and start again from the last checkpoint"
        )
    rate = config.rate(step, tuner.steps)
    for parameter_group in tuner.optimizer.param_groups:
        parameter_group["lr"] = rate
    tuner.optimizer.step()
    seconds = time.perf_counter() - began
    tokens = sum(len(example.ids) for example in rows)
    return {
        "loss": loss_value,
        "gradient_norm": norm,
        "learning_rate": rate,
        "trained_tokens": float(trained),
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
    }


def micro_batches(examples: Sequence[Example], max_tokens: int, *, packed: bool) -> list[list[Example]]:
    """Examples grouped so that a group, padding included, has at most `max_tokens` tokens (a longer one goes alone)."""
    lengths = [len(example.ids) for example in examples]
    groups = pack(lengths, max_tokens) if packed else plan_micro_batches(lengths, max_tokens)
    return [[examples[i] for i in group] for group in groups]


def add_gradients(team: Team, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes; a process without rows adds nothing."""
    if team.size == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    while gradients:
        bucket = [gradients.pop(0)]
        while gradients and sum(map(Tensor.numel, bucket)) + gradients[0].numel() <= _BUCKET:
            bucket.append(gradients.pop(0))
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        team.add(flat)
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def held_out_loss(tuner: Tuner) -> dict[str, float]:
    """Mean cross-entropy a trained token of held-out pairs, in nats; also for useful and for noisy ones alone."""
    tuner.model.eval()
    kinds = {"useful": False, "noisy": True}
    sums = torch.zeros(len(kinds), 2, dtype=torch.float64)
    lengths = [len(example.ids) for example in tuner.held_out]
    mine = [tuner.held_out[i] for i in deal(lengths, tuner.team.size)[tuner.team.rank]]
    for row, noisy in enumerate(kinds.values()):
        chosen = [example for example in mine if example.noisy is noisy]
        for group in micro_batches(chosen, tuner.config.micro_batch_tokens, packed=tuner.packed):
            with _autocast(tuner):
                sums[row, 0] += float(loss_sum(tuner.model, group, packed=tuner.packed, device=tuner.device))
            sums[row, 1] += sum(example.trained for example in group)
    tuner.team.add(sums)
    found = {f"held_out_{kind}": float(nats / n) for kind, (nats, n) in zip(kinds, sums, strict=True) if n}
    return {"held_out": float(sums[:, 0].sum() / sums[:, 1].sum()), **found} if found else {}


def tune(config: TuneConfig, *, command: str = "") -> dict[str, Any]:
    """The whole run; see `simulator_train.run_train`."""
    began = time.perf_counter()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    with interrupt_flag() as interrupted, torchrun_team(device) as team:
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        settings = settings_of(config)
        if team.rank == 0:
            prepare_output(config, settings, command=command)
        team.agree(0)
        tuner, counts = build_tuner(config, team, device)
        state = restore(tuner)
        log = None
        if team.rank == 0:
            log = MetricsLog(config.output / "metrics.jsonl", keep=state.metrics_bytes, step=state.step)
        with contextlib.closing(log) if log is not None else contextlib.nullcontext():
            stopped, figures = _loop(tuner, state, log, interrupted, began)
        if team.rank == 0 and stopped == "finished":
            _save(tuner, counts["max_documents"], settings)
        result = {**counts, **figures, "stopped": stopped}
        if team.rank == 0:
            write_manifest(config, settings, command=command, counts=result, complete=stopped == "finished")
        team.agree(0)  # nobody leaves while the model is being written
    if stopped == "finished":
        return {**result, "model": str(config.output / "model")}
    return {**result, "resume": "the same command again"}


_CAUSES = (None, "finished", "time", "interrupt")


def _loop(
    tuner: Tuner, state: RunState, log: MetricsLog | None, interrupted: threading.Event, began: float
) -> tuple[str, dict[str, Any]]:
    config, step, saved = tuner.config, state.step, state.step
    loaded = time.perf_counter()
    figures: dict[str, Any] = {}

    def save() -> None:
        nonlocal saved
        if log is not None and saved != step:
            seconds = state.seconds + time.perf_counter() - began
            now = replace(state, step=step, metrics_bytes=log.sync(), seconds=seconds)
            folder = config.output / "checkpoints"
            save_checkpoint(folder, now, tuner.weights, tuner.optimizer.state_dict(), keep=config.keep_checkpoints)
        saved = step

    bar = CountBar("steps", tuner.steps, done=step) if log is not None else None
    with bar or contextlib.nullcontext():
        while True:
            cause = 0
            if step >= tuner.steps:
                cause = 1
            elif interrupted.is_set():
                cause = 3
            elif config.max_seconds is not None and time.perf_counter() - loaded >= config.max_seconds:
                cause = 2
            stopped = _CAUSES[tuner.team.agree(cause)]
            if stopped is not None:
                break
            metrics = tune_step(tuner, step)
            step += 1
            if tuner.held_out and (step % config.eval_every == 0 or step == tuner.steps):
                metrics |= held_out_loss(tuner)
            figures |= {k: round(metrics[k], 4) for k in ("loss", "held_out") if k in metrics}
            if log is not None and bar is not None:
                log.write(step, metrics)
                bar.advance("  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
            if step % config.checkpoint_every == 0:
                save()
        save()
    seconds = state.seconds + time.perf_counter() - began
    return stopped, {"steps": step, **figures, "seconds": round(seconds, 1)}


def build_tuner(config: TuneConfig, team: Team, device: str) -> tuple[Tuner, dict[str, Any]]:
    """Loads model and pairs, encodes them, checks the loss; and what was counted on the way.

    Raises:
        DataError: no training pair, pairs of several prompts, or all of them are too long.
    """
    pairs = read_pairs(config.input, on_bad_row=config.on_bad_row)
    train = [pair for pair in pairs if pair.split == "train"]
    held_out = [pair for pair in pairs if pair.split == "test"]
    if not train:
        raise DataError(f"{config.input} has no pair with split 'train'")
    if len(ids := sorted({pair.prompt_id for pair in pairs})) > 1:
        raise DataError(f"{config.input} mixes the prompts {', '.join(ids)}: a simulator is tuned with one")
    adapted = None
    if config.model is None:
        model, tokenizer = new_tiny(config.tiny, train, seed=config.seed)
        model.to(device)
    else:
        # Frozen weights may be short; trained ones may not: a step of 1e-6 is lost in the rounding of bfloat16.
        frozen = config.dtype if config.lora.rank else "float32"
        model, tokenizer = load_base(config.model, dtype=frozen, device=device)
    packed = config.packing == "on" or (config.packing == "auto" and device != "cpu")
    if not packed and device == "cpu":
        use_block_attention(model)
    if config.lora.rank:
        adapted = add_lora(model, config.lora, seed=config.seed)
    examples = _encode(train, tokenizer, config.max_tokens)
    order = mix_array(config.seed, np.arange(len(held_out), dtype=np.uint64)).argsort(kind="stable")
    tests = _encode([held_out[i] for i in order[: config.eval_pairs]], tokenizer, config.max_tokens)
    if not examples:
        raise DataError(f"every pair of {config.input} has more than {config.max_tokens} tokens (--max-tokens)")
    with _silent():
        check_loss(model.eval(), sorted(examples, key=lambda e: len(e.ids))[:3], packed=packed, device=device)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = make_optimizer(model, config)
    tuner = Tuner(
        config,
        team,
        model,
        adapted,
        tokenizer,
        optimizer,
        examples,
        tests,
        config.steps(len(examples)),
        packed,
        device,
    )
    counts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_pairs": len(examples),
        "held_out_pairs": len(tests),
        "too_long": len(train) - len(examples),
        "max_documents": max(len(pair.documents) for pair in train),
    }
    return tuner, counts


def make_optimizer(model: Any, config: TuneConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; norms and biases have no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.peak, betas=(0.9, 0.98))


def restore(tuner: Tuner) -> RunState:
    """Puts the newest valid checkpoint into the model and the optimizer; a run without any is at its start.

    Raises:
        CheckpointError: no checkpoint is valid, or it does not fit the model.
    """
    found = load_latest(tuner.config.output / "checkpoints")
    weights = tuner.weights
    if found is None:
        return RunState(0, 0, 0, fingerprint(weights), 0.0)
    path, state, saved, optimizer = found
    if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in weights.items()}:
        raise CheckpointError(f"{path} belongs to another model than this run's")
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(saved[name])
    tuner.optimizer.load_state_dict(optimizer)
    return state


@contextlib.contextmanager
def torchrun_team(device: str) -> Iterator[Team]:
    """This process among those that torchrun started; alone without it.

    Raises:
        ConfigError: torchrun started more processes than there are GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    backend = "gloo"
    if device.startswith("cuda"):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU of its own: {torch.cuda.device_count()} here"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    try:
        yield Team(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def _encode(pairs: Sequence[Pair], tokenizer: Any, max_tokens: int) -> list[Example]:
    with _silent():  # "longer than the maximum length of this model": such pairs are counted instead
        found = [encode(pair, tokenizer, max_tokens) for pair in pairs]
    return [example for example in found if example is not None]


def _save(tuner: Tuner, max_documents: int, settings: dict[str, Any]) -> Path:
    model = tuner.model
    model.zero_grad(set_to_none=True)
    if tuner.config.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    if tuner.adapted is not None:
        model = tuner.adapted.merge_and_unload()
    model.set_attn_implementation("sdpa")
    base = str(tuner.config.model or f"{tuner.config.init}, from scratch")
    prompt_id = read_pairs(tuner.config.input, on_bad_row=tuner.config.on_bad_row)[0].prompt_id
    card = SimulatorCard(prompt_id, max_documents, settings["input"], base)
    return save_simulator(model, tuner.tokenizer, card, tuner.config.output / "model", dtype=tuner.config.dtype)


def _silent() -> contextlib.AbstractContextManager[None]:
    return quiet_transformers()


def _autocast(tuner: Tuner) -> torch.autocast:
    kind = tuner.device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=tuner.config.dtype == "bfloat16")
