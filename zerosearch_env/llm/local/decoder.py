"""Decoders: a language model with a cache for many rows of different lengths, one slot per row."""

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
"""Maximum error of a decoder's logits against the model's own forward pass, relative to the largest logit."""


class Decoder(Protocol):
    """The model interface of the sampler. Slot s holds one row; the caller keeps track of its cached tokens."""

    vocab_size: int
    """Number of logits."""

    def prefill(self, slots: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append a chunk of tokens to each of the given rows.

        Args:
            slots: the rows' slots, distinct, at least one.
            starts: number of cached tokens to keep per row; cached tokens after them are dropped.
            chunks: the tokens to append, at least one per row.

        Returns:
            Logits after each chunk's last token, shape `(rows, vocab_size)`, float32.
        """
        ...

    def step(self, slots: NDArray[np.int64], positions: NDArray[np.int64], tokens: NDArray[np.int64]) -> Tensor:
        """Append one token to each of the given rows.

        Args:
            slots: shape `(rows,)`, distinct, at least one.
            positions: shape `(rows,)`: number of tokens of each row that are already cached.
            tokens: shape `(rows,)`.

        Returns:
            Logits after the new tokens, shape `(rows, vocab_size)`, float32.
        """
        ...

    def copy(self, source: int, slots: Sequence[int], length: int) -> None:
        """Copy the cache of the first `length` tokens of slot `source` into empty slots."""
        ...

    def release(self, slot: int) -> None:
        """Clear a slot."""
        ...

    def refresh(self) -> None:
        """Load changed weights. The cache was computed with the old ones: the caller must prefill its rows again."""
        ...

    def free(self) -> None:
        """Free memory until the next use; every slot must be empty."""
        ...


def make_decoder(model: PreTrainedModel, slots: int, context_tokens: int, *, copy_weights: bool = True) -> Decoder:
    """Make the fastest decoder that gives the same results as the model.

    Args:
        model: a causal language model in evaluation mode.
        slots: number of rows that it holds at the same time.
        context_tokens: maximum tokens per row.
        copy_weights: whether the fused decoder, which holds a second copy of the weights, may be used.

    Returns:
        A fused decoder for dense Llama-like models; otherwise the model's own forward pass with a cache; otherwise
        (with a logged warning) without a cache. The first two are used only if they agree with the model's plain
        forward pass on a few tokens.
    """
    # The comparison needs two slots and a few tokens.
    slots, context_tokens = max(slots, 2), max(context_tokens, 16)
    reason = why_not_fused(model) if copy_weights else "it copies the weights"
    if reason is None:
        decoder: Decoder = FusedDecoder(model, slots, context_tokens)
        reason = _disagreement(model, decoder)
        if reason is None:
            return decoder
    _log.info("the fused decoder is not used: %s", reason)
    try:
        decoder = CachedDecoder(model, slots, context_tokens)
        reason = _disagreement(model, decoder)
    except Exception as cause:  # a model without explicit masks or positions may raise anything
        reason = f"{type(cause).__name__}: {cause}"
    if reason is None:
        return decoder
    _log.warning("%s is decoded without a cache, which is slow: %s", type(model).__name__, reason)
    return PlainDecoder(model, slots, context_tokens)


def _disagreement(model: PreTrainedModel, decoder: Decoder) -> str | None:
    """How a decoder differs from the model on two short rows of unequal length; None if they agree."""
    rows = [[(7 * index + 3) % decoder.vocab_size for index in range(length)] for length in (9, 5)]
    decoder.prefill([0, 1], [0, 0], [rows[0][:6], rows[1][:4]])
    decoder.prefill([0], [6], [rows[0][6:8]])
    got = decoder.step(np.array([1, 0]), np.array([4, 8]), np.array([rows[1][4], rows[0][8]]))
    decoder.release(1)
    decoder.copy(0, [1], 7)
    copied = decoder.prefill([1], [7], [rows[0][7:]])
    expected = PlainDecoder(model, 2, 16).prefill([1, 0], [0, 0], rows[::-1])
    decoder.release(0)
    decoder.release(1)
    got, expected = torch.cat([got, copied]), torch.cat([expected, expected[1:]])
    error, scale = float((got - expected).abs().max()), float(expected.abs().max())
    if error <= _TOLERANCE.get(model.dtype, 1e-3) * max(scale, 1e-3):
        return None
    return f"logits differ by {error:.2g} from those of the model's own forward"
