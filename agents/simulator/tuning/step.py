"""One optimizer step of `zerosearch simulator train`, and the held-out loss.

All randomness is a function of (seed, step). The step itself is that of `sft/step.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.randomness import mix, mix_array

from ...config.tune import TuneConfig
from ...sft.rows import Row
from ...sft.step import RowPass, sft_step


@dataclass(frozen=True)
class Tuner:
    """State of a tuning run. The model and the optimizer are updated in place."""

    config: TuneConfig
    model: Any
    """The language model; with LoRA it contains the adapters."""
    adapted: Any
    """peft's wrapper around the model, or None."""
    tokenizer: Any
    prompt_id: str
    """Id of the prompt that all pairs have."""
    optimizer: torch.optim.Optimizer
    train: Sequence[Row]
    held_out: Mapping[str, Sequence[Row]]
    """The held-out rows by kind: "useful" and "noisy"."""
    steps: int
    """Number of steps in the whole run."""
    row_pass: RowPass
    """How rows go through the model, and the processes of the run."""

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
    rate = config.rate(step, tuner.steps)
    device, workers = tuner.row_pass.device, tuner.row_pass.workers
    tuner.model.train()
    # Some models use dropout; its draws are also a function of seed and step.
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(mix(config.seed, step, workers.rank) >> 1)
        loss, norm = sft_step(
            tuner.model,
            tuner.optimizer,
            rows,
            tuner.row_pass,
            rate=rate,
            where=f"step {step + 1}",
            max_norm=config.max_grad_norm,
        )
    seconds = time.perf_counter() - began
    return {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": rate,
        "trained_tokens": float(sum(row.targets for row in rows)),
        "tokens_per_second": sum(len(row.ids) for row in rows) / seconds,
        "seconds": seconds,
    }


@torch.no_grad()
def held_out_loss(tuner: Tuner) -> dict[str, float]:
    """Mean cross-entropy per trained token of held-out pairs, in nats; also for useful and noisy pairs separately."""
    tuner.model.eval()
    sums = torch.zeros(len(tuner.held_out), 2, dtype=torch.float64)
    for kind, rows in enumerate(tuner.held_out.values()):
        for group in tuner.row_pass.micro_batches(tuner.row_pass.share(rows)):
            sums[kind, 0] += float(tuner.row_pass.loss_sum(tuner.model, group))
            sums[kind, 1] += sum(row.targets for row in group)
    tuner.row_pass.workers.add(sums)
    means = {f"held_out_{kind}": float(nats / n) for kind, (nats, n) in zip(tuner.held_out, sums, strict=True) if n}
    return {"held_out": float(sums[:, 0].sum() / sums[:, 1].sum()), **means} if means else {}
