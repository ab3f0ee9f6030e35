"""Train a tiny model on texts that are generated on the fly, until a token budget is used up.

Shared by `zerosearch pretrain` (the tiny policy) and `zerosearch simulator tiny` (the tiny simulation LLM). On the
same machine with the same number of threads, the same rows give bit-identical weights.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zerosearch_env.errors import ConfigError, TrainingError, unknown_name

from .rows import Row, Segment

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


def check_common(config: Any) -> None:
    """Check the options shared by all models made from scratch: sizes, seed, dtype, output.

    Raises:
        ConfigError: one of them is invalid.
    """
    for name in ("hidden", "layers", "heads", "mlp", "batch_tokens"):
        expect(name, getattr(config, name), getattr(config, name) >= 1, "at least 1")
    minutes = config.save_every_minutes
    expect("save_every_minutes", minutes, 0 < minutes < math.inf, "positive")
    expect("seed", config.seed, 0 <= config.seed < 2**63, "from 0 to 2**63 - 1")
    if config.dtype not in ("bfloat16", "float32"):
        raise unknown_name("dtype", config.dtype, ("bfloat16", "float32"))
    if Path(config.output).name in ("", ".."):
        raise ConfigError(f"output must name a separate directory, such as runs/tiny, got {config.output!r}.")


def expect(name: str, value: object, fits: bool, phrase: str) -> None:
    """Check the value of an option.

    Args:
        name: the option.
        value: its value, for the message.
        fits: whether the value is valid.
        phrase: completes "NAME must be ..." in the message.

    Raises:
        ConfigError: the value is not valid.
    """
    if not fits:
        raise ConfigError(f"{name} must be {phrase}, got {value!r}.")


def encode_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[Segment]]) -> list[Row]:
    """Tokenize texts given as segments; no token crosses the border between two segments."""
    pieces = [segment for text in texts for segment in text]
    ids = iter(tokenizer([piece for piece, _ in pieces], add_special_tokens=False)["input_ids"])
    rows = []
    for text in texts:
        row = Row([], [])
        for _, trained in text:
            piece = next(ids)
            row.ids.extend(piece)
            row.trained.extend([trained] * len(piece))
        rows.append(row)
    return rows


def fit(model: PreTrainedModel, draw_rows: Callable[[int, float], list[Row]], options: FitOptions) -> Iterator[bool]:
    """Train a model in place; progress is printed.

    Args:
        model: on the CPU, in fp32, in training mode.
        draw_rows: called as `draw_rows(count, progress)`; returns `count` rows for a progress in [0, 1].
        options: budget, batch size and learning rate.

    Yields:
        After every step, whether it was the last.

    Raises:
        TrainingError: the loss is not finite.
    """
    import torch

    from ..forward.batch import plan_micro_batches

    name, tokens, peak, dtype = options.name, options.tokens, options.peak, getattr(torch, options.dtype)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    seen, step, rows, began, losses = 0, 0, 8, time.monotonic(), []
    while seen < tokens:
        progress = seen / tokens
        decay = 0.5 * (1.0 + math.cos(math.pi * progress))
        rate = peak * min(1.0, (step + 1) / 50) * (options.floor + (1.0 - options.floor) * decay)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = draw_rows(rows, progress)
        optimizer.zero_grad()
        loss, trained = 0.0, sum(sum(row.trained) for row in batch)
        for part in plan_micro_batches([len(row.ids) for row in batch], MICRO_BATCH_TOKENS):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                one = loss_sum(model, [batch[i] for i in part]) / trained
            one.backward()
            loss += float(one.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        size = sum(len(row.ids) for row in batch)
        seen, step = seen + size, step + 1
        rows = max(2, round(rows * (0.9 + 0.1 * options.batch_tokens / size)))
        losses.append(loss)
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss of stage {name} is {losses[-1]} after {seen:,} tokens: lower the learning rate ({peak:g})."
            )
        if step % 100 == 0 or seen >= tokens:
            speed = seen / (time.monotonic() - began)
            print(
                f"{name} {seen / 1e6:6.2f}M tokens  loss {sum(losses) / len(losses):.4f}  "
                f"rate {rate:.1e}  {speed:,.0f} tokens/s",
                flush=True,
            )
            losses = []
        yield seen >= tokens


def loss_sum(model: PreTrainedModel, rows: list[Row]) -> torch.Tensor:
    """Sum of the cross-entropy over the trained tokens; the vocabulary head is computed for these only."""
    import torch

    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    trained = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        trained[i, : len(row.ids)] = torch.tensor(row.trained)
    body: Any = model.base_model
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    chosen = trained[:, 1:]
    logits = torch.nn.functional.linear(hidden[chosen], model.get_output_embeddings().weight)
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="sum")


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
