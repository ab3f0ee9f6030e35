"""Options of `zerosearch simulator train`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.datasets.files.rows import OnBadRow
from zerosearch_env.errors import ConfigError

from .lora import LoraShape
from .tiny import ModelShape


@dataclass(frozen=True)
class TinyShape(ModelShape):
    """Sizes of a model trained from scratch, with a tokenizer learned from the training pairs."""

    vocab_size: int = 4096
    """Maximum vocabulary size of the tokenizer."""
    context_tokens: int = 4096
    """Context length that the model declares, in tokens."""


FREE = ("output", "fresh", "device", "checkpoint_every", "keep_checkpoints", "max_seconds")
"""Options that a resumed run may change: none of them affects its results."""


@dataclass(frozen=True)
class TuneConfig:
    """Fine-tune a language model as a search engine, on the pairs of an extract file."""

    input: Path
    """Pairs written by `zerosearch simulator extract`: "train" is for training, "test" is held out. A file, or a folder
    with its shards."""
    model: Path | None = None
    """Local directory of the model to start from."""
    init: Literal["tiny"] | None = None
    """Instead of `model`: start a small model from scratch."""
    tiny: TinyShape = field(default_factory=TinyShape)
    """Sizes of that small model."""
    output: Path = Path("runs/simulator/tuned")
    """The run directory."""
    fresh: bool = False
    """Start from scratch; an existing run in the output directory is removed."""
    lora: LoraShape = field(default_factory=LoraShape)
    """Train low-rank adapters instead of the whole model."""
    epochs: float = 3.0
    """Passes over the training pairs."""
    batch_size: int = 64
    """Pairs per optimizer step, over all processes."""
    learning_rate: float | None = None
    """Peak AdamW learning rate; unset: 1e-6 (as in the paper), 1e-4 with LoRA, 1e-3 from scratch."""
    warmup_share: float = 0.03
    """Share of the steps used for the warm-up of the learning rate."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate decays after the warm-up."""
    final_fraction: float = 0.1
    """Final learning rate as a fraction of the peak."""
    weight_decay: float = 0.01
    """AdamW weight decay, applied to matrices only."""
    max_grad_norm: float = 1.0
    """The gradient is clipped to this norm."""
    max_tokens: int = 2048
    """Pairs with more tokens, prompt included, are skipped and counted."""
    micro_batch_tokens: int = 8192
    """Tokens per forward pass; affects speed and memory, not the gradient."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Concatenate examples in one row instead of padding; auto: only on a GPU."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Type of the matrix products and of the saved model; trained weights and optimizer state are float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    device: str = "auto"
    """Device of the model: "cpu" or "cuda"; auto uses a GPU if there is one."""
    seed: int = 0
    """Seed of the order of the pairs and of newly initialised weights."""
    eval_every: int = 50
    """Steps between measurements of the held-out loss; it is also measured at the end."""
    eval_pairs: int = 256
    """Maximum held-out pairs to measure, chosen by the seed."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    max_seconds: float | None = None
    """Stop after this many seconds of training per session, not counting loading; the run is saved and can resume."""
    on_bad_row: OnBadRow = "raise"
    """Whether a bad row is an error or is skipped."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.init is None):
            raise ConfigError("give --model DIRECTORY or --init tiny, and not both")
        if self.init is not None and self.lora.rank:
            raise ConfigError("LoRA needs an existing model: it cannot be combined with --init")
        for name in ("epochs", "max_grad_norm"):
            check_number(name, getattr(self, name), above=0)
        counts = ("batch_size", "max_tokens", "micro_batch_tokens", "checkpoint_every", "keep_checkpoints")
        for name in (*counts, "eval_every", "eval_pairs"):
            check_whole_number(name, getattr(self, name))
        for name in ("warmup_share", "final_fraction"):
            check_number(name, getattr(self, name), least=0, most=1)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, above=0)
        if self.max_seconds is not None:
            check_number("max_seconds", self.max_seconds, above=0, most=math.inf)
        check_number("weight_decay", self.weight_decay, least=0)
        check_whole_number("lora.rank", self.lora.rank, 0)

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.init else 1e-4 if self.lora.rank else 1e-6

    def steps(self, pairs: int) -> int:
        """Number of optimizer steps of the whole run for this many training pairs, at least 1."""
        return max(1, math.ceil(self.epochs * pairs / self.batch_size))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at a 0-based step of a run of `steps` steps.

        peak * min(1, (step + 1) / warm-up) * (f + (1 - f) * d), where f is `final_fraction` and d falls from 1 to 0
        after the warm-up along half a cosine or a line, or stays 1.
        """
        warm = max(1, round(self.warmup_share * steps))
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.decay]
        return self.peak * (self.final_fraction + (1 - self.final_fraction) * fall)
