"""One optimizer step of supervised fine-tuning.

    rows of the step -> forward passes of each process -> loss / trained tokens of the whole step -> AdamW

Gradients are sums over tokens, divided by the number of trained tokens of the whole step over all processes. They
therefore do not depend on the number of micro-batches or processes, up to rounding. With several processes (torchrun),
each holds the whole model, and gradients are summed once per step. This is data parallelism as in DDP, but written by
hand: DDP averages over processes, which is wrong if their token counts differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.errors import TrainingError

from ..forward.batch import plan_passes
from ..forward.mode import ForwardMode
from ..processes.workers import Workers
from ..training.optimizer import decay_groups
from .loss import loss_sum
from .rows import Row

_BUCKET = 1 << 24
"""Maximum number of gradient elements per all-reduce."""


@dataclass(frozen=True)
class RowPass:
    """How rows go through a model, and over how many processes they are divided."""

    max_tokens: int
    """Maximum number of tokens per forward pass, padding included."""
    mode: ForwardMode = field(default_factory=ForwardMode)
    """How the rows of a forward pass go through the model."""
    device: str = "cpu"
    workers: Workers = field(default_factory=Workers)

    def passes(self, rows: Sequence[Row]) -> list[list[Row]]:
        """This process's share of some rows as forward passes (`forward.batch.plan_passes`)."""
        ids = [np.array(row.ids, dtype=np.int64) for row in rows]
        plans = plan_passes(ids, self.max_tokens, self.mode, self.workers.size)
        return [[rows[i] for i in part] for part in plans[self.workers.rank]]

    def loss_sum(self, model: Any, rows: Sequence[Row]) -> Tensor:
        """The summed loss of a micro-batch (`loss.loss_sum`)."""
        return loss_sum(model, rows, self.mode, device=self.device)


def adamw(model: Any, rate: float, weight_decay: float = 0.01, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, without weight decay for norms and biases.

    `fused` computes a step in one pass over the memory: four times faster, and other bits.
    """
    return torch.optim.AdamW(decay_groups(model, weight_decay), lr=rate, betas=(0.9, 0.98), fused=fused)


def sft_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    row_pass: RowPass,
    *,
    rate: float,
    where: str,
    max_norm: float = 1.0,
) -> tuple[float, float]:
    """Train on the rows of a step; all processes call it with the same rows.

    Args:
        model: updated in place.
        optimizer: its optimizer.
        rows: all rows of the step.
        row_pass: how they go through the model.
        rate: learning rate of the step.
        where: names the step in the error message.
        max_norm: the gradient is clipped to this L2 norm.

    Returns:
        The mean loss per trained token, and the gradient's norm before clipping.

    Raises:
        TrainingError: the loss or the gradient is not finite; the model is unchanged.
    """
    trained = sum(row.targets for row in rows)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=row_pass.device)
    for group in row_pass.passes(rows):
        loss = row_pass.loss_sum(model, group) / trained
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    row_pass.workers.add(total)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _add_gradients(row_pass.workers, parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    if not (math.isfinite(float(total)) and math.isfinite(norm)):
        raise TrainingError(
            f"{where}: the loss is {float(total)}, the gradient norm {norm}: lower the learning rate "
            f"({rate:g} at this step) and start again from the last saved model."
        )
    for parameter_group in optimizer.param_groups:
        parameter_group["lr"] = rate
    optimizer.step()
    return float(total), norm


def _add_gradients(workers: Workers, parameters: Sequence[torch.nn.Parameter]) -> None:
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
