"""Activation checkpointing: recompute activations in the backward pass instead of storing them."""

from __future__ import annotations

from typing import Any

from zerosearch_env.errors import ConfigError


def checkpoint_activations(model: Any, enabled: bool) -> None:
    """Turn activation checkpointing on or off.

    Raises:
        ConfigError: the model does not support it.
    """
    if enabled and not model.supports_gradient_checkpointing:
        raise ConfigError(f"{type(model).__name__} has no gradient checkpointing: remove --gradient-checkpointing")
    name = f"checkpointing_{'enable' if enabled else 'disable'}"
    # Transformers before 5.2x has only the old name.
    new = getattr(model, f"activation_{name}", None)
    change = new if new is not None else getattr(model, f"gradient_{name}")
    change(*([{"use_reentrant": False}] if enabled else []))
