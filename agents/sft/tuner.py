"""One loop for every fine-tuning run: load, restore, train, save.

    Run.load -> Task: model and rows -> Tuner -> `tune_step` in a loop -> checkpoints/ -> Task.save

`zerosearch sft` and `zerosearch simulator train` are two kinds of `Run`. All randomness is a function of (seed, step),
so a checkpoint only needs weights, optimizer state and step, and a run resumed on a CPU is bit-identical to one that
was not interrupted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.errors import CheckpointError
from zerosearch_env.llm.local.devices import check_device, default_device
from zerosearch_env.locks import locked
from zerosearch_env.progress import ProgressBar
from zerosearch_env.randomness import mix, mix_array

from ..config.sft import SftOptions
from ..config.train import OptimizerConfig, TrainConfig
from ..forward.activations import checkpoint_activations
from ..forward.mode import prepare_model
from ..policy.lora import add_lora
from ..policy.policy import quiet_transformers
from ..processes.workers import Workers, join_workers, launch_rank, local_device
from ..runs.checkpoint import RunState, load_latest, save_checkpoint, weights_hash
from ..runs.metrics import MetricsLog, read_metrics
from ..training.trainer import interrupt_flag
from .loss import check_loss
from .manifest import CHECKPOINTS, METRICS, prepare_output, run_settings, write_run_manifest
from .rows import Row
from .step import RowPass, adamw, sft_step

_CPU_TOKENS, _GPU_TOKENS = 1024, 8192
"""Maximum tokens per forward pass; on a CPU more are not faster."""
Options = TypeVar("Options", bound=SftOptions)


@dataclass(frozen=True)
class Task:
    """What a run tunes, and on what."""

    model: Any
    """The model on its device, in evaluation mode, in `SftOptions.loading_dtype`; its weights are updated in place."""
    rows: Sequence[Row]
    """The training rows."""
    held_out: Mapping[str, Sequence[Row]]
    """The held-out rows by kind; kinds may be empty."""
    counts: Mapping[str, Any]
    """Figures for the manifest and the end of the run."""
    save: Callable[[Any], object]
    """Writes the tuned model, with adapters merged, as the result of the run."""


@dataclass(frozen=True)
class Run(Generic[Options]):
    """A kind of fine-tuning run."""

    stage: str
    """Its name in the manifest."""
    result: str
    """The folder of the tuned model in the run directory."""
    load: Callable[[Options, str], Task]
    """Loads model and rows for the options and a device. An importable function, because every worker calls it."""


@dataclass(frozen=True)
class Tuner:
    """State of a run. The model and the optimizer are updated in place."""

    options: SftOptions
    model: Any
    """The language model; with LoRA it contains the adapters."""
    adapted: Any
    """peft's wrapper around the model, or None."""
    optimizer: torch.optim.Optimizer
    train: Sequence[Row]
    held_out: Mapping[str, Sequence[Row]]
    """The held-out rows by kind."""
    steps: int
    """Number of steps in the whole run."""
    row_pass: RowPass
    """How rows go through the model, and the processes of the run."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained parameters by name; shared ones appear once."""
        return {name: p.data for name, p in self.model.named_parameters() if p.requires_grad}


