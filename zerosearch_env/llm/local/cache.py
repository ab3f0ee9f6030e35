"""A KV cache that grows in place, for `TransformersBackend`.

Transformers' own cache copies all keys and values at every token. Here a layer allocates spare room for the next tokens
and returns views of the filled part, so a token costs only its own keys and values:

    room   [ k0 k1 k2 k3 | .. .. .. .. ]
    keys     ^---------^   a view; the next token is written right after it
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_BLOCK = 64
"""Spare tokens of a layer that has grown. A long layer grows to 1.5 times its length instead."""


class _GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """`DynamicLayer` with spare room after its keys and values, of shape `(rows, heads, room, width)`."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._room_keys, self._room_values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return all of them."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._room_keys.shape[-2]:
            self._room_keys, self._room_values = _grown(self.keys, end), _grown(self.values, end)
        self._room_keys[:, :, start:end] = key_states
        self._room_values[:, :, start:end] = value_states
        self.keys, self.values = self._room_keys[:, :, :end], self._room_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the given rows."""
        self.keys = self._room_keys = self.keys[indices]
        self.values = self._room_values = self.values[indices]


def grow_in_place(cache: Any) -> None:
    """Replace a cache's plain appending layers by growing ones; other layers (sliding windows, states) stay."""
    layers = cache.layers
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            layers[number] = _GrowingLayer(layer.keys, layer.values)


def _grown(held: Tensor, least: int) -> Tensor:
    rows, heads, length, width = held.shape
    room = held.new_empty(rows, heads, max(least + _BLOCK, length + length // 2), width)
    room[:, :, :length] = held
    return room
