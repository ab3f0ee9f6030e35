"""The one list of architectures whose decoder layers are computed by our own code instead of Transformers' modules.

All of them are dense decoders with a root-mean-square norm before attention and MLP, rotary attention and a gated MLP:

    x = x + attention(norm(x))        attention: queries, keys (normed per head if `query_norm`, rotated) and values
    x = x + mlp(norm(x))              mlp(x) = down(silu(gate(x)) * up(x))

`FusedDecoder` (sampling) and the packed forward pass (training) use it, and add requirements that only they have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Architecture(NamedTuple):
    """A supported architecture."""

    name: str
    """Its class in Transformers."""
    query_norm: bool
    """Whether queries and keys are normed."""


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", query_norm=False),
    "qwen2": Architecture("Qwen2ForCausalLM", query_norm=False),
    "qwen3": Architecture("Qwen3ForCausalLM", query_norm=True),
}
"""By Transformers' `model_type`."""


# Any: models of Transformers have no common type with `layers`
def why_not_dense(model: Any) -> str | None:
    """None if the drawing above describes this model exactly, otherwise the first reason why it does not."""
    config = model.config
    known = ARCHITECTURES.get(config.model_type)
    if known is None or type(model).__name__ != known.name or not type(model).__module__.startswith("transformers."):
        return f"{type(model).__name__} is not one of {', '.join(name for name, _ in ARCHITECTURES.values())}"
    if config.hidden_act not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "it has layers without full attention"
    body = model.base_model
    if any(hasattr(layer.self_attn, "q_norm") != known.query_norm for layer in body.layers):
        return "its query norm is not the one expected"
    probe = torch.zeros(1, 1, 1, device=model.device)
    cosine, _ = body.rotary_emb(probe, torch.zeros(1, 1, dtype=torch.int64, device=model.device))
    if cosine.shape[-1] != body.layers[0].self_attn.head_dim:
        return "its rotary embedding covers only a part of each head"
    return None
