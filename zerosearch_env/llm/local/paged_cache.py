"""A paged key/value cache: rows of different lengths share one pool of equal pages, so that no padding is read.

At a batch size of about a hundred, the speed of decoding is limited by reading the cache. With pages of 64 tokens, one
batched matrix product reads exactly the cached tokens (rounded up to a page) for any row lengths, at memory speed.
Padded rows would read twice as much, and a loop over rows would pay the overhead of many calls.

    slot 0   [ 90 tokens ]  -> pages 0, 2          pool   | page 0 | page 1 | page 2 | page 3 | page 4 |
    slot 1   [ 40 tokens ]  -> page  1             owner  |   0    |   1    |   0    |   -1   |   2    |
    slot 2   [ 64 tokens ]  -> page  4                                                (free)

`bias` is 0 for a cached token and minus infinity elsewhere, for example for the last 38 places of page 2. It is added
to the attention scores, so unused places get weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAGE = 64
"""Tokens per page. Smaller pages mean more and smaller products; larger ones waste on average half a page per row."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The pages that a decoding step reads, for its lanes. A lane is an active row, numbered from 0 in each step.

    In the example above, with slots 2 and 0 decoding as lanes 0 and 1: `lane_of_page` = [1, 0, 1, 0, 0],
    `table` = [[4, 5], [0, 2]], `flat` = [4, 0, 2] and `offsets` = [0, 1].
    """

    pages: int
    """Pages of the pool in use, including those of rows that are not decoding; these are computed and ignored."""
    lane_of_page: Tensor
    """Shape `(pages,)`, int64; 0 for pages that no lane owns."""
    table: Tensor
    """The pages of each lane, shape `(lanes, maximum pages per lane)`, int64; padded with `pages`."""
    place_of_page: Tensor
    """Shape `(pages,)`, int64: index of each page in the flattened `table`; 0 for pages that no lane owns."""
    flat: Tensor
    """The pages of all lanes concatenated, shape `(owned pages,)`, int64."""
    offsets: Tensor
    """Start of each lane in `flat`, shape `(lanes,)`, int64."""


class PagedCache:
    """Keys and values of every layer in pages, and the mapping from slots to pages.

    Args:
        layers: number of layers.
        kv_heads: number of key/value heads.
        head_dim: width of a head.
        slots: number of rows.
        max_tokens: maximum tokens per row.
        dtype: dtype of keys and values.
        device: device of keys and values.

    Attributes:
        keys, values: lists with one tensor per layer, shape `(capacity, kv_heads, PAGE, head_dim)`.
        bias: shape `(capacity, PAGE)`, float32: 0 where a token is cached, minus infinity elsewhere.
        lengths: number of cached tokens per slot, shape `(slots,)`.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._shape = (kv_heads, PAGE, head_dim)
        self._dtype, self._device = dtype, device
        self.keys = [torch.empty((0, *self._shape), dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.empty((0, *self._shape), dtype=dtype, device=device) for _ in range(layers)]
        self.bias = torch.empty((0, PAGE), device=device)
        self.lengths: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        self._table: NDArray[np.int64] = np.full((slots, -(-max_tokens // PAGE)), -1, dtype=np.int64)
        self._counts: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        self._owner: NDArray[np.int64] = np.full(0, -1, dtype=np.int64)
        self._used = 0  # only pages below this index may be owned
        self._free: list[int] = []  # free pages below `_used`
        self._version = 0
        self._planned: tuple[int, bytes, Plan] | None = None

    def reserve(self, slots: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Allocate pages so that each slot can hold `lengths` tokens, and count them as cached."""
        needed = -(-lengths // PAGE)
        for index in np.flatnonzero(needed > self._counts[slots]):
            slot = slots[index]
            for number in range(self._counts[slot], needed[index]):
                page = self._take()
                self._table[slot, number] = page
                self._owner[page] = slot
            self._counts[slot] = needed[index]
            self._version += 1
        self.lengths[slots] = lengths

    def truncate(self, slot: int, length: int) -> None:
        """Drop the cached tokens of a slot after the first `length`, and free their pages."""
        if length >= self.lengths[slot]:
            return
        pages = -(-length // PAGE)
        for page in self._table[slot, pages : self._counts[slot]].tolist():
            self._owner[page] = -1
            self._free.append(page)
        self._table[slot, pages : self._counts[slot]] = -1
        self._counts[slot] = pages
        if length % PAGE:
            self.bias[self._table[slot, pages - 1], length % PAGE :] = float("-inf")
        self.lengths[slot] = length
        self._version += 1
        if len(self._free) > 8 and len(self._free) * 4 > self._used:
            self._compact()

    def copy(self, source: int, slots: Sequence[int], length: int) -> None:
        """Copy the first `length` tokens of slot `source` into empty slots, in separate pages."""
        self.reserve(np.array(slots), np.full(len(slots), length))
        pages = self.pages_of(source, length)
        for slot in slots:
            targets = self.pages_of(slot, length)
            for pool in (*self.keys, *self.values):
                pool[targets] = pool[pages]
            self.bias[targets] = 0.0
            if length % PAGE:  # the source may hold more
                self.bias[targets[-1], length % PAGE :] = float("-inf")

    def places(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return page and offset of each token, and mark it as cached.

        Args:
            slots: shape `(tokens,)`.
            positions: shape `(tokens,)`: index of each token in its row; its page must be reserved.

        Returns:
            Two int64 tensors of shape `(tokens,)`.
        """
        pages = torch.from_numpy(self._table[slots, positions // PAGE]).to(self._device)
        offsets = torch.from_numpy(positions % PAGE).to(self._device)
        self.bias[pages, offsets] = 0.0
        return pages, offsets

    def pages_of(self, slot: int, length: int) -> Tensor:
        """The pages with the first `length` tokens of a slot, in order, int64."""
        return torch.from_numpy(self._table[slot, : -(-length // PAGE)].copy()).to(self._device)

    def plan(self, slots: NDArray[np.int64]) -> Plan:
        """The plan of a decoding step over these slots; reused until a page or the slots change."""
        signature = slots.tobytes()
        if self._planned is not None and self._planned[:2] == (self._version, signature):
            return self._planned[2]
        lane_of_slot = np.zeros(len(self.lengths) + 1, dtype=np.int64)  # the last entry is for owner -1 (none)
        lane_of_slot[slots] = np.arange(len(slots))
        counts = self._counts[slots]
        table = self._table[slots, : counts.max()]
        owned = table >= 0
        place_of_page = np.zeros(self._used, dtype=np.int64)
        place_of_page[table[owned]] = np.flatnonzero(owned)
        plan = Plan(
            pages=self._used,
            lane_of_page=self._tensor(lane_of_slot[self._owner[: self._used]]),
            table=self._tensor(np.where(owned, table, self._used)),
            place_of_page=self._tensor(place_of_page),
            flat=self._tensor(table[owned]),
            offsets=self._tensor(np.cumsum(counts) - counts),
        )
        self._planned = (self._version, signature, plan)
        return plan

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            if self._used == len(self._owner):
                self._grow(max(64, self._used + self._used // 2))
            page = self._used
            self._used += 1
        self.bias[page] = float("-inf")
        for pool in (*self.keys, *self.values):  # clear stale NaN: 0 * NaN is still NaN
            pool[page] = 0.0
        return page

    def _grow(self, capacity: int) -> None:
        def grown(old: Tensor) -> Tensor:
            new = torch.empty((capacity, *old.shape[1:]), dtype=old.dtype, device=old.device)
            new[: self._used] = old[: self._used]
            return new

        for pool in (self.keys, self.values):
            for layer, old in enumerate(pool):
                pool[layer] = grown(old)
        self.bias = grown(self.bias)
        self._owner = np.concatenate([self._owner, np.full(capacity - len(self._owner), -1, dtype=np.int64)])

    def _compact(self) -> None:
        """Move the last pages into the free ones, so that a step computes few unowned pages."""
        count = self._used - len(self._free)
        holes = sorted(page for page in self._free if page < count)
        moved = [page for page in range(count, self._used) if self._owner[page] >= 0]
        if moved:
            source, target = torch.tensor(moved, device=self._device), torch.tensor(holes, device=self._device)
            for pool in (*self.keys, *self.values, self.bias):
                pool[target] = pool[source]
            for old, new in zip(moved, holes, strict=True):
                slot = self._owner[old]
                self._table[slot, self._table[slot] == old] = new
                self._owner[new], self._owner[old] = slot, -1
        self._free.clear()
        self._used = count
        self._version += 1
