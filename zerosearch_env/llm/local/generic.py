"""Decoders for any causal language model, with Transformers' own forward pass: one with a cache, one without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SPARE_COLUMNS = 64
"""Columns that a growing cache allocates beyond half of its width."""


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Disable dropout and gradient checkpointing inside the block."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


class _Window:
    """Columns of the cache that the current forward pass writes, and the width it reads; shared by all layers."""

    slots: Tensor
    columns: Tensor
    rows: int
    """One more than the highest slot."""
    width: int


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, shape `(slots, heads, columns, head_dim)`; a token's column is its position.

    Slots and columns are added when a row needs them: a small batch must not take the memory of a full one. The last
    column is never read: padding is written there.
    """

    is_sliding = False

    def __init__(self, window: _Window, max_tokens: int) -> None:
        super().__init__()
        self._window, self._max_tokens = window, max_tokens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with no slot and no column, once the other sizes of keys and values are known."""
        self.keys, self.values = (
            states.new_zeros(0, states.shape[1], 0, states.shape[3]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def reserve(self, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """Make room for `width` tokens in each of the first `rows` slots, and for the padding; return both tensors."""
        assert self.keys is not None
        assert self.values is not None
        missing = max(0, rows - self.keys.shape[0]), max(0, width + 1 - self.keys.shape[2])
        if any(missing):
            columns = missing[1] + _SPARE_COLUMNS + width // 2 if missing[1] else 0
            more = (0, 0, 0, columns, 0, 0, 0, missing[0])
            self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)
        return self.keys, self.values

    def free(self) -> None:
        """Return the memory."""
        self.keys = self.values = None
        self.is_initialized = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new states of this forward pass; return all cached states of its rows, left-aligned."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._window
        keys, values = self.reserve(window.rows, window.width)
        keys[window.slots[:, None], :, window.columns] = key_states.transpose(1, 2)
        values[window.slots[:, None], :, window.columns] = value_states.transpose(1, 2)
        return keys[window.slots, :, : window.width], values[window.slots, :, : window.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the states that `update` returns."""
        return self._window.width, 0

    def get_seq_length(self) -> int:
        """Always 0: rows differ in length, and positions are always given explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Maximum tokens per row."""
        return self._max_tokens


class _ModelDecoder:
    """A decoder that calls the model itself, for prefill and for steps."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        first = next(model.parameters())
        self._device, self._dtype = first.device, first.dtype

    def refresh(self) -> None:
        """See `Decoder.refresh`: nothing to do, the model itself is used."""

    def free(self) -> None:
        """See `Decoder.free`: there is no copy of the weights; the cache is kept."""

    def release(self, slot: int) -> None:
        """See `Decoder.release`: old tokens of a slot are never read again."""

    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder.prefill`."""
        raise NotImplementedError

    def step(self, slots: NDArray[np.int64], positions: NDArray[np.int64], tokens: NDArray[np.int64]) -> Tensor:
        """See `Decoder.step`."""
        return self.prefill(slots.tolist(), positions.tolist(), tokens[:, None].tolist())


