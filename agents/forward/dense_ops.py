"""The operations of a dense decoder layer other than matrix products, each with a hand-written backward pass.

PyTorch's autograd stores every intermediate of a norm, a rotation or a gate, and makes one pass over memory for each.
These functions store only their inputs and make a few passes. Attention stores queries, keys and values, but never the
scores. On a CPU that makes up a third of a layer's time and most of its memory.

Shape suffixes: `_T` tokens of a packed row, `_t` the keys of a block; `_N` read tokens (the queries); `_H` query heads;
`_K` key/value heads; `_G` query heads per key/value head (H = K * G); `_E` size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .functions import apply, once_differentiable
from .prefixes import Node

BLOCK = 128
"""Queries per block of attention."""


@dataclass(frozen=True)
class Scratch:
    """Memory for one result at a time, each needed only until the next one.

    malloc cannot give the gap between two lasting tensors to another tensor of the same size (glibc asks for some bytes
    more to align it), so a new short-lived tensor in each layer would leave a gap in each.
    """

    values_TD: Tensor

    def take(self, rows: int) -> Tensor:
        """A tensor of the first rows. For autograd it is not a view, so its values may change after its last use."""
        part_TD = self.values_TD[:rows]
        fresh_TD: Tensor = part_TD.new_empty(0).set_(part_TD.untyped_storage(), 0, part_TD.shape, part_TD.stride())
        return fresh_TD


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype, scratch: Scratch | None) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        if scratch is None:
            return (wide * scale).mul_(gain).to(dtype)
        # In float32 the result is computed where it belongs, otherwise it is converted on the way.
        result = scratch.take(len(x))
        if result.dtype == wide.dtype:
            return torch.mul(wide, scale, out=result).mul_(gain)
        return result.copy_((wide * scale).mul_(gain))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, gain, scale = ctx.saved_tensors
        normed, gradient = x.float() * scale, gradient.float()
        product = (gradient * normed).reshape(-1, x.shape[-1])
        share = torch.mv(product, gain.float()).div_(x.shape[-1]).view(scale.shape)
        d_gain = product.sum(0).to(gain.dtype) if ctx.needs_input_grad[1] else None
        d_x = (gradient * gain).addcmul_(normed, share, value=-1).mul_(scale)
        return d_x.to(x.dtype), d_gain, None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.dtype = x.dtype
        return _turn(x.float(), cosine, sine, 1.0).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        cosine, sine = ctx.saved_tensors
        return _turn(gradient.float(), cosine, sine, -1.0).to(ctx.dtype), None, None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> Tensor:
    """Rotates by the angle (sign 1) or back (sign -1), into one new tensor."""
    turned = torch.empty_like(x, memory_format=torch.contiguous_format)
    (left, right), (to_left, to_right) = x.chunk(2, -1), turned.chunk(2, -1)
    torch.mul(left, cosine, out=to_left).addcmul_(right, sine, value=-sign)
    torch.mul(right, cosine, out=to_right).addcmul_(left, sine, value=sign)
    return turned


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        d_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return d_gate, torch.nn.functional.silu(gate).mul_(gradient)


@dataclass(frozen=True)
class Block:
    """Some queries of one node of a packed row and the keys that they see, as slices of the flat vectors.

    Example with the queries at positions 2, 3 and 5 of a node; `later` covers only the keys after position 2:

        position     | 0 1 2 | 3 4 5
        query 2    x | x x x | - - -       x: attends   -: masked, `later` is -inf
        query 3    x | x x x | x - -
        query 5    x | x x x | x x x
                   ^ every query sees all keys before the node
    """

    queries: slice
    keys: tuple[slice, ...]
    """The keys of the nodes before this one, then its own."""
    later: Tensor | None
    """-inf where a query does not see one of the last keys, else 0, shape `(queries, last keys)`; None: it sees all."""


def plan_blocks(
    nodes: Sequence[Node], queries: NDArray[np.int64] | None = None, device: torch.device | str = "cpu"
) -> list[Block]:
    """Divides causal attention within each sequence into blocks.

    Args:
        nodes: of the packed row.
        queries: places of the queries in the row, ascending and distinct; None: all.
        device: device of the masks.
    """
    blocks: list[Block] = []
    for node in nodes:
        first, last = node.tokens.start, node.tokens.stop
        begin, end = (first, last) if queries is None else np.searchsorted(queries, (first, last)).tolist()
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, end)
            part = np.arange(start, stop) if queries is None else queries[start:stop]
            low, high = int(part[0]) + 1, int(part[-1]) + 1
            later = None
            if high > low:
                hidden = np.arange(low, high) > part[:, None]
                later = torch.from_numpy(np.where(hidden, -np.inf, 0.0).astype(np.float32)).to(device)
            blocks.append(Block(slice(start, stop), (*node.before, slice(first, high)), later))
    return blocks


def gather(x_KTE: Tensor, keys: Sequence[slice], dim: int = 1) -> Tensor:
    """The given slices along `dim`, one after another; a single one is a view."""
    parts = [x_KTE.narrow(dim, part.start, part.stop - part.start) for part in keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _scatter_add(x_KTE: Tensor, keys: Sequence[slice], added_KtE: Tensor) -> None:
    """Adds to the slices that `gather` returns."""
    sizes = [part.stop - part.start for part in keys]
    for part, added in zip(keys, added_KtE.split(sizes, 1), strict=True):
        x_KTE[:, part] += added


class _Attention(torch.autograd.Function):
    """Softmax attention, one block at a time; the backward pass recomputes the scores instead of storing them.

    For one block with weights P = softmax(Q K^T) and output O = P V, the gradients are
    dV = P^T dO,  dP = dO V^T,  dS = softmax backward of dP,  dQ = dS K,  dK = dS^T Q.
    Keys are shared by several blocks, so dK and dV are accumulated, in float32.
    """

    @staticmethod
    def forward(ctx: Any, q_NHE: Tensor, k_TKE: Tensor, v_TKE: Tensor, blocks: Sequence[Block]) -> Tensor:
        ctx.save_for_backward(q_NHE, k_TKE, v_TKE)
        ctx.blocks = blocks
        k_KTE, v_KTE = _heads_first(k_TKE), _heads_first(v_TKE)
        out_NHE = torch.empty_like(q_NHE, memory_format=torch.contiguous_format)
        q_NKGE, out_NKGE = _by_key_head(q_NHE, k_TKE), _by_key_head(out_NHE, k_TKE)
        for block in blocks:
            weights = _weights(_matrices(q_NKGE, block), gather(k_KTE, block.keys), block)
            _write(out_NKGE, block, torch.bmm(weights, gather(v_KTE, block.keys)))
        return out_NHE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q_NHE, k_TKE, v_TKE = ctx.saved_tensors
        k_KTE, v_KTE = _heads_first(k_TKE), _heads_first(v_TKE)
        d_q_NHE = torch.empty_like(q_NHE, memory_format=torch.contiguous_format)
        q_NKGE, d_out_NKGE, d_q_NKGE = (_by_key_head(x_NHE, k_TKE) for x_NHE in (q_NHE, gradient, d_q_NHE))
        d_k_KTE, d_v_KTE = (torch.zeros_like(x, dtype=torch.float32) for x in (k_KTE, v_KTE))
        for block in ctx.blocks:
            k, v = (gather(x_KTE, block.keys) for x_KTE in (k_KTE, v_KTE))
            q, d_out = _matrices(q_NKGE, block), _matrices(d_out_NKGE, block)
            weights = _weights(q, k, block)
            _scatter_add(d_v_KTE, block.keys, torch.bmm(weights.transpose(1, 2), d_out))
            d_weights = torch.bmm(d_out, v.transpose(1, 2))
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            _write(d_q_NKGE, block, torch.bmm(d_scores, k))
            _scatter_add(d_k_KTE, block.keys, torch.bmm(d_scores.transpose(1, 2), q))
        return d_q_NHE, d_k_KTE.transpose(0, 1).to(k_TKE.dtype), d_v_KTE.transpose(0, 1).to(v_TKE.dtype), None


def _heads_first(x_TKE: Tensor) -> Tensor:
    """Keys or values, shape `(K, T, E)`, contiguous."""
    return x_TKE.transpose(0, 1).contiguous()


def _by_key_head(x_NHE: Tensor, k_TKE: Tensor) -> Tensor:
    """What belongs to queries, with the heads of a key head together, shape `(N, K, G, E)`; a view."""
    return x_NHE.unflatten(1, (k_TKE.shape[1], -1))


def _matrices(x_NKGE: Tensor, block: Block) -> Tensor:
    """A block's part as one matrix per key head, shape `(K, queries * G, E)`; a copy."""
    return x_NKGE[block.queries].transpose(0, 1).flatten(1, 2)


