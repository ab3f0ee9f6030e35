"""Packed forward pass of a Llama, Qwen2 or Qwen3 model: several sequences in one row, which do not see each other.

    row          [ prefix of 0 and 1 | 0       | 1         | 2        ]     no padding, common prefixes once
    linear, MLP  [ all tokens together                                ]
    attention    [ with itself       | with prefix and itself | itself]     causal in each sequence, so no mask can leak
    last layer                 r       r    r     r  r         r    r       queries, output and MLP at the read places

`prefixes.py` has the tree of common prefixes. The modules' own linear layers are called, so adapters inside them (LoRA)
are applied. `why_not_packed` decides which models are supported; `agents/forward/mode.py` compares the result with the
model's own forward pass before a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.utils.checkpoint import checkpoint

from zerosearch_env.llm.local.architectures import why_not_dense

from .dense_ops import Scratch, attend_blocks, gather, plan_blocks, rms_norm, rotate, swiglu
from .direct import embed, linear
from .prefixes import Node, prefix_tree

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def why_not_packed(model: Any) -> str | None:
    """None if `packed_hidden` gives the same result as this model, otherwise the first reason why it does not."""
    reason = why_not_dense(model)
    if reason is None and getattr(model.config, "attention_dropout", False):
        reason = "it has dropout"
    return reason


def packed_hidden(
    model: Any,
    ids_T: Tensor,
    lengths: Sequence[int],
    read: Sequence[NDArray[np.int64]],
    *,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> Tensor:
    """Final hidden states at the read positions of all sequences, shape `(N, hidden size)`.

    Args:
        model: a model for which `why_not_packed` returns None.
        ids_T: token ids of all sequences, concatenated.
        lengths: number of tokens of each sequence.
        read: positions to read in each sequence, ascending; may be empty.
        dtype: data type of the matrix products; the residual stream keeps the dtype of the weights.
        checkpointing: recompute the activations of every layer in the backward pass.
    """
    # For a sharded model the call must go through FSDP (`fsdp.shard`).
    run = getattr(model, "packed", None)
    if run is not None:
        hidden_ND: Tensor = run(ids_T, lengths, read, dtype, checkpointing)
        return hidden_ND
    return run_packed(model, ids_T, lengths, read, dtype, checkpointing)


def run_packed(
    model: Any,
    ids_T: Tensor,
    lengths: Sequence[int],
    read: Sequence[NDArray[np.int64]],
    dtype: torch.dtype,
    checkpointing: bool,
) -> Tensor:
    """`packed_hidden` for a model with unsharded weights; layers may be sharded if they have a `packed` method."""
    body, device = model.base_model, ids_T.device
    tree = prefix_tree(ids_T.cpu().numpy(), lengths)
    # Sequences may read the same place, in a common prefix: it is computed once and handed out to each of them.
    wanted_N = np.concatenate([places[wanted] for places, wanted in zip(tree.places, read, strict=True)])
    places_n, copies_N = np.unique(wanted_N, return_inverse=True)
    positions_T = torch.from_numpy(tree.positions_T).to(device)
    x_TD = embed(body.embed_tokens, ids_T[torch.from_numpy(tree.origins_T).to(device)])
    cosine, sine = (part[0, :, None] for part in body.rotary_emb(x_TD[None], positions_T[None]))
    half = cosine.shape[-1] // 2
    turns = cosine[..., :half].float(), sine[..., :half].float()
    if device.type == "cpu":
        everywhere, there = plan_blocks(tree.nodes), plan_blocks(tree.nodes, places_n)
        attend: Attend = lambda q, k, v: attend_blocks(q, k, v, everywhere)  # noqa: E731
        attend_last: Attend = lambda q, k, v: attend_blocks(q, k, v, there)  # noqa: E731
    else:
        attend = lambda q, k, v: _attend_nodes(q, k, v, tree.nodes)  # noqa: E731
        attend_last = attend
    read_n = torch.from_numpy(places_n).to(device)
    kind = device.type
    # A checkpointed layer keeps all its results while its backward pass runs, so they cannot share memory.
    scratch = None if checkpointing else Scratch(torch.empty_like(x_TD, dtype=dtype))
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        for number, layer in enumerate(body.layers):
            last = number == len(body.layers) - 1
            arguments = (x_TD, turns, attend_last if last else attend, read_n if last else None, dtype, scratch)
            through = getattr(layer, "packed", None)
            x_TD = run_layer(layer, *arguments) if through is None else through(*arguments)
        norm = body.norm
        hidden_nD = rms_norm(x_TD, norm.weight, norm.variance_epsilon, x_TD.dtype)
    return hidden_nD.index_select(0, torch.from_numpy(copies_N).to(device))


def run_layer(
    layer: Any,
    x_TD: Tensor,
    turns: tuple[Tensor, Tensor],
    attend: Attend,
    places_N: Tensor | None,
    dtype: torch.dtype,
    scratch: Scratch | None,
) -> Tensor:
    """Runs one decoder layer; with `places_N` it returns only the tokens at these places.

    The backward pass computes the inputs of linear layers again; without `scratch`, all activations of the layer.
    """
    arguments = (layer, x_TD, turns, attend, places_N, dtype, scratch)
    if scratch is not None:
        return _layer(*arguments)
    result: Tensor = checkpoint(_layer, *arguments, use_reentrant=False)
    return result


@contextmanager
def recomputed(tensor: Tensor, compute: Callable[[], Tensor]) -> Iterator[None]:
    """Inside the block, an operation that would keep `tensor` for its backward pass keeps `compute` instead.

    For results of cheap operations that large products need again: the inputs of linear layers. `compute` must return
    the same values, and may use only tensors that are kept anyway. Other views of `tensor` are copied, because its
    memory may be used again (`Scratch`).
    """
    memory, shape, stride = tensor.untyped_storage().data_ptr(), tensor.shape, tensor.stride()

    def pack(kept: Tensor) -> Tensor | Callable[[], Tensor]:
        if kept.untyped_storage().data_ptr() != memory:
            return kept
        return compute if kept.shape == shape and kept.stride() == stride else kept.clone()

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _layer(
    layer: Any,
    x_TD: Tensor,
    turns: tuple[Tensor, Tensor],
    attend: Attend,
    places_N: Tensor | None,
    dtype: torch.dtype,
    scratch: Scratch | None,
) -> Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    cosine, sine = turns
    narrow = places_N is not None and x_TD.device.type == "cpu"

    def norm(module: Any, tokens: Tensor, kept: torch.dtype = dtype, to: Scratch | None = None) -> Tensor:
        return rms_norm(tokens, module.weight, module.variance_epsilon, kept, to)

    def inputs(tensor: Tensor, function: Callable[..., Tensor], *arguments: Any) -> AbstractContextManager[None]:
        if scratch is None:
            return nullcontext()
        return recomputed(tensor, partial(_without_gradient, function, *arguments))

    def heads(projection: Any, norm_name: str, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        split = linear(projection, tokens).unflatten(-1, (-1, attention.head_dim))
        head_norm = getattr(attention, norm_name, None)
        if head_norm is not None:
            split = norm(head_norm, split, torch.float32)
        return rotate(split, cos, sin, dtype)

    scale = attention.scaling
    normed = norm(layer.input_layernorm, x_TD, to=scratch)
    with inputs(normed, norm, layer.input_layernorm, x_TD):
        k_TKE = heads(attention.k_proj, "k_norm", normed, cosine, sine)
        v_TKE = linear(attention.v_proj, normed).unflatten(-1, (-1, attention.head_dim)).to(dtype)
        if narrow:
            normed, cosine, sine = normed[places_N], cosine[places_N], sine[places_N]
        q_NHE = heads(attention.q_proj, "q_norm", normed, cosine * scale, sine * scale)
    attended = attend(q_NHE, k_TKE, v_TKE).flatten(1)
    if places_N is not None:
        x_TD = x_TD[places_N]
        attended = attended if narrow else attended[places_N]
    x_TD = _add(x_TD, linear(attention.o_proj, attended))
    normed = norm(layer.post_attention_layernorm, x_TD, to=scratch)
    with inputs(normed, norm, layer.post_attention_layernorm, x_TD):
        gate, up = linear(mlp.gate_proj, normed), linear(mlp.up_proj, normed)
    product = swiglu(gate, up)
    with inputs(product, swiglu, gate, up):
        return _add(x_TD, linear(mlp.down_proj, product))


def _add(stream: Tensor, new: Tensor) -> Tensor:
    """stream + new, in the place of `new` if it has the stream's dtype: a linear layer does not keep its output."""
    return new.add_(stream) if new.dtype == stream.dtype else stream + new


@torch.no_grad()
def _without_gradient(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


def _attend_nodes(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, nodes: Sequence[Node]) -> Tensor:
    """Causal attention, one node at a time, with PyTorch's own kernels, which are the fastest on a GPU."""
    parts = []
    for node in nodes:
        keys = (*node.before, node.tokens)
        q, k, v = q_THE[node.tokens], gather(k_TKE, keys, 0), gather(v_TKE, keys, 0)
        groups = q.shape[1] // k.shape[1]
        if groups > 1 and q.dtype == torch.float32:  # kernels with shared keys support only 16-bit types
            k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        # The last query sees the last key; PyTorch's `is_causal` lets the first query see only the first key.
        mask = causal_lower_right(len(q), len(k))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0, enable_gqa=q.shape[1] != k.shape[1])
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
