"""The vocabulary head over sampled tokens, in chunks that bound the memory for any batch and vocabulary.

    hidden_ND -> [chunk 0: n x D] -> logits n x V -> log-probabilities, entropies -> dropped
                 [chunk 1: n x D] -> logits n x V -> ...          only one chunk of logits exists at a time

There are two ways. `score_tokens` returns log-probabilities and entropies from which any loss can be computed; the
backward pass computes each chunk again. `head_loss` takes the loss as a function of a chunk and computes its gradient
while the chunk's logits exist, so no product is computed twice (three products instead of four). It works for every
loss that is a sum over tokens. A loss that couples tokens (the sequence ratio of GSPO) must use the first way.

Shape suffixes: `_N` sampled tokens, `_n` those of a chunk, `_D` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .chunks import CHUNK_BYTES
from .functions import apply, once_differentiable

TokenLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""Maps a chunk's log-probabilities, its entropies and its slice of all tokens to the sum of its tokens' losses."""


def chunk_size(vocabulary: int, device: torch.device) -> int:
    """Number of sampled tokens per chunk."""
    return max(16, CHUNK_BYTES.get(device.type, 1 << 29) // (4 * vocabulary))


def score_tokens(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: nn.Module,
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every sampled token, and the entropy of the distribution it was sampled from, both `(N,)`.

    Args:
        hidden_ND: hidden states before each sampled token.
        targets_N: the sampled tokens.
        head: the vocabulary head.
        temperature: the sampling temperature; logits are divided by it.
        entropy_gradient: whether entropies have a gradient too; costs another vector over the vocabulary per token.
        dtype: data type of the product with the head; the rest is computed in float32.

    Returns:
        Log-probabilities with gradient (if gradients are enabled), and entropies in nats.
    """
    size = chunk_size(_vocabulary(head), hidden_ND.device)
    if len(targets_N) <= size:
        return _score(hidden_ND, targets_N, head, temperature, entropy_gradient, dtype)
    parts = [
        checkpoint(_score, hidden, targets, head, temperature, entropy_gradient, dtype, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(size), targets_N.split(size), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _vocabulary(head: Any) -> int:
    return int(head.weight.shape[0])


def _logits(hidden_ND: Tensor, head: nn.Module, temperature: float, dtype: torch.dtype) -> Tensor:
    """Logits in float32, divided by the temperature; the product is in bfloat16 inside an autocast context too."""
    kind = hidden_ND.device.type
    half = dtype == torch.bfloat16 or torch.is_autocast_enabled(kind)
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
        logits_NV: Tensor = head(hidden_ND).float()
    return logits_NV if temperature == 1.0 else logits_NV / temperature


def _score(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: nn.Module,
    temperature: float,
    entropy_gradient: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and entropies, from hidden states."""
    logits_NV = _logits(hidden_ND, head, temperature, dtype)
    normaliser_N = torch.logsumexp(logits_NV, dim=-1)
    logprobs_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - normaliser_N
    if entropy_gradient:
        probabilities_NV = (logits_NV - normaliser_N[:, None]).exp()
        return logprobs_N, normaliser_N - (probabilities_NV * logits_NV).sum(-1)
    with torch.no_grad():
        probabilities_NV = (logits_NV - normaliser_N[:, None]).exp_()
        entropy_N = normaliser_N - probabilities_NV.mul_(logits_NV).sum(-1)
    return logprobs_N, entropy_N


def cross_entropy(
    hidden_ND: Tensor, targets_N: Tensor, head: nn.Module, temperature: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """-log p of every target, shape `(N,)`, as in `score_tokens` but without entropies.

    With gradients enabled and more than one chunk, the backward pass computes each chunk again.
    """
    size = chunk_size(_vocabulary(head), hidden_ND.device)
    if len(targets_N) <= size:
        return _cross_entropy(hidden_ND, targets_N, head, temperature, dtype)
    parts = [
        checkpoint(_cross_entropy, hidden_nD, targets_n, head, temperature, dtype, use_reentrant=False)
        for hidden_nD, targets_n in zip(hidden_ND.split(size), targets_N.split(size), strict=True)
    ]
    return torch.cat(parts)


def _cross_entropy(
    hidden_ND: Tensor, targets_N: Tensor, head: nn.Module, temperature: float, dtype: torch.dtype
) -> Tensor:
    return F.cross_entropy(_logits(hidden_ND, head, temperature, dtype), targets_N, reduction="none")


def takes_token_loss(head: Any) -> bool:
    """Whether `head_loss` supports this head: it must be a plain linear layer, without bias and not sharded."""
    return type(head) is nn.Linear and head.bias is None and type(head.weight) in (nn.Parameter, Tensor)


def head_loss(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: nn.Linear,
    temperature: float,
    token_loss: TokenLoss,
    *,
    dtype: torch.dtype = torch.float32,
    d_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes a loss that is a sum over tokens from hidden states.

    Args:
        hidden_ND: hidden states before each sampled token.
        targets_N: the sampled tokens.
        head: the vocabulary head (`takes_token_loss`).
        temperature: the sampling temperature; logits are divided by it.
        token_loss: called for each chunk with gradients enabled; its arguments are leaf tensors.
        dtype: data type of the products with the head; everything else is computed in float32.
        d_weight: the gradient of the head's weight is added to this tensor at once, and not passed on by the backward
            pass. So there is no second tensor of that size, which often is the largest of a model. The loss must then
            be a term of what `backward` is called on, with factor 1. None: the backward pass passes it on.

    Returns:
        The loss, and log-probabilities and entropies without gradient.
    """
    result: tuple[Tensor, Tensor, Tensor] = apply(
        _HeadLoss, hidden_ND, head.weight, targets_N, temperature, token_loss, dtype, d_weight
    )
    return result


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        token_loss: TokenLoss,
        dtype: torch.dtype,
        d_weight_VD: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = dtype == torch.float32
        cast_VD = weight_VD.to(dtype)
        size = chunk_size(len(weight_VD), hidden_ND.device) * (1 if exact else 2)
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        d_hidden_ND = torch.empty_like(hidden_ND)
        ctx.done = d_weight_VD is not None
        logprobs_N, entropy_N = (torch.empty(len(targets_N), device=hidden_ND.device) for _ in range(2))
        for begin in range(0, len(targets_N), size):
            part = slice(begin, min(begin + size, len(targets_N)))
            cast_nD = hidden_ND[part].to(dtype)
            logits_nV = cast_nD @ cast_VD.t()
            # The float32 part runs on a few rows at a time and overwrites the logits with their gradient.
            rows = max(1, size // 8)
            for first in range(0, part.stop - begin, rows):
                inner = slice(begin + first, min(begin + first + rows, part.stop))
                here = logits_nV[first : first + rows]
                logprobs_N[inner], entropy_N[inner], part_loss = _differentiate(
                    here, targets_N[inner], temperature, token_loss, inner
                )
                loss += part_loss
            d_hidden_ND[part] = logits_nV @ cast_VD
            if not ctx.needs_input_grad[1]:
                continue
            if d_weight_VD is None:
                d_weight_VD = (logits_nV.t() @ cast_nD).to(weight_VD.dtype)
            elif exact:
                d_weight_VD.addmm_(logits_nV.t(), cast_nD)
            else:
                d_weight_VD += logits_nV.t() @ cast_nD
        ctx.save_for_backward(d_hidden_ND, None if ctx.done else d_weight_VD)
        ctx.mark_non_differentiable(logprobs_N, entropy_N)
        return loss, logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        d_hidden_ND, d_weight_VD = ctx.saved_tensors
        if float(gradient) != 1.0:
            assert not ctx.done, "the head's gradient was added for a factor of 1"
            d_hidden_ND = d_hidden_ND * gradient
            d_weight_VD = None if d_weight_VD is None else d_weight_VD * gradient
        return d_hidden_ND, d_weight_VD, None, None, None, None, None


def _differentiate(
    logits_nV: Tensor, targets_n: Tensor, temperature: float, token_loss: TokenLoss, part: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and loss of some rows; overwrites the logits with the loss's gradient.

    With p = softmax(z), z = logits / temperature: d log p_t / d z = onehot_t - p, d H / d z_j = -p_j (log p_j + H).
    """
    wide_nV = logits_nV.float()
    if temperature != 1.0:
        wide_nV = wide_nV / temperature
    p_nV = wide_nV.softmax(-1)
    # The largest probability is exp(largest logit - normaliser), so no second pass of exponentials is needed.
    normaliser_n = wide_nV.amax(-1) - p_nV.amax(-1).log_()
    logprobs_n = wide_nV.gather(1, targets_n[:, None])[:, 0] - normaliser_n
    entropy_n = normaliser_n - torch.bmm(p_nV[:, None], wide_nV[:, :, None])[:, 0, 0]
    with torch.enable_grad():
        leaves = logprobs_n.detach().requires_grad_(), entropy_n.detach().requires_grad_()
        loss = token_loss(*leaves, part)
        by_logprob_n, by_entropy_n = torch.autograd.grad(loss, leaves, allow_unused=True)
    if by_logprob_n is None:
        by_logprob_n = torch.zeros_like(logprobs_n)
    factor_n1 = -by_logprob_n[:, None]
    if by_entropy_n is not None:  # -p (log p + H) = p (normaliser - H - z)
        p_nV.mul_((normaliser_n - entropy_n)[:, None].sub(wide_nV).mul_(by_entropy_n[:, None]).add_(factor_n1))
    else:
        p_nV.mul_(factor_n1)
    p_nV.scatter_add_(1, targets_n[:, None], by_logprob_n[:, None])
    if temperature != 1.0:
        p_nV.div_(temperature)
    logits_nV.copy_(p_nV)
    return logprobs_n, entropy_n, loss.detach()