def _write(x_NKGE: Tensor, block: Block, matrices: Tensor) -> None:
    """Writes a block's part, given as `_matrices` returns it."""
    x_KnGE = x_NKGE[block.queries].transpose(0, 1)
    x_KnGE.copy_(matrices.view(x_KnGE.shape))


def _weights(q: Tensor, k_KtE: Tensor, block: Block) -> Tensor:
    """Attention weights of a block with queries from `_matrices`, shape `(K, queries * G, t)`."""
    scores = torch.bmm(q, k_KtE.transpose(1, 2))
    if block.later is not None:
        queries, keys = block.later.shape
        last = scores.unflatten(1, (queries, -1))[..., -keys:]
        last += block.later[:, None].to(scores.dtype)
    return scores.softmax(-1)


def rms_norm(x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype, scratch: Scratch | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension, computed in float32.

    Args:
        x: any tensor.
        gain: over its last dimension.
        eps: keeps the divisor away from 0.
        dtype: data type of the result.
        scratch: where the result is written instead of into a new tensor: of at least its rows, and of its data type.
    """
    result: Tensor = apply(_RmsNorm, x, gain, eps, dtype, scratch)
    return result


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotary embedding: rotates the pairs (i, i + half) of a head; `cosine` and `sine` broadcast over half a head."""
    result: Tensor = apply(_Rotate, x, cosine, sine, dtype)
    return result


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    result: Tensor = apply(_SwiGlu, gate, up)
    return result


def attend_blocks(q_NHE: Tensor, k_TKE: Tensor, v_TKE: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Softmax attention of queries, already scaled, to the keys of their block; returns the shape of the queries."""
    result: Tensor = apply(_Attention, q_NHE, k_TKE, v_TKE, blocks)
    return result
