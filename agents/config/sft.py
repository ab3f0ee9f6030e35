"""Options of supervised fine-tuning: those that all runs share, and those of `zerosearch sft`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.errors import ConfigError

from .agent import AgentChoices
from .lora import LoraShape

FREE = (
    "output", "fresh", "device", "workers", "micro_batch_tokens", "packing", "gradient_checkpointing",
    "checkpoint_every", "keep_checkpoints", "max_seconds", "push_to_hub",
)  # fmt: skip
"""Options that a resumed run may change: they affect place and speed, not what is learned (up to rounding)."""


@dataclass(frozen=True, kw_only=True)
class SftOptions:
    """How a language model is fine-tuned on rows of tokens, whatever the rows are."""

    output: Path
    """The run directory. The same command again continues the run in it."""
    fresh: bool = False
    """Start from scratch; an existing run in the output directory is removed."""
    lora: LoraShape = field(default_factory=LoraShape)
    """Train low-rank adapters instead of the whole model."""
    epochs: float = 1.0
    """Passes over the training rows."""
    batch_size: int = 8
    """Rows per optimizer step, over all processes."""
    learning_rate: float | None = None
    """Peak AdamW learning rate; unset: 1e-4, or 5e-4 with LoRA."""
    warmup_share: float = 0.1
    """Share of the steps used for the warm-up of the learning rate."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate decays after the warm-up."""
    final_fraction: float = 0.1
    """Final learning rate as a fraction of the peak."""
    weight_decay: float = 0.01
    """AdamW weight decay, applied to matrices only."""
    max_grad_norm: float = 1.0
    """The gradient is clipped to this norm."""
    micro_batch_tokens: int | None = None
    """Maximum tokens, padding included, per forward pass; unset: 1,024 on a CPU, 8,192 on a GPU. More tokens need more
    memory, results do not change."""
    packing: Literal["auto", "off", "sequences", "flex", "flash"] = "auto"
    """Concatenate rows without padding: "sequences" on any device, "flex" and "flash" through Transformers on a GPU;
    "off" pads. "auto" is "sequences" if the model supports it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; trained weights and optimizer state are float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    workers: int | None = None
    """Worker processes on a CPU; unset: the number of physical cores, at most 2, for small models, otherwise 1."""
    device: str = "auto"
    """Device of the model: "cpu" or "cuda"; auto uses a GPU if there is one."""
    seed: int = 0
    """Seed of the order of the rows, of what is held out, and of newly initialised weights."""
    eval_every: int = 10
    """Steps between measurements of the held-out loss; it is also measured at the end."""
    checkpoint_every: int = 20
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    max_seconds: float | None = None
    """Stop after this many seconds of training per session, not counting loading; the run is saved and can resume."""

    def __post_init__(self) -> None:
        for name in ("epochs", "max_grad_norm"):
            check_number(name, getattr(self, name), above=0)
        for name in ("batch_size", "checkpoint_every", "keep_checkpoints", "eval_every"):
            check_whole_number(name, getattr(self, name))
        for name in ("micro_batch_tokens", "workers"):
            if getattr(self, name) is not None:
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
        return self.default_rate if self.learning_rate is None else self.learning_rate

    @property
    def default_rate(self) -> float:
        """The peak learning rate if none is given."""
        return 5e-4 if self.lora.rank else 1e-4

    @property
    def loading_dtype(self) -> str:
        """The type in which a model is loaded.

        Only frozen weights may be bfloat16: updates of 1e-6 to trained ones would be lost in rounding.
        """
        return self.dtype if self.lora.rank else "float32"

    def steps(self, rows: int) -> int:
        """Number of optimizer steps of the whole run for this many training rows, at least 1."""
        return max(1, math.ceil(self.epochs * rows / self.batch_size))

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


@dataclass(frozen=True, kw_only=True)
class SftConfig(AgentChoices, SftOptions):
    """Fine-tune a policy on episodes: a warm start before reinforcement learning."""

    policy: str
    """Directory of the policy to start from, or its name on the Hugging Face Hub (ORG/NAME, ORG/NAME@REVISION)."""
    input: tuple[Path, ...]
    """Transcripts to learn from: files of `zerosearch demos`, output folders of `eval`, run directories of `train`."""
    output: Path = Path("runs/sft")
    """The run directory; the result is in its folder policy/."""
    held_out: float = 0.05
    """Share of the questions whose episodes are held out, chosen by the seed; 0: none."""
    turn_tokens: int | None = None
    """Maximum tokens that the policy samples per turn; unset: the value on its card, else the protocol's."""
    context_tokens: int | None = None
    """Maximum tokens per episode; unset: the value on the policy's card, else the protocol's, at most 4,096. The
    model's own context is never exceeded."""
    push_to_hub: str | None = None
    """Push the policy to this repository on the Hugging Face Hub, ORG/NAME; a new one is private."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ConfigError("no input: give at least one file of transcripts with --input")
        check_number("held_out", self.held_out, least=0, most=1)
        for name in ("turn_tokens", "context_tokens"):
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name))