def tune(
    run: Run[Options],
    options: Options,
    *,
    files: Sequence[Path],
    model: Path | None,
    default_workers: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """Tune a model; continues where an earlier run with the same options stopped.

    Ctrl-C once ends the run after the current step and saves everything; twice ends it immediately.

    Args:
        run: the kind of run.
        options: its options.
        files: its input files.
        model: the directory of the model that it starts from; None: it makes a new one.
        default_workers: number of processes if the options do not say it.
        command: the command line, stored in the manifest.

    Returns:
        Final figures: counts, steps, held-out loss, seconds, and why the run stopped.

    Raises:
        ConfigError: an option is invalid, or the output holds a run with other options.
        DataError: the input cannot be used.
        CheckpointError: the model or a checkpoint cannot be loaded or written.
        TrainingError: the loss is not finite.
        MissingExtraError: peft is not installed, and there are adapters.
    """
    began = time.perf_counter()
    device = check_device(default_device() if options.device == "auto" else options.device)
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(interrupt_flag())
        settings: dict[str, Any] = {}
        if launch_rank() == 0:  # the other processes wait for this when they join
            settings = run_settings(options, files, model)
            stack.enter_context(locked(options.output))
            prepare_output(options, run.result, settings)

        def write(counts: Mapping[str, Any], *, complete: bool) -> None:
            write_run_manifest(options, run.stage, files, settings, command=command, counts=counts, complete=complete)

        workers = stack.enter_context(join_workers(options.workers, default_workers, device, _work, run, options))
        return _tune(run, options, workers, interrupted, began, write if workers.rank == 0 else None)


def _work(workers: Workers, run: Run[Options], options: Options) -> None:
    """Main function of the workers started by `join_workers`: the same steps; worker 0 writes the files."""
    _tune(run, options, workers, threading.Event(), time.perf_counter(), None)


_CAUSES = (None, "finished", "time", "interrupt")


def _tune(
    run: Run[Options],
    options: Options,
    workers: Workers,
    interrupted: threading.Event,
    began: float,
    write_manifest: Callable[..., None] | None,
) -> dict[str, Any]:
    device = local_device(default_device() if options.device == "auto" else options.device)
    task = run.load(options, device)
    tuner = build_tuner(task, options, workers, device)
    counts = {**_parameters(tuner.model), **task.counts}
    state = restore(tuner)
    if write_manifest is None:
        stopped, figures = _loop(tuner, state, None, interrupted, began)
        return {**counts, **figures, "stopped": stopped}
    write_manifest({}, complete=False)
    with contextlib.closing(MetricsLog(options.output / METRICS, keep=state.metrics_bytes)) as log:
        stopped, figures = _loop(tuner, state, log, interrupted, began)
    result = {**counts, **figures, "stopped": stopped}
    if stopped == "finished":
        task.save(finished_model(tuner))
    write_manifest(result, complete=stopped == "finished")
    return result


def _shown(metrics: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of a step that a user sees."""
    return {name: round(metrics[name], 4) for name in ("loss", "held_out") if name in metrics}


def _recorded(path: Path) -> dict[str, Any]:
    """The newest of these metrics in the file of a run."""
    return {name: value for metrics in read_metrics(path) for name, value in _shown(metrics).items()}


def _parameters(model: Any) -> dict[str, int]:
    """Number of parameters, all and trained ones."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _loop(
    tuner: Tuner, state: RunState, log: MetricsLog | None, interrupted: threading.Event, began: float
) -> tuple[str, dict[str, Any]]:
    options, step, saved = tuner.options, state.step, state.step
    loaded = time.perf_counter()
    tokens = 0.0
    figures = {} if log is None else _recorded(options.output / METRICS)

    def save() -> None:
        nonlocal saved
        if log is not None and saved != step:
            seconds = state.seconds + time.perf_counter() - began
            now = replace(state, step=step, metrics_bytes=log.sync(), seconds=seconds)
            folder = options.output / CHECKPOINTS
            save_checkpoint(folder, now, tuner.weights, tuner.optimizer.state_dict(), keep=options.keep_checkpoints)
        saved = step

    bar = ProgressBar("steps", tuner.steps, done=step, every_s=30.0) if log is not None else None
    with bar or contextlib.nullcontext():
        while True:
            cause = 0
            if step >= tuner.steps:
                cause = 1
            elif interrupted.is_set():
                cause = 3
            elif options.max_seconds is not None and time.perf_counter() - loaded >= options.max_seconds:
                cause = 2
            stopped = _CAUSES[tuner.row_pass.workers.agree(cause)]
            if stopped is not None:
                break
            metrics = tune_step(tuner, step)
            step += 1
            tokens += metrics["tokens"]
            if any(tuner.held_out.values()) and (step % options.eval_every == 0 or step == tuner.steps):
                metrics |= held_out_loss(tuner)
            figures |= _shown(metrics)
            if log is not None and bar is not None:
                log.write(step, metrics)
                shown = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items()]
                bar.advance("  ".join([*shown, f"{tokens / (time.perf_counter() - loaded):,.0f} tokens/s"]))
            if step % options.checkpoint_every == 0:
                save()
        save()
    seconds = state.seconds + time.perf_counter() - began
    return stopped, {"steps": step, **figures, "seconds": round(seconds, 1)}


