"""Drawing tokens: one uniform number a row and position, inverse CDF, log-probability in the same pass."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Sample one token a row by inverting the cumulative distribution.

    Args:
        logits: shape `(rows, vocab)`.
        uniforms: shape `(rows,)`, float64 in [0, 1); unused when greedy.
        temperature: divides the logits; 0 takes the most likely token.

    Returns:
        Token ids, shape `(rows,)`, int64, and their log-probabilities, shape `(rows,)`, float32: under the sampling
        temperature, or under temperature 1 when greedy.
    """
    scaled = logits.float() if temperature in (0, 1) else logits.float() / temperature
    logprobs = scaled.log_softmax(-1)
    if temperature == 0:
        tokens = scaled.argmax(-1)
    else:
        cumulative = logprobs.exp().cumsum(-1)
        target = uniforms.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]
