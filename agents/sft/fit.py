"""Train a tiny model on texts that are generated on the fly, until a token budget is used up.

Shared by `zerosearch pretrain` (the tiny policy) and `zerosearch simulator tiny` (the tiny simulation LLM). On the
same machine with the same number of threads, the same rows give bit-identical weights.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MICRO_BATCH_TOKENS = 2048
"""Maximum number of tokens per forward pass, padding included. Rows of one step differ in length by a factor of ten."""


@dataclass(frozen=True)
class FitOptions:
    """Token budget, batch size and learning rate of a training stage."""

    name: str
    """Name of the stage in the progress output."""
    tokens: int
    """Token budget, context included. Training stops after the step that reaches it."""
    batch_tokens: int
    """Approximate number of tokens per optimizer step (texts are not split)."""
    peak: float
    """Peak AdamW learning rate, reached after 50 steps and followed by a half-cosine decay."""
    floor: float
    """Final learning rate as a share of the peak."""
    dtype: Literal["bfloat16", "float32"]
    """Data type of matrix products; weights and optimizer state are fp32."""
    save_every_minutes: float = 5.0
    """How often the unfinished model is saved, in minutes."""


def fit(
    model: PreTrainedModel,
    draw_rows: Callable[[int, float], list[Row]],
    options: FitOptions,
    save: Callable[[], object] = lambda: None,
) -> None:
    """Train a model in place; progress is printed.

    Args:
        model: on the CPU, in fp32.
        draw_rows: called as `draw_rows(count, progress)`; returns `count` rows for a progress in [0, 1].
        options: budget, batch size and learning rate.
        save: called every `options.save_every_minutes` and at the end.

    Raises:
        TrainingError: the loss is not finite.
    """
    import torch

    from ..forward.mode import ForwardMode
    from .step import RowPass, adamw, sft_step

    name, tokens, peak = options.name, options.tokens, options.peak
    optimizer = adamw(model.train(), peak)
    row_pass = RowPass(MICRO_BATCH_TOKENS, ForwardMode(dtype=getattr(torch, options.dtype)))
    seen, step, rows, losses = 0, 0, 8, []
    began = saved = time.monotonic()
    while seen < tokens:
        progress = seen / tokens
        decay = 0.5 * (1.0 + math.cos(math.pi * progress))
        rate = peak * min(1.0, (step + 1) / 50) * (options.floor + (1.0 - options.floor) * decay)
        batch = draw_rows(rows, progress)
        loss, _ = sft_step(model, optimizer, batch, row_pass, rate=rate, where=f"stage {name}, after {seen:,} tokens")
        size = sum(len(row.ids) for row in batch)
        seen, step = seen + size, step + 1
        rows = max(2, round(rows * (0.9 + 0.1 * options.batch_tokens / size)))
        losses.append(loss)
        if step % 100 == 0 or seen >= tokens:
            speed = seen / (time.monotonic() - began)
            print(
                f"{name} {seen / 1e6:6.2f}M tokens  loss {sum(losses) / len(losses):.4f}  "
                f"rate {rate:.1e}  {speed:,.0f} tokens/s",
                flush=True,
            )
            losses = []
        if seen >= tokens or time.monotonic() - saved > 60 * options.save_every_minutes:
            save()
            saved = time.monotonic()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, as in the trainer's workers: a second one gains little on such small matrices.

    The environment variable `OMP_NUM_THREADS` takes precedence.
    """
    import torch

    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