def build_tuner(task: Task, options: SftOptions, workers: Workers, device: str) -> Tuner:
    """Set up a model for the run, and check its loss.

    Raises:
        ConfigError: the model does not fit `packing`, or its loss cannot be computed here.
        MissingExtraError: there are adapters, and peft is not installed.
    """
    model: Any = task.model
    settings = OptimizerConfig(
        packing=options.packing, dtype=options.dtype, gradient_checkpointing=options.gradient_checkpointing
    )
    longest = max(len(row.ids) for row in task.rows)
    mode = prepare_model(model.eval(), TrainConfig(optimizer=settings), longest)
    adapted = add_lora(model, options.lora, seed=options.seed) if options.lora.rank else None
    with quiet_transformers():
        check_loss(model.eval(), sorted(task.rows, key=lambda row: len(row.ids))[:3], mode, device=device)
    return Tuner(
        options=options,
        model=model,
        adapted=adapted,
        optimizer=adamw(model, options.peak, options.weight_decay, fused=True),
        train=task.rows,
        held_out=task.held_out,
        steps=options.steps(len(task.rows)),
        row_pass=RowPass(
            options.micro_batch_tokens or (_CPU_TOKENS if device == "cpu" else _GPU_TOKENS), mode, device, workers
        ),
    )


def restore(tuner: Tuner) -> RunState:
    """Load the newest valid checkpoint into the model and the optimizer; without checkpoints, start at step 0.

    Raises:
        CheckpointError: no checkpoint is valid, or it does not fit the model.
    """
    checkpoint = load_latest(tuner.options.output / CHECKPOINTS)
    weights = tuner.weights
    if checkpoint is None:
        return RunState(0, 0, 0, weights_hash(weights), 0.0)
    path, state, saved, optimizer = checkpoint
    if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in weights.items()}:
        raise CheckpointError(f"{path} belongs to another model than this run's")
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(saved[name])
    tuner.optimizer.load_state_dict(optimizer)
    return state


def finished_model(tuner: Tuner) -> Any:
    """The tuned model: adapters merged, without gradients and the settings of the run."""
    model = tuner.model
    model.zero_grad(set_to_none=True)
    if tuner.row_pass.mode.checkpointing and tuner.row_pass.mode.packing != "sequences":
        checkpoint_activations(model, False)
    if tuner.adapted is not None:
        model = tuner.adapted.merge_and_unload()
    model.set_attn_implementation("sdpa")
    return model


def step_rows(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the rows of a 0-based step. Each epoch has its own seeded order, and a batch may span two epochs."""
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
    options, began = tuner.options, time.perf_counter()
    rows = [tuner.train[i] for i in step_rows(len(tuner.train), options.batch_size, options.seed, step)]
    rate = options.rate(step, tuner.steps)
    device, workers = tuner.row_pass.device, tuner.row_pass.workers
    tuner.model.train()
    # Some models use dropout; its draws are also a function of seed and step.
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(mix(options.seed, step, workers.rank) >> 1)
        loss, norm = sft_step(
            tuner.model,
            tuner.optimizer,
            rows,
            tuner.row_pass,
            rate=rate,
            where=f"step {step + 1}",
            max_norm=options.max_grad_norm,
        )
    seconds, tokens = time.perf_counter() - began, sum(len(row.ids) for row in rows)
    return {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": rate,
        "tokens": float(tokens),
        "trained_tokens": float(sum(row.targets for row in rows)),
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
    }


@torch.no_grad()
def held_out_loss(tuner: Tuner) -> dict[str, float]:
    """Mean cross-entropy per trained token of the held-out rows, in nats; also of each kind, if there are several."""
    tuner.model.eval()
    sums = torch.zeros(len(tuner.held_out), 2, dtype=torch.float64)
    for kind, rows in enumerate(tuner.held_out.values()):
        for group in tuner.row_pass.passes(rows) if rows else []:
            sums[kind, 0] += float(tuner.row_pass.loss_sum(tuner.model, group))
            sums[kind, 1] += sum(row.targets for row in group)
    tuner.row_pass.workers.add(sums)
    means = {f"held_out_{kind}": float(nats / n) for kind, (nats, n) in zip(tuner.held_out, sums, strict=True) if n}
    if not means:
        return {}
    return {"held_out": float(sums[:, 0].sum() / sums[:, 1].sum()), **(means if len(tuner.held_out) > 1 else {})}
