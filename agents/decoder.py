"""Decoders: a language model with a cache of many rows of different lengths, one slot a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(Protocol):
    """What a sampler needs of a model. Slot s holds one row; the caller knows how many tokens of it are cached."""

    vocab_size: int

    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append a chunk of tokens to each of some rows.

        Args:
            slots: the rows' slots, distinct.
            starts: how many tokens of each row are cached already.
            chunks: the tokens to append, at least one a row.

        Returns:
            Logits that follow each chunk's last token, shape `(rows, vocab_size)`.
        """
        ...

    def step(self, slots: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Append one token to each of some rows.

        Args:
            slots: shape `(rows,)`, int64, distinct.
            positions: shape `(rows,)`, int64: how many tokens of each row are cached already.
            tokens: shape `(rows,)`, int64.

        Returns:
            Logits that follow, shape `(rows, vocab_size)`.
        """
        ...

    def refresh(self) -> None:
        """Take over changed weights. What is cached was computed with the old ones: the caller drops it."""
        ...


class PlainDecoder:
    """The reference: no cache at all, the model's own forward over whole right-padded rows."""

    def __init__(self, model: PreTrainedModel, slots: int, context_tokens: int) -> None:
        self.model = model
        self.vocab_size = int(model.config.vocab_size)
        self._rows: list[list[int]] = [[] for _ in range(slots)]

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder.prefill`."""
        for slot, start, chunk in zip(slots, starts, chunks, strict=True):
            self._rows[slot][start:] = chunk
        rows = [self._rows[slot] for slot in slots]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        ends = torch.tensor([len(row) - 1 for row in rows])
        logits: Tensor = self.model(ids, use_cache=False).logits
        return logits[torch.arange(len(rows)), ends].float()

    def step(self, slots: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """See `Decoder.step`."""
        return self.prefill(slots.tolist(), positions.tolist(), [[token] for token in tokens.tolist()])

    def refresh(self) -> None:
        """See `Decoder.refresh`: nothing is kept."""


def make_decoder(model: PreTrainedModel, slots: int, context_tokens: int) -> Decoder:
    """The fastest decoder that is exact for this model."""
    return PlainDecoder(model, slots, context_tokens)
