"""Activation checkpointing: compute activations a second time in the backward pass instead of storing them."""

from __future__ import annotations

from typing import Any

from zerosearch_env.errors import ConfigError


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
