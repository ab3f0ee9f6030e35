"""Hidden states at selected positions: the last decoder layer skips all other positions.

A loss over the sampled tokens reads the last layer's output at the positions before them, about a quarter of an episode
with documents. At every other position only the last layer's keys and values are needed, so its queries, output
projection and MLP run only on the read positions. Exact; saves about a sixth of an update of a model with four layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .fsdp import is_sharded

_KNOWN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")
"""Architectures with the decoder layer implemented below: pre-norm, rotary attention, gated MLP."""


def hidden_at(model: Any, ids_BT: Tensor, rows_N: Tensor, positions_N: Tensor, counts_B: tuple[int, ...]) -> Tensor:
    """The final hidden states of a causal language model at given positions.

    Args:
        model: a Transformers causal language model.
        ids_BT: token ids, padded on the right.
        rows_N: row of each position, ascending.
        positions_N: positions in their rows.
        counts_B: number of positions of each row.

    Returns:
        Shape `(N, hidden size)`; equal to `model.base_model(ids)` followed by indexing, up to rounding.
    """
    if is_sharded(model):  # FSDP gathers weights for whole layers, so no layer can be split
        hidden_BTD = model.final_hidden(ids_BT)
        return hidden_BTD[rows_N, positions_N]
    if type(model).__name__ not in _KNOWN or set(getattr(model.config, "layer_types", ())) - {"full_attention"}:
        hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return hidden_BTD[rows_N, positions_N]
    body = model.base_model
    hidden_BTD = body.embed_tokens(ids_BT)
    places = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
    cosine, sine = body.rotary_emb(hidden_BTD, places)
    for layer in body.layers[:-1]:
        hidden_BTD = layer(
            hidden_BTD, attention_mask=None, position_embeddings=(cosine, sine), position_ids=places, use_cache=False
        )
    layer = body.layers[-1]
    hidden_ND = hidden_BTD[rows_N, positions_N]
    normed_BTD = layer.input_layernorm(hidden_BTD)
    attended_ND = _attend(layer.self_attn, normed_BTD, rows_N, positions_N, counts_B, cosine[0], sine[0])
    hidden_ND = hidden_ND + attended_ND
    hidden_ND = hidden_ND + layer.mlp(layer.post_attention_layernorm(hidden_ND))
    return body.norm(hidden_ND)


def _attend(
    attention: Any,
    normed_BTD: Tensor,
    rows_N: Tensor,
    positions_N: Tensor,
    counts_B: tuple[int, ...],
    cosine_TE: Tensor,
    sine_TE: Tensor,
) -> Tensor:
    """Output of an attention layer at the read positions; `_H` heads, `_E` size of a head, `_n` and `_t` of one row."""
    batch, length, _ = normed_BTD.shape
    size = attention.head_dim

    def heads(projection: Any, norm_name: str, x: Tensor) -> Tensor:
        """(..., hidden) -> (..., heads, head size), normalised if the architecture does so."""
        split = projection(x).unflatten(-1, (-1, size))
        norm = getattr(attention, norm_name, None)
        return split if norm is None else norm(split)

    def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        half = size // 2
        return x * cosine[..., None, :] + torch.cat((-x[..., half:], x[..., :half]), -1) * sine[..., None, :]

    q_NHE = heads(attention.q_proj, "q_norm", normed_BTD[rows_N, positions_N])
    q_NHE = rotate(q_NHE, cosine_TE[positions_N], sine_TE[positions_N]) * attention.scaling
    k_BTHE = rotate(heads(attention.k_proj, "k_norm", normed_BTD), cosine_TE, sine_TE)
    v_BTHE = attention.v_proj(normed_BTD).view(batch, length, -1, size)
    groups = q_NHE.shape[1] // k_BTHE.shape[2]
    places_T = torch.arange(length, device=positions_N.device)
    parts = []
    for row, (q_nHE, positions_n) in enumerate(zip(q_NHE.split(counts_B), positions_N.split(counts_B), strict=True)):
        end = int(positions_n[-1]) + 1 if len(positions_n) else 0
        k_HtE, v_HtE = (x[row, :end].transpose(0, 1).repeat_interleave(groups, 0) for x in (k_BTHE, v_BTHE))
        scores_Hnt = torch.bmm(q_nHE.transpose(0, 1), k_HtE.transpose(1, 2))
        scores_Hnt = scores_Hnt.masked_fill(places_T[:end] > positions_n[:, None], float("-inf"))
        parts.append(torch.bmm(scores_Hnt.softmax(-1), v_HtE).transpose(0, 1))
    output: Tensor = attention.o_proj(torch.cat(parts).flatten(1))
    return output
