"""The options that all models made from nothing share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a small model."""

    hidden: int = 128
    """Width of the model."""
    layers: int = 4
    """Number of decoder layers, at least 3."""
    heads: int = 4
    """Number of attention heads (query, key and value), at least 4; must divide `hidden`."""
    mlp: int = 384
    """Width of the gated MLP."""


@dataclass(frozen=True)
class ScratchConfig(ModelShape):
    """The options of `zerosearch pretrain` and `zerosearch simulator tiny`."""

    output: str = "runs/tiny"
    """Directory of the result. An existing policy or simulator in it is replaced."""
    seed: int = 0
    """Random seed of weights, worlds and all draws; from 0 to 2**63 - 1."""
    batch_tokens: int = 3000
    """Approximate number of tokens per optimizer step (texts are not split)."""
    save_every_minutes: float = 5.0
    """How often the unfinished model is saved, in minutes."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of matrix products in training; weights and optimizer state are fp32."""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "mlp", "batch_tokens"):
            check_whole_number(name, getattr(self, name))
        check_number("save_every_minutes", self.save_every_minutes, above=0)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be from 0 to 2**63 - 1, got {self.seed!r}.")
        if self.dtype not in ("bfloat16", "float32"):
            raise unknown_name("dtype", self.dtype, ("bfloat16", "float32"))
        if Path(self.output).name in ("", ".."):
            raise ConfigError(f"output must name a separate directory, such as runs/tiny, got {self.output!r}.")
