"""The run of `zerosearch simulator train`: load, restore, train, save.

    pairs -> rows -> Tuner -> `step.tune_step` in a loop -> checkpoints/ -> model/

All randomness is a function of (seed, step), so a checkpoint only needs weights, optimizer state and step, and a run
resumed on a CPU is bit-identical to one that was not interrupted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from zerosearch_env.engines.simulated.card import SimulatorCard
from zerosearch_env.errors import CheckpointError, DataError
from zerosearch_env.llm.local.devices import check_device
from zerosearch_env.locks import locked
from zerosearch_env.progress import ProgressBar
from zerosearch_env.randomness import mix_array

from ...config.tune import TuneConfig
from ...forward.activations import checkpoint_activations
from ...forward.attention import use_block_attention
from ...policy.lora import add_lora
from ...policy.policy import load_policy, quiet_transformers
from ...processes.workers import Workers, local_device, torchrun_workers
from ...runs.checkpoint import RunState, load_latest, save_checkpoint, weights_hash
from ...runs.metrics import MetricsLog
from ...sft.loss import check_loss
from ...sft.rows import Row
from ...sft.step import RowPass, adamw
from ...training.trainer import interrupt_flag
from ..pairs.pair import Pair, read_pairs
from .encode import encode
from .manifest import prepare_output, settings_of, write_run_manifest
from .model import new_tiny, save_simulator
from .step import Tuner, held_out_loss, tune_step


def tune(config: TuneConfig, *, command: str = "") -> dict[str, Any]:
    """The whole run; see `train.run_train`."""
    began = time.perf_counter()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(interrupt_flag())
        workers = stack.enter_context(torchrun_workers(device))
        device = check_device(local_device(device))
        settings = settings_of(config)
        if workers.rank == 0:
            stack.enter_context(locked(config.output))
            prepare_output(config, settings, command=command)
        workers.agree(0)
        tuner, counts = build_tuner(config, workers, device)
        state = restore(tuner)
        log = None
        if workers.rank == 0:
            log = MetricsLog(config.output / "metrics.jsonl", keep=state.metrics_bytes)
        with contextlib.closing(log) if log is not None else contextlib.nullcontext():
            stopped, figures = _loop(tuner, state, log, interrupted, began)
        if workers.rank == 0 and stopped == "finished":
            base = str(config.model or f"{config.init}, from scratch")
            _save(tuner, SimulatorCard(tuner.prompt_id, counts["max_documents"], base, settings["input"]))
        result = {**counts, **figures, "stopped": stopped}
        if workers.rank == 0:
            write_run_manifest(config, settings, command=command, counts=result, complete=stopped == "finished")
        workers.agree(0)  # all processes wait until the model is written
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

    bar = ProgressBar("steps", tuner.steps, done=step) if log is not None else None
    with bar or contextlib.nullcontext():
        while True:
            cause = 0
            if step >= tuner.steps:
                cause = 1
            elif interrupted.is_set():
                cause = 3
            elif config.max_seconds is not None and time.perf_counter() - loaded >= config.max_seconds:
                cause = 2
            stopped = _CAUSES[tuner.row_pass.workers.agree(cause)]
            if stopped is not None:
                break
            metrics = tune_step(tuner, step)
            step += 1
            if any(tuner.held_out.values()) and (step % config.eval_every == 0 or step == tuner.steps):
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


def build_tuner(config: TuneConfig, workers: Workers, device: str) -> tuple[Tuner, dict[str, Any]]:
    """Load model and pairs, encode the pairs, and check the loss; also returns counts.

    Raises:
        DataError: there is no training pair, the pairs mix several prompts, or all of them are too long.
    """
    pairs = read_pairs(config.input, on_bad_row=config.on_bad_row)
    train = [pair for pair in pairs if pair.split == "train"]
    held_out = [pair for pair in pairs if pair.split == "test"]
    if not train:
        raise DataError(f"{config.input} has no pair with split 'train'")
    if len(ids := sorted({pair.prompt_id for pair in pairs})) > 1:
        raise DataError(f"{config.input} mixes the prompts {', '.join(ids)}: a simulator is tuned with one")
    model: Any
    adapted = None
    if config.model is None:
        model, tokenizer = new_tiny(config.tiny, train, seed=config.seed)
        model.to(device)
    else:
        # Only frozen weights may be bfloat16: updates of 1e-6 to trained ones would be lost in rounding.
        frozen = config.dtype if config.lora.rank else "float32"
        base = load_policy(config.model, dtype=frozen, device=device)
        model, tokenizer = base.model, base.tokenizer
    packed = config.packing == "on" or (config.packing == "auto" and device != "cpu")
    if not packed and device == "cpu":
        use_block_attention(model)
    if config.lora.rank:
        adapted = add_lora(model, config.lora, seed=config.seed)
    rows = _encode(train, tokenizer, config.max_tokens)
    order = mix_array(config.seed, np.arange(len(held_out), dtype=np.uint64)).argsort(kind="stable")
    tests = [held_out[i] for i in order[: config.eval_pairs]]
    kinds = {"useful": False, "noisy": True}
    test_rows = {
        kind: _encode([pair for pair in tests if pair.noisy is noisy], tokenizer, config.max_tokens)
        for kind, noisy in kinds.items()
    }
    if not rows:
        raise DataError(f"every pair of {config.input} has more than {config.max_tokens} tokens (--max-tokens)")
    with quiet_transformers():
        check_loss(model.eval(), sorted(rows, key=lambda row: len(row.ids))[:3], packed=packed, device=device)
    if config.gradient_checkpointing:
        checkpoint_activations(model, True)
    tuner = Tuner(
        config=config,
        model=model,
        adapted=adapted,
        tokenizer=tokenizer,
        prompt_id=ids[0],
        optimizer=adamw(model, config.peak, config.weight_decay),
        train=rows,
        held_out=test_rows,
        steps=config.steps(len(rows)),
        row_pass=RowPass(config.micro_batch_tokens, config.dtype == "bfloat16", packed, device, workers),
    )
    counts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_pairs": len(rows),
        "held_out_pairs": sum(map(len, test_rows.values())),
        "too_long": len(train) - len(rows),
        "max_documents": max(len(pair.documents) for pair in train),
    }
    return tuner, counts


def restore(tuner: Tuner) -> RunState:
    """Load the newest valid checkpoint into the model and the optimizer; without checkpoints, start at step 0.

    Raises:
        CheckpointError: no checkpoint is valid, or it does not fit the model.
    """
    checkpoint = load_latest(tuner.config.output / "checkpoints")
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


def _encode(pairs: Sequence[Pair], tokenizer: Any, max_tokens: int) -> list[Row]:
    with quiet_transformers():  # hides the warning about too long inputs; `build_tuner` counts such pairs
        return [row for pair in pairs if (row := encode(pair, tokenizer, max_tokens)) is not None]


def _save(tuner: Tuner, card: SimulatorCard) -> None:
    model = tuner.model
    model.zero_grad(set_to_none=True)
    if tuner.config.gradient_checkpointing:
        checkpoint_activations(model, False)
    if tuner.adapted is not None:
        model = tuner.adapted.merge_and_unload()
    model.set_attn_implementation("sdpa")
    save_simulator(model, tuner.tokenizer, card, tuner.config.output / "model", dtype=tuner.config.dtype)
