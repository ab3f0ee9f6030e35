"""Options of `zerosearch simulator train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets.files.rows import OnBadRow
from zerosearch_env.errors import ConfigError

from .sft import SftOptions
from .tiny import ModelShape


@dataclass(frozen=True)
class TinyShape(ModelShape):
    """Sizes of a model trained from scratch, with a tokenizer learned from the training pairs."""

    vocab_size: int = 4096
    """Maximum vocabulary size of the tokenizer."""
    context_tokens: int = 4096
    """Context length that the model declares, in tokens."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(SftOptions):
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
    """The run directory; the result is in its folder model/."""
    epochs: float = 3.0
    """Passes over the training pairs."""
    batch_size: int = 64
    """Pairs per optimizer step, over all processes."""
    learning_rate: float | None = None
    """Peak AdamW learning rate; unset: 1e-6 (as in the paper), 1e-4 with LoRA, 1e-3 from scratch."""
    warmup_share: float = 0.03
    """Share of the steps used for the warm-up of the learning rate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products and of the saved model; trained weights and optimizer state are float32."""
    max_tokens: int = 2048
    """Pairs with more tokens, prompt included, are skipped and counted."""
    eval_every: int = 50
    """Steps between measurements of the held-out loss; it is also measured at the end."""
    eval_pairs: int = 256
    """Maximum held-out pairs to measure, chosen by the seed."""
    on_bad_row: OnBadRow = "raise"
    """Whether a bad row is an error or is skipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model is None) == (self.init is None):
            raise ConfigError("give --model DIRECTORY or --init tiny, and not both")
        if self.init is not None and self.lora.rank:
            raise ConfigError("LoRA needs an existing model: it cannot be combined with --init")
        for name in ("max_tokens", "eval_pairs"):
            check_whole_number(name, getattr(self, name))

    @property
    def default_rate(self) -> float:
        """The peak learning rate if none is given."""
        return 1e-3 if self.init else 1e-4 if self.lora.rank else 1e-6
