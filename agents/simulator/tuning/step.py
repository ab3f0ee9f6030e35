"""One optimizer step of `zerosearch simulator train`, and the held-out loss.

    examples -> rows of the step -> a share per process -> micro-batches -> loss / trained tokens of the whole step

All randomness is a function of (seed, step). Gradients are sums over tokens, divided by the number of trained tokens of
the whole step over all processes. They therefore do not depend on the number of micro-batches or processes, up to
rounding.

With several processes (torchrun), each holds the whole model, and gradients are summed once per step. This is data
parallelism as in DDP, but written by hand: DDP averages over processes, which is wrong if their token counts differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.errors import TrainingError
from zerosearch_env.randomness import mix, mix_array

from ...config.tune import TuneConfig
from ...forward.batch import deal, pack, plan_micro_batches
from ...processes.workers import Workers
from .batch import Example, loss_sum

_BUCKET = 1 << 24
"""Maximum number of gradient elements per all-reduce."""


@dataclass(frozen=True)
class Tuner:
    """State of a tuning run. The model and the optimizer are updated in place."""

    config: TuneConfig
    workers: Workers
    model: Any
    """The language model; with LoRA it contains the adapters."""
    adapted: Any
    """peft's wrapper around the model, or None."""
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    train: Sequence[Example]
    held_out: Sequence[Example]
    steps: int
    """Number of steps in the whole run."""
    packed: bool
    device: str

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained parameters by name; shared ones appear once."""
        return {name: p.data for name, p in self.model.named_parameters() if p.requires_grad}


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
    config, began = tuner.config, time.perf_counter()
    rows = [tuner.train[i] for i in step_rows(len(tuner.train), config.batch_size, config.seed, step)]
    trained = sum(example.trained for example in rows)
    mine = [rows[i] for i in deal([len(example.ids) for example in rows], tuner.workers.size)[tuner.workers.rank]]
    tuner.model.train()
    tuner.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=tuner.device)
    # Some models use dropout; its draws are also a function of seed and step.
    with torch.random.fork_rng(devices=[tuner.device] if tuner.device != "cpu" else []):
        torch.manual_seed(mix(config.seed, step, tuner.workers.rank) >> 1)
        for group in micro_batches(mine, config.micro_batch_tokens, packed=tuner.packed):
            with _autocast(tuner):
                loss = loss_sum(tuner.model, group, packed=tuner.packed, device=tuner.device) / trained
            loss.backward()
            total += loss.detach()
    tuner.workers.add(total)
    parameters = [p for p in tuner.model.parameters() if p.requires_grad]
    add_gradients(tuner.workers, parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
    loss_value = float(total)
    if not math.isfinite(loss_value) or not math.isfinite(norm):
        raise TrainingError(
            f"step {step + 1}: loss {loss_value}, gradient norm {norm}: lower the learning rate "
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
    """Group examples into at most `max_tokens` tokens, padding included; a longer example forms its own group."""
    lengths = [len(example.ids) for example in examples]
    groups = pack(lengths, max_tokens) if packed else plan_micro_batches(lengths, max_tokens)
    return [[examples[i] for i in group] for group in groups]


def add_gradients(workers: Workers, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes; a process without rows contributes zeros."""
    if workers.size == 1:
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
        workers.add(flat)
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def held_out_loss(tuner: Tuner) -> dict[str, float]:
    """Mean cross-entropy per trained token of held-out pairs, in nats; also for useful and noisy pairs separately."""
    tuner.model.eval()
    kinds = {"useful": False, "noisy": True}
    sums = torch.zeros(len(kinds), 2, dtype=torch.float64)
    lengths = [len(example.ids) for example in tuner.held_out]
    mine = [tuner.held_out[i] for i in deal(lengths, tuner.workers.size)[tuner.workers.rank]]
    for row, noisy in enumerate(kinds.values()):
        chosen = [example for example in mine if example.noisy is noisy]
        for group in micro_batches(chosen, tuner.config.micro_batch_tokens, packed=tuner.packed):
            with _autocast(tuner):
                sums[row, 0] += float(loss_sum(tuner.model, group, packed=tuner.packed, device=tuner.device))
            sums[row, 1] += sum(example.trained for example in group)
    tuner.workers.add(sums)
    found = {f"held_out_{kind}": float(nats / n) for kind, (nats, n) in zip(kinds, sums, strict=True) if n}
    return {"held_out": float(sums[:, 0].sum() / sums[:, 1].sum()), **found} if found else {}


def make_optimizer(model: Any, config: TuneConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, without weight decay for norms and biases."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.peak, betas=(0.9, 0.98))


def _autocast(tuner: Tuner) -> torch.autocast:
    kind = tuner.device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=tuner.config.dtype == "bfloat16")
