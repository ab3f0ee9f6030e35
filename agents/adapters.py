"""What is put into a Transformers model before training: low-rank adapters, and checkpoints of its activations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import ConfigError, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LoraShape:
    """A low-rank adaptation of linear layers (Hu et al., 2021), merged when the model is saved."""

    rank: int = 0
    """Rank of the adapters; 0 trains the whole model instead."""
    alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get one, such as q_proj v_proj; none: all of them but the head."""


def add_lora(model: PreTrainedModel, shape: LoraShape, *, seed: int) -> Any:
    """Freeze a model and put adapters beside its linear layers, in place; returns peft's wrapper around it.

    Raises:
        ConfigError: the rank is below 1, or no layer has one of the names.
        MissingExtraError: peft is not installed.
    """
    if shape.rank < 1:
        raise ConfigError(f"lora.rank must be at least 1, got {shape.rank}")
    torch, peft = require("torch", "train"), require("peft", "lora")
    options = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=0.0,
        target_modules=list(shape.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 asks Transformers 5.2x by an old name; ours to hide, not the user's to see.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, options)
        except ValueError as cause:  # peft's word for: no such layer
            raise ConfigError(f"lora.targets {', '.join(shape.targets)} cannot be adapted: {cause}") from cause


def checkpoint_activations(model: Any, wanted: bool) -> None:
    """Compute activations again in the backward pass, or stop doing so.

    Raises:
        ConfigError: the model cannot.
    """
    if wanted and not model.supports_gradient_checkpointing:
        raise ConfigError(f"{type(model).__name__} has no gradient checkpointing: leave --gradient-checkpointing out")
    name = f"checkpointing_{'enable' if wanted else 'disable'}"
    # Transformers before 5.2x knows the old name alone.
    new = getattr(model, f"activation_{name}", None)
    change = new if new is not None else getattr(model, f"gradient_{name}")
    change(*([{"use_reentrant": False}] if wanted else []))
