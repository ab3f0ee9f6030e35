"""Decoders: a language model with a cache of many rows of different lengths, one slot a row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .fused import FusedDecoder, why_not_fused
from .generic import CachedDecoder, PlainDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest error of a decoder's logits against the model's own forward, relative to the largest logit."""


class Decoder(Protocol):
    """What a sampler needs of a model. Slot s holds one row; the caller knows how many tokens of it are cached."""

    vocab_size: int
    """Number of logits."""

    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append a chunk of tokens to each of some rows.

        Args:
            slots: the rows' slots, distinct, at least one.
            starts: how many tokens of each row are kept; what was cached beyond them is dropped.
            chunks: the tokens to append, at least one a row.

        Returns:
            Logits that follow each chunk's last token, shape `(rows, vocab_size)`, float32.
        """
        ...

    def step(self, slots: NDArray[np.int64], positions: NDArray[np.int64], tokens: NDArray[np.int64]) -> Tensor:
        """Append one token to each of some rows.

        Args:
            slots: shape `(rows,)`, distinct, at least one.
            positions: shape `(rows,)`: how many tokens of each row are cached already.
            tokens: shape `(rows,)`.

        Returns:
            Logits that follow, shape `(rows, vocab_size)`, float32.
        """
        ...

    def copy(self, source: int, slots: Sequence[int], length: int) -> None:
        """Give empty slots what a slot has cached of its first `length` tokens."""
        ...

    def release(self, slot: int) -> None:
        """Forget what a slot holds."""
        ...

    def refresh(self) -> None:
        """Take over changed weights. What is cached was computed with the old ones: the caller starts its rows anew."""
        ...


def make_decoder(model: PreTrainedModel, slots: int, context_tokens: int) -> Decoder:
    """The fastest decoder that computes what the model itself does.

    Args:
        model: a causal language model in evaluation mode.
        slots: rows that it holds at once.
        context_tokens: most tokens of a row.

    Returns:
        A fused decoder for dense Llama-like models, else one around the model's own forward with a cache, else (with a
        logged warning) one without a cache. Each has been compared with the model's plain forward on a few tokens.
    """
    # The comparison takes two slots and a few tokens.
    slots, context_tokens = max(slots, 2), max(context_tokens, 16)
    reason = why_not_fused(model)
    if reason is None:
        decoder: Decoder = FusedDecoder(model, slots, context_tokens)
        reason = _disagreement(model, decoder)
        if reason is None:
            return decoder
    _log.info("the fused decoder is not used: %s", reason)
    try:
        decoder = CachedDecoder(model, slots, context_tokens)
        reason = _disagreement(model, decoder)
    except Exception as cause:  # whatever a model that takes no explicit masks or positions raises
        reason = f"{type(cause).__name__}: {cause}"
    if reason is None:
        return decoder
    _log.warning("%s is decoded without a cache, which is slow: %s", type(model).__name__, reason)
    return PlainDecoder(model, slots, context_tokens)


def _disagreement(model: PreTrainedModel, decoder: Decoder) -> str | None:
    """What a decoder does differently from the model on two short rows of unequal length; None if nothing."""
    rows = [[(7 * index + 3) % decoder.vocab_size for index in range(length)] for length in (9, 5)]
    decoder.prefill([0, 1], [0, 0], [rows[0][:6], rows[1][:4]])
    decoder.prefill([0], [6], [rows[0][6:8]])
    got = decoder.step(np.array([1, 0]), np.array([4, 8]), np.array([rows[1][4], rows[0][8]]))
    decoder.release(1)
    decoder.copy(0, [1], 7)
    copied = decoder.prefill([1], [7], [rows[0][7:]])
    want = PlainDecoder(model, 2, 16).prefill([1, 0], [0, 0], rows[::-1])
    decoder.release(0)
    decoder.release(1)
    got, want = torch.cat([got, copied]), torch.cat([want, want[1:]])
    error, scale = float((got - want).abs().max()), float(want.abs().max())
    if error <= _TOLERANCE.get(model.dtype, 1e-3) * max(scale, 1e-3):
        return None
    return f"logits differ by {error:.2g} from those of the model's own forward"
