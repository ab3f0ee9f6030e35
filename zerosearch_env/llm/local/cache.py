"""A cache of keys and values that grows in place, for `TransformersBackend`.

Transformers' own cache copies everything at every token. Here a layer has room for the tokens to come, and hands out
views of what is filled; so a token costs what it adds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_BLOCK = 64
"""Tokens by which a full layer grows at least; beyond that by a half of itself."""


class _GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """`DynamicLayer` with spare room behind its keys and values, of shape `(rows, heads, room, width)`."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._room_keys, self._room_values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values; returns all of them."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._room_keys.shape[-2]:
            self._room_keys, self._room_values = _grown(self.keys, end), _grown(self.values, end)
        self._room_keys[:, :, start:end] = key_states
        self._room_values[:, :, start:end] = value_states
        self.keys, self.values = self._room_keys[:, :, :end], self._room_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self.keys = self._room_keys = self.keys[indices]
        self.values = self._room_values = self.values[indices]


def grow_in_place(cache: Any) -> None:
    """Make a cache's layers grow in place, those that simply append; others (sliding windows, states) stay."""
    layers = cache.layers
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            layers[number] = _GrowingLayer(layer.keys, layer.values)


def _grown(held: Tensor, least: int) -> Tensor:
    rows, heads, length, width = held.shape
    room = held.new_empty(rows, heads, max(least + _BLOCK, length + length // 2), width)
    room[:, :, :length] = held
    return room