class CachedDecoder(_ModelDecoder):
    """See `Decoder`. Works for attention-only models that accept position ids, 4D masks and a `Cache`.

    Chunks of different lengths are padded on the right:

        slot 4   [ tokens 7..9  | .  . ]      one forward pass; keys and values go to columns 7 to 9 of slot 4
        slot 1   [ tokens 0..4         ]      and 0 to 4 of slot 1, those of the padding to the last column
    """

    def __init__(self, model: PreTrainedModel, slots: int, context_tokens: int) -> None:
        super().__init__(model)
        config = model.config.get_text_config()
        self._kinds = set(getattr(config, "layer_types", None) or ())
        self._sliding = getattr(config, "sliding_window", None)
        self._window = _Window()
        self._layers = [_SlotLayer(self._window, context_tokens) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=[*self._layers])
        self._used: set[int] = set()
        # Without this argument a model computes logits for whole prompts: with a large vocabulary, most of the memory.
        self._selects_logits = "logits_to_keep" in signature(model.forward).parameters

    def release(self, slot: int) -> None:
        """See `Decoder.release`. After the last row the memory is returned: the next rows may be fewer, or shorter."""
        self._used.discard(slot)
        if not self._used:
            for layer in self._layers:
                layer.free()

    @torch.inference_mode()
    def copy(self, source: int, slots: Sequence[int], length: int) -> None:
        """See `Decoder.copy`."""
        self._used.update(slots)
        for layer in self._layers:
            for states in layer.reserve(max(slots) + 1, length):
                states[list(slots), :, :length] = states[source, :, :length]

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder.prefill`. Rows of similar chunk length go through the model together."""
        self._used.update(slots)
        order = sorted(range(len(slots)), key=lambda index: len(chunks[index]))
        logits = torch.empty(len(slots), self.vocab_size, device=self._device)
        group: list[int] = []
        for index in order:
            if group and len(chunks[index]) > 1.25 * len(chunks[group[0]]) + 8:
                self._forward(group, slots, starts, chunks, logits)
                group = []
            group.append(index)
        self._forward(group, slots, starts, chunks, logits)
        return logits

    def _forward(
        self,
        group: list[int],
        slots: Sequence[int],
        starts: Sequence[int],
        chunks: Sequence[Sequence[int]],
        logits: Tensor,
    ) -> None:
        counts = torch.tensor([len(chunks[index]) for index in group])
        longest = int(counts.max())
        begins = torch.tensor([starts[index] for index in group])
        ids = torch.tensor([[*chunks[index], *[0] * (longest - len(chunks[index]))] for index in group])
        steps = torch.arange(longest)[None]
        positions = begins[:, None] + torch.minimum(steps, counts[:, None] - 1)
        columns = torch.where(steps < counts[:, None], positions, -1)
        window = self._window
        window.slots = torch.tensor([slots[index] for index in group], device=self._device)
        window.columns = columns.to(self._device)
        window.rows = 1 + max(slots[index] for index in group)
        window.width = int((begins + counts).max())
        lasts = counts - 1
        selection = {}
        if self._selects_logits:
            selected, lasts = lasts.unique(return_inverse=True)
            selection["logits_to_keep"] = selected.to(self._device)
        with _evaluating(self._model):
            output = self._model(
                input_ids=ids.to(self._device),
                position_ids=positions.to(self._device),
                attention_mask=self._masks(positions, window.width),
                past_key_values=self._cache,
                use_cache=True,
                **selection,
            ).logits
        logits[group] = output[torch.arange(len(group)), lasts].float()

    def _masks(self, positions: Tensor, width: int) -> Tensor | dict[str, Tensor]:
        """Additive masks, shape `(rows, 1, queries, width)`; one per kind of layer if there are several kinds."""
        columns = torch.arange(width)
        seen = columns <= positions[..., None]
        near = seen if self._sliding is None else seen & (columns > positions[..., None] - self._sliding)
        if "sliding_attention" in self._kinds and "full_attention" in self._kinds:
            return {"full_attention": self._additive(seen), "sliding_attention": self._additive(near)}
        return self._additive(seen if self._kinds == {"full_attention"} else near)

    def _additive(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self._dtype)
        return mask.masked_fill_(~seen, torch.finfo(self._dtype).min)[:, None].to(self._device)


class PlainDecoder(_ModelDecoder):
    """The slow reference: no cache, the model's own forward pass over full right-padded rows.

    In any causal model, including recurrent ones, padding on the right does not affect the tokens to its left.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context_tokens: int) -> None:
        super().__init__(model)
        self._rows: list[list[int]] = [[] for _ in range(slots)]

    def copy(self, source: int, slots: Sequence[int], length: int) -> None:
        """See `Decoder.copy`."""
        for slot in slots:
            self._rows[slot] = self._rows[source][:length]

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder.prefill`."""
        for slot, start, chunk in zip(slots, starts, chunks, strict=True):
            self._rows[slot][start:] = chunk
        rows = [self._rows[slot] for slot in slots]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self._device)
        with _evaluating(self._model):
            logits: Tensor = self._model(ids, use_cache=False).logits
        return logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])].float()
