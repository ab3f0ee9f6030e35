"""Causal attention in blocks of queries, for training on CPU.

PyTorch's fused CPU attention has a slow backward pass (measured here: 100 ms for 8 x 4 x 365 x 32 in fp32, against 38
ms for this one), and a single masked softmax computes twice the scores that causality needs. Here each block of
queries is multiplied only with the keys up to its own end:

              keys 0 .. T
    block 0   [/      ]
    block 1   [##/    ]     #: every key visible   /: causal mask within the square   blank: never computed
    block 2   [####/  ]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "zerosearch_blocks"
BLOCK = 128
"""Queries per block; 64 to 128 measured fastest at lengths of 300 to 1,500."""


def block_causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Softmax attention in which position t sees positions 0 to t.

    Softmax(q k^T * scale + causal mask) v, computed one block of queries at a time; exact up to rounding.

    Args:
        q: queries, shape (batch, heads, length, head_dim), length at least 1.
        k: keys, shape (batch, kv_heads, length, head_dim); `heads` is a multiple of `kv_heads`.
        v: values, the same shape as `k`.
        scale: factor for the scores; None: 1 / sqrt(head_dim).

    Returns:
        The attention output, with the shape of `q`.
    """
    batch, heads, length, head_dim = q.shape
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // k.shape[1], dim=1) for x in (k, v))
    scale = 1.0 / math.sqrt(head_dim) if scale is None else scale
    rows = batch * heads
    q, k, v = (x.reshape(rows, length, head_dim) for x in (q * scale, k, v))
    future = torch.full((BLOCK, BLOCK), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    blocks = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
        scores[:, :, start:].add_(future[: end - start, : end - start])
        blocks.append(torch.bmm(scores.softmax(-1), v[:, :end]))
    return torch.cat(blocks, dim=1).view(batch, heads, length, head_dim)


def use_block_attention(model: PreTrainedModel) -> None:
    """Make a Transformers model use `block_causal_attention` whenever it is called without a mask and a cache.

    With a mask, a cache or dropout it uses Transformers' SDPA attention. The setting applies to the model in memory and
    is not saved with it.

    Args:
        model: a decoder whose attention goes through Transformers' attention interface (Qwen3, Llama, ...).
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        if attention_mask is not None or query.shape[2] != key.shape[2] or options.get("dropout"):
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return block_causal_attention(query, key, value, scaling).transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
