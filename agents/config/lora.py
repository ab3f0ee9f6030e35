"""Options of low-rank adaptation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Low-rank adaptation of linear layers (Hu et al., 2021); adapters are merged when the model is saved."""

    rank: int = 0
    """Rank of the adapters; 0 trains the whole model instead."""
    alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, such as q_proj v_proj; none: all except the head."""
