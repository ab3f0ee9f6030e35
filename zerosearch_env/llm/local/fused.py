"""A fused inference forward pass for dense decoder models of the Llama, Qwen2 and Qwen3 families.

It computes the same as Transformers' own modules with less overhead: weights are fused and transposed once per
refresh, the gains of the norms are folded into the projections after them, prompts are packed without padding, and
decoding reads a paged cache (see `paged_cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .architectures import why_not_dense
from .paged_cache import PAGE, PagedCache, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_PREFILL_TOKENS = 512
"""Tokens per prefill pass: enough for full matrix speed, few enough for the CPU's second-level cache."""

_FIRST_ROTATIONS = 4096
"""Positions whose rotary embedding is computed at the start; more are added for longer rows."""


def why_not_fused(model: PreTrainedModel) -> str | None:
    """None if `FusedDecoder` supports this model, otherwise the first reason why it does not."""
    reason = why_not_dense(model)
    if reason is not None:
        return reason
    parts: Any = model
    rope = (getattr(parts.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _ROPE_TYPES:
        return f"its rotary embedding is of type {rope}, which depends on the sequence's length"
    for layer in parts.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        plain = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj, parts.lm_head)
        if any(type(linear) is not nn.Linear or linear.bias is not None for linear in plain):
            return "a projection or its head is not a plain nn.Linear without bias"
        if any(type(linear) is not nn.Linear for linear in (attention.q_proj, attention.k_proj, attention.v_proj)):
            return "an attention projection is not a plain nn.Linear"
    return None


@dataclass(slots=True)
class _Layer:
    """One layer's weights, transposed to `(in, out)`."""

    qkv: Tensor
    qkv_bias: Tensor | None
    head_gain: Tensor | None
    """Gains of the query and key norms, shape `(heads + kv_heads, head_dim)`; None without such norms."""
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class FusedDecoder:
    """See `Decoder`. Use it only when `why_not_fused` returns None.

    Args:
        model: its weights are copied at construction and at `refresh`.
        slots: number of rows.
        context_tokens: maximum tokens per row.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context_tokens: int) -> None:
        self._model: Any = model
        model, config = self._model, self._model.config
        attention = model.model.layers[0].self_attn
        self._width = int(attention.head_dim)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._scaling = float(attention.scaling)
        self._eps = float(config.rms_norm_eps)
        self.vocab_size = int(model.lm_head.weight.shape[0])
        self._device, self._dtype = model.lm_head.weight.device, model.lm_head.weight.dtype
        layers = len(model.model.layers)
        self._new_cache = lambda: PagedCache(
            layers, self._kv_heads, self._width, slots, context_tokens, self._dtype, self._device
        )
        self._cache = self._new_cache()
        # Rotary embeddings rotate the pairs (i, i + half) of a head. The permutation makes each pair adjacent, so that
        # a rotation is one complex product. Queries and keys get the same permutation: their products do not change.
        self._order = torch.arange(self._width, device=self._device).view(2, -1).t().reshape(-1)
        self._rotations = self._make_rotations(min(context_tokens, _FIRST_ROTATIONS))
        self._staircase = torch.empty(0)
        self._layers: list[_Layer] = []
        self.refresh()

    def refresh(self) -> None:
        """See `Decoder.refresh`."""
        with torch.inference_mode():
            self._layers = [self._fuse(layer) for layer in self._model.model.layers]

    def free(self) -> None:
        """See `Decoder.free`: the copy of the weights and the pages of the cache."""
        self._layers = []
        self._cache = self._new_cache()

    @torch.inference_mode()
    def copy(self, source: int, slots: Sequence[int], length: int) -> None:
        """See `Decoder.copy`."""
        self._cache.copy(source, slots, length)

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """See `Decoder.release`."""
        self._cache.truncate(slot, 0)

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder.prefill`."""
        hidden = torch.empty(len(slots), self._model.config.hidden_size, dtype=self._dtype, device=self._device)
        group: list[tuple[int, int, Sequence[int], int]] = []  # slot, start, tokens, index of the row or -1
        room = _PREFILL_TOKENS
        for index, (slot, start, chunk) in enumerate(zip(slots, starts, chunks, strict=True)):
            self._cache.truncate(slot, start)
            for begin, end in _pieces(len(chunk), room):
                group.append((slot, start + begin, chunk[begin:end], index if end == len(chunk) else -1))
                room -= end - begin
                if room == 0:
                    self._forward_chunks(group, hidden)
                    group, room = [], _PREFILL_TOKENS
        if group:
            self._forward_chunks(group, hidden)
        return self._head(hidden)

    @torch.inference_mode()
    def step(self, slots: NDArray[np.int64], positions: NDArray[np.int64], tokens: NDArray[np.int64]) -> Tensor:
        """See `Decoder.step`."""
        self._cache.reserve(slots, positions + 1)
        plan = self._cache.plan(slots)
        bias = self._cache.bias[: plan.pages, None]
        ids = torch.from_numpy(tokens).to(self._device)
        return self._head(self._forward(ids, slots, positions, lambda n, queries: self._attend(n, queries, plan, bias)))

    def _forward(
        self,
        ids: Tensor,
        slots: NDArray[np.int64],
        positions: NDArray[np.int64],
        attend: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """Run tokens through all layers, and store their keys and values in the cache.

        Args:
            ids: shape `(tokens,)`.
            slots: slot of each token.
            positions: position of each token in its row; its page must be reserved.
            attend: from a layer's number and its queries to the attention output, shape `(tokens, heads * width)`.

        Returns:
            Hidden states, shape `(tokens, hidden_size)`.
        """
        if not self._layers:
            self.refresh()
        pages, offsets = self._cache.places(slots, positions)
        rotations = self._rotations_at(positions)
        x = F.embedding(ids, self._model.model.embed_tokens.weight)
        for number, layer in enumerate(self._layers):
            queries, keys, values = self._project(layer, x, rotations)
            self._cache.keys[number][pages, :, offsets] = keys
            self._cache.values[number][pages, :, offsets] = values
            x.addmm_(attend(number, queries), layer.out)
            self._mlp(layer, x)
        return x

    def _forward_chunks(self, group: list[tuple[int, int, Sequence[int], int]], hidden: Tensor) -> None:
        """Run packed chunks through all layers, and store the hidden state after the last token of each row in them.

        The chunks of all rows are concatenated without padding:

            ids = [ row 0: tokens 0..99 | row 1: tokens 40..59 | row 2: tokens 0..391 ]

        Projections and MLP run on all tokens together; only attention runs once per row.
        """
        lengths = [len(tokens) for _, _, tokens, _ in group]
        ids = torch.tensor([token for _, _, tokens, _ in group for token in tokens], device=self._device)
        slots = np.repeat(np.array([slot for slot, _, _, _ in group]), lengths)
        positions = np.concatenate([np.arange(start, start + len(tokens)) for _, start, tokens, _ in group])
        ends = np.array([start + len(tokens) for _, start, tokens, _ in group])
        for (slot, _, _, _), end in zip(group, ends, strict=True):
            self._cache.reserve(np.array([slot]), np.array([end]))
        row_pages = [self._cache.pages_of(slot, end) for (slot, _, _, _), end in zip(group, ends.tolist(), strict=True)]
        attended = torch.empty(len(ids), self._heads, self._width, dtype=self._dtype, device=self._device)

        def attend(number: int, queries: Tensor) -> Tensor:
            begin = 0
            for (_, start, tokens, _), page in zip(group, row_pages, strict=True):
                end = begin + len(tokens)
                attended[begin:end] = self._attend_chunk(number, queries[begin:end], page, start)
                begin = end
            return attended.view(len(ids), -1)

        x = self._forward(ids, slots, positions, attend)
        lasts = np.cumsum(lengths) - 1
        for (_, _, _, index), last in zip(group, lasts.tolist(), strict=True):
            if index >= 0:
                hidden[index] = x[last]

    def _project(self, layer: _Layer, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (rotated, queries also scaled) and values, each of shape `(tokens, heads, width)`."""
        both = self._heads + self._kv_heads
        normed = self._norm(x)
        qkv = torch.mm(normed, layer.qkv) if layer.qkv_bias is None else torch.addmm(layer.qkv_bias, normed, layer.qkv)
        qkv = qkv.view(len(x), both + self._kv_heads, self._width)
        heads = qkv[:, :both].float()
        if layer.head_gain is not None:
            heads = self._norm(heads) * layer.head_gain
        pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2))) * rotations
        heads = torch.view_as_real(pairs).view(len(x), both, self._width).to(self._dtype)
        return heads[:, : self._heads], heads[:, self._heads :], qkv[:, both:]

    def _attend(self, number: int, queries: Tensor, plan: Plan, bias: Tensor) -> Tensor:
        """Attention of one query per lane over its pages, shape `(lanes, heads * width)`.

        Each page is processed on its own, then the pages of a lane are combined. With scores s of the tokens t in a
        page p, values v and a lane's query:

            per page    w_t = softmax of s within the page,   o_p = sum_t w_t v_t,   mass_p = logsumexp of s
            per lane    share_p = softmax of mass over the lane's pages,   output = sum_p share_p o_p

        This equals a softmax over all tokens of the lane.
        """
        lanes, pages, heads = len(queries), plan.pages, self._kv_heads
        group = self._heads // heads
        # Copy each lane's query to its pages: (lanes, heads * width) -> (pages, heads * width).
        spread = queries.reshape(lanes, -1).index_select(0, plan.lane_of_page)
        keys = self._cache.keys[number][:pages].view(pages * heads, PAGE, self._width)
        scores = torch.bmm(spread.view(pages * heads, group, self._width), keys.transpose(1, 2)).float()
        scores = scores.view(pages, self._heads, PAGE).add_(bias)
        weights = scores.softmax(-1)
        # The largest weight of a page is exp(largest score - logsumexp), so logsumexp = largest score - log(weight).
        mass = scores.amax(-1) - weights.amax(-1).log_()
        share = F.pad(mass, (0, 0, 0, 1), value=float("-inf"))[plan.table].softmax(1)
        share = share.view(-1, self._heads).index_select(0, plan.place_of_page)
        values = self._cache.values[number][:pages].view(pages * heads, PAGE, self._width)
        parts = torch.bmm(weights.view(pages * heads, group, PAGE).to(values.dtype), values).float()
        parts = parts.view(pages, self._heads, self._width).mul_(share[..., None]).view(pages, -1)
        return F.embedding_bag(plan.flat, parts, plan.offsets, mode="sum").to(self._dtype)

    def _attend_chunk(self, number: int, queries: Tensor, pages: Tensor, start: int) -> Tensor:
        """Causal attention of a chunk over the cached tokens of its row, shape `(tokens, heads, width)`."""
        count, end = len(queries), start + len(queries)
        keys = self._cache.keys[number].index_select(0, pages).transpose(0, 1).flatten(1, 2)[:, :end]
        values = self._cache.values[number].index_select(0, pages).transpose(0, 1).flatten(1, 2)[:, :end]
        out = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=self._mask(count, start),
            scale=1.0,
            enable_gqa=self._heads != self._kv_heads,
        )
        return out[0].transpose(0, 1)

    def _mask(self, count: int, start: int) -> Tensor:
        """Additive mask, shape `(count, start + count)`: query i sees the keys up to `start + i`.

        Every mask is a view of one large matrix, the staircase (`.` is 0, `x` is minus infinity):

            column   -wide ... -1  0  1  2
            query 0   . . . . . .  .  x  x
            query 1   . . . . . .  .  .  x      a mask is columns -start to count - 1 of the first `count` rows
            query 2   . . . . . .  .  .  .
        """
        wide = self._staircase.shape[-1] - _PREFILL_TOKENS
        if start > wide:
            wide = max(2 * wide, start, 1024)
            columns = torch.arange(-wide, _PREFILL_TOKENS, device=self._device)
            rows = torch.arange(_PREFILL_TOKENS, device=self._device)
            hidden = columns > rows[:, None]
            self._staircase = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
            self._staircase.masked_fill_(hidden, float("-inf"))
        return self._staircase[:count, wide - start : wide + count]

    def _mlp(self, layer: _Layer, x: Tensor) -> None:
        normed = self._norm(x)
        gate = F.silu(torch.mm(normed, layer.gate), inplace=True)
        x.addmm_(gate.mul_(torch.mm(normed, layer.up)), layer.down)

    def _norm(self, x: Tensor) -> Tensor:
        """Root-mean-square norm over the last dimension, without gain (folded into the next projection)."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)).to(x.dtype)

    def _head(self, x: Tensor) -> Tensor:
        normed = self._norm(x).mul_(self._model.model.norm.weight)
        return torch.mm(normed, self._model.lm_head.weight.t()).float()

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        gain, gain_2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        normed = hasattr(attention, "q_norm")
        # The softmax scale goes into the gain of the query norm, or without such a norm into the query projection.
        scale = 1.0 if normed else self._scaling
        parts = ((attention.q_proj, scale, True), (attention.k_proj, 1.0, True), (attention.v_proj, 1.0, False))
        weights = [self._ordered(part.weight, pairs) * factor for part, factor, pairs in parts]
        bias = None
        if attention.q_proj.bias is not None:
            bias = torch.cat([self._ordered(part.bias, pairs) * factor for part, factor, pairs in parts])
        head_gain = None
        if normed:
            queries = (attention.q_norm.weight.float() * self._scaling)[self._order]
            keys = attention.k_norm.weight.float()[self._order]
            head_gain = torch.cat([queries.expand(self._heads, -1), keys.expand(self._kv_heads, -1)])
        return _Layer(
            qkv=(torch.cat(weights) * gain).t().contiguous(),
            qkv_bias=bias,
            head_gain=head_gain,
            out=attention.o_proj.weight.t().contiguous(),
            gate=(mlp.gate_proj.weight * gain_2).t().contiguous(),
            up=(mlp.up_proj.weight * gain_2).t().contiguous(),
            down=mlp.down_proj.weight.t().contiguous(),
        )

    def _ordered(self, weight: Tensor, pairs: bool) -> Tensor:
        """A projection's rows, permuted so that the rotated pairs of each head are adjacent."""
        return weight.unflatten(0, (-1, self._width))[:, self._order].flatten(0, 1) if pairs else weight

    def _rotations_at(self, positions: NDArray[np.int64]) -> Tensor:
        """The rotary embedding of each position, shape `(tokens, 1, width / 2)`."""
        if positions.max() >= len(self._rotations):
            self._rotations = self._make_rotations(2 * int(positions.max()))
        return self._rotations[torch.from_numpy(positions).to(self._device)][:, None]

    def _make_rotations(self, count: int) -> Tensor:
        """The model's own rotary embedding as complex numbers, shape `(count, width / 2)`."""
        positions = torch.arange(count, device=self._device)[None]
        with torch.inference_mode():
            probe = torch.zeros(1, dtype=torch.float32, device=self._device)
            cos, sin = self._model.model.rotary_emb(probe, positions)
            half = self._width // 2
            return torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())


def _pieces(length: int, room: int) -> list[tuple[int, int]]:
    """Split `length` tokens into ranges: the first of at most `room`, the others of at most `_PREFILL_TOKENS`."""
    ranges, begin = [], 0
    while begin < length:
        end = min(length, begin + (room if begin == 0 else _PREFILL_TOKENS))
        ranges.append((begin, end))
        begin = end
    return ranges
