"""Options of `zerosearch simulator train`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zerosearch_env.datasets.files.rows import OnBadRow
from zerosearch_env.errors import ConfigError

from .lora import LoraShape


@dataclass(frozen=True, slots=True)
class TinyShape:
    """A model that is made from scratch, with a tokenizer that is learnt from the training pairs."""

    hidden: int = 128
    """Width."""
    layers: int = 4
    """Decoder layers, at least 3."""
    heads: int = 4
    """Attention heads, at least 4; they divide `hidden`."""
    mlp: int = 384
    """Width of the gated MLP."""
    vocab_size: int = 4096
    """Most tokens of the tokenizer."""
    context_tokens: int = 4096
    """Longest text that the model declares."""


FREE = ("output", "fresh", "device", "checkpoint_every", "keep_checkpoints", "max_seconds")
"""Options that a resumed run may change: none of them changes its numbers."""


@dataclass(frozen=True)
class TuneConfig:
    """Tune a language model as a search engine, on the pairs of an extract file."""

    input: Path
    """Pairs of `zerosearch simulator extract`: "train" is trained on, "test" is held out."""
    model: Path | None = None
    """Local directory of the model to start from."""
    init: Literal["tiny"] | None = None
    """Instead of `model`: a small model from scratch."""
    tiny: TinyShape = field(default_factory=TinyShape)
    """Its sizes."""
    output: Path = Path("runs/simulator/tuned")
    """The run directory."""
    fresh: bool = False
    """Start anew where a run is already; it is removed."""
    lora: LoraShape = field(default_factory=LoraShape)
    """Train adapters instead of the whole model."""
    epochs: float = 3.0
    """Passes over the training pairs."""
    batch_size: int = 64
    """Pairs of one optimizer step, over all processes."""
    learning_rate: float | None = None
    """Peak AdamW learning rate; unset: 1e-6 (the paper's), with LoRA 1e-4, from scratch 1e-3."""
    warmup_share: float = 0.03
    """Share of the steps in which the rate rises to its peak."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after it."""
    final_fraction: float = 0.1
    """What the rate falls to, as a share of the peak."""
    weight_decay: float = 0.01
    """AdamW's weight decay, of matrices only."""
    max_grad_norm: float = 1.0
    """Where the gradient's norm is cut."""
    max_tokens: int = 2048
    """Pairs with more tokens, prompt included, are left out and counted."""
    micro_batch_tokens: int = 8192
    """Tokens that go through the model at once; changes speed and memory, not the gradient."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Examples behind each other in one row; auto: on a GPU, where it saves the padding."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Of the matrix products and of the saved model; trained weights and optimizer are fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time, far less memory."""
    device: str = "auto"
    """Where the model goes: "cpu" or "cuda"; auto takes a GPU where there is one."""
    seed: int = 0
    """Of the order of the pairs, and of new weights."""
    eval_every: int = 50
    """Steps between two measurements of the held-out loss; it is also measured at the end."""
    eval_pairs: int = 256
    """Most held-out pairs that are measured, chosen by the seed."""
    checkpoint_every: int = 50
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that stay."""
    max_seconds: float | None = None
    """Stop after this much training in a session, loading left out, with everything saved; it can be resumed."""
    on_bad_row: OnBadRow = "raise"
    """Whether a bad row stops the reading, or is skipped."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.init is None):
            raise ConfigError("give --model DIRECTORY or --init tiny, and not both")
        if self.init is not None and self.lora.rank:
            raise ConfigError("LoRA adapts a model that is there: it does not go with --init")
        for name in ("epochs", "batch_size", "max_grad_norm", "max_tokens", "micro_batch_tokens", "checkpoint_every"):
            _expect(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "positive")
        for name in ("keep_checkpoints", "eval_every", "eval_pairs"):
            _expect(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_share", "final_fraction"):
            _expect(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        _expect("learning_rate", self.learning_rate, self.learning_rate is None or self.learning_rate > 0, "positive")
        _expect("weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _expect("lora.rank", self.lora.rank, self.lora.rank >= 0, "0 or more")

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.init else 1e-4 if self.lora.rank else 1e-6

    def steps(self, pairs: int) -> int:
        """Optimizer steps of the whole run over this many training pairs, at least 1."""
        return max(1, math.ceil(self.epochs * pairs / self.batch_size))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a 0-based step of a run of `steps`.

        peak * min(1, (step + 1) / warm-up) * (f + (1 - f) * d), with d falling from 1 to 0 behind the warm-up: half a
        cosine, a line, or 1 all the time; f is `final_fraction`.
        """
        warm = max(1, round(self.warmup_share * steps))
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.decay]
        return self.peak * (self.final_fraction + (1 - self.final_fraction) * fall)


def _expect(name: str, value: object, fits: bool, phrase: str) -> None:
    if not fits:
        raise ConfigError(f"{name} must be {phrase}, got {value!r}.")
