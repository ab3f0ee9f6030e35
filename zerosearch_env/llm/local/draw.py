"""Drawing tokens: one uniform number per row and position, inverse CDF, log-probability in the same pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 64


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """Sample one token per row by inverting the cumulative distribution.

    A running sum over the whole vocabulary is slow because it does not vectorise. So the probabilities are summed per
    block of 64 tokens first, and only the block that contains the uniform number is summed token by token:

        vocabulary    [ block 0 | block 1 | block 2 | ... ]
        block sums       0.2       0.6       0.9            cumulative; u = 0.7 lies in block 2
        in block 2    [0.62, 0.65, 0.71, ...]               the third token is the first sum above u

    A token with probability 0 is never drawn.

    Args:
        logits: shape `(rows, vocab)`, float32.
        uniforms: shape `(rows,)`, float64 in [0, 1); unused when greedy.
        temperature: divides the logits; 0 takes the most likely token (the first one if several are equal).
        top_p: nucleus sampling (see `nucleus`); no effect when greedy.

    Returns:
        Token ids, shape `(rows,)`, int64, and their log-probabilities, shape `(rows,)`, float32: in the distribution
        that is sampled from, or at temperature 1 when greedy. NaN logits give NaN log-probabilities and valid ids.
    """
    scaled = logits if temperature in (0, 1) else logits / temperature
    if top_p < 1 and temperature > 0:
        scaled = nucleus(scaled, torch.full(logits.shape[:1], top_p, device=logits.device, dtype=torch.float64))
    probabilities = scaled.softmax(-1)
    if temperature == 0:
        block = _by_block(logits, Tensor.amax).argmax(-1)
        inside = _one_block(logits, block, float("-inf")).argmax(-1)
    else:
        sums = _by_block(probabilities, Tensor.sum).double().cumsum(-1)
        target = uniforms[:, None] * sums[:, -1:]
        block = _first_above(sums, target)
        before = torch.where(block > 0, sums.gather(1, (block - 1).clamp_(min=0)[:, None])[:, 0], 0.0)
        inner = _one_block(probabilities, block, 0.0).double().cumsum(-1)
        inside = _first_above(inner, target - before[:, None])
    tokens = (block * _BLOCK + inside).clamp_(max=logits.shape[1] - 1)
    return tokens, probabilities.gather(1, tokens[:, None])[:, 0].log()


def nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """The logits of the most probable tokens that together have at least the probability `top_p`; others are -inf.

    Args:
        logits: shape `(rows, vocab)`, divided by the temperature.
        top_p: one per row, shape `(rows,)`, float64 in (0, 1].
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    shares = ordered.softmax(-1).double()
    ordered[shares.cumsum(-1) - shares >= top_p[:, None]] = float("-inf")
    return logits.scatter(-1, order, ordered)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """Index of the first running sum above the target; despite rounding, at most the last non-zero summand."""
    return torch.minimum((sums <= target).sum(-1), (sums < sums[:, -1:]).sum(-1))


def _by_block(values: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce blocks of the vocabulary, shape `(rows, blocks)`; the last block may be shorter."""
    vocab = values.shape[1]
    whole = vocab - vocab % _BLOCK
    blocks = reduce(values[:, :whole].view(len(values), whole // _BLOCK, _BLOCK), -1) if whole else values[:, :0]
    return blocks if whole == vocab else torch.cat([blocks, reduce(values[:, whole:], -1)[:, None]], 1)


def _one_block(values: Tensor, block: Tensor, fill: float) -> Tensor:
    """The values of one block per row, shape `(rows, _BLOCK)`; padded with `fill` beyond the vocabulary."""
    vocab = values.shape[1]
    index = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=values.device)
    members = values.gather(1, index.clamp(max=vocab - 1))
    return members if vocab % _BLOCK == 0 else members.masked_fill_(index >= vocab, fill)
