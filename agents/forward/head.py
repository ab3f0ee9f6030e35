"""The vocabulary head over sampled tokens: chunks, so that memory is bounded whatever the batch and the vocabulary.

Two ways. `score_tokens` gives log-probabilities and entropies that any loss can be made of, chunk by chunk, and each
chunk is computed again in the backward pass. `head_loss` takes the loss itself as a function of a chunk: its gradient
is made while the chunk's logits are at hand, so that no product is computed twice (three instead of four). It serves
every loss that is a sum over tokens; one that ties tokens together (the sequence ratio of GSPO) goes the first way.

Shape suffixes: `_N` sampled tokens, `_n` those of a chunk, `_D` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = {"cpu": 1 << 27, "cuda": 1 << 29}
"""Most memory of one chunk of float32 logits; about three of them are alive at once."""

TokenLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""Log-probabilities and entropies of a chunk, and its place among all tokens -> the sum of its tokens' losses."""


def chunk_size(vocabulary: int, device: torch.device) -> int:
    """Sampled tokens whose logits are alive at once."""
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
    """Log-probability of every sampled token, and the entropy of the distribution it was drawn from, both `(N,)`.

    Args:
        hidden_ND: hidden states before each sampled token.
        targets_N: the sampled tokens.
        head: the vocabulary head.
        temperature: what the sampler divided its logits by.
        entropy_gradient: whether entropies carry a gradient too; costs one more vector over the vocabulary a token.
        dtype: of the product with the head; what follows is float32.

    Returns:
        Log-probabilities with gradient (where gradients are on), and entropies in nats.
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


def _score(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: nn.Module,
    temperature: float,
    entropy_gradient: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of targets and entropies from hidden states."""
    with torch.autocast(hidden_ND.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits_NV = head(hidden_ND).float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    normaliser_N = torch.logsumexp(logits_NV, dim=-1)
    logprobs_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - normaliser_N
    if entropy_gradient:
        probabilities_NV = (logits_NV - normaliser_N[:, None]).exp()
        return logprobs_N, normaliser_N - (probabilities_NV * logits_NV).sum(-1)
    with torch.no_grad():
        probabilities_NV = (logits_NV - normaliser_N[:, None]).exp_()
        entropy_N = normaliser_N - probabilities_NV.mul_(logits_NV).sum(-1)
    return logprobs_N, entropy_N


@torch.no_grad()
def target_logprobs(
    hidden_ND: Tensor, targets_N: Tensor, head: nn.Module, temperature: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Log-probabilities as `score_tokens` gives them, without entropies and without a gradient."""
    size = chunk_size(_vocabulary(head), hidden_ND.device)
    parts = []
    for hidden_nD, targets_n in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        with torch.autocast(hidden_ND.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits_nV = head(hidden_nD).float()
        if temperature != 1.0:
            logits_nV.div_(temperature)
        parts.append(-F.cross_entropy(logits_nV, targets_n, reduction="none"))
    return torch.cat(parts) if parts else hidden_ND.new_zeros(0, dtype=torch.float32)


def takes_token_loss(head: Any) -> bool:
    """Whether `head_loss` can differentiate this head by hand: a plain linear layer without bias, held whole."""
    return type(head) is nn.Linear and head.bias is None and type(head.weight) in (nn.Parameter, Tensor)


def head_loss(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: nn.Linear,
    temperature: float,
    token_loss: TokenLoss,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """A loss that is a sum over tokens, from hidden states on.

    Args:
        hidden_ND: hidden states before each sampled token.
        targets_N: the sampled tokens.
        head: the vocabulary head (`takes_token_loss`).
        temperature: what the sampler divided its logits by.
        token_loss: called once a chunk, with gradients on; the tensors that it gets are leaves.
        dtype: of the products with the head; what lies between is float32.

    Returns:
        The loss, and log-probabilities and entropies without gradient.
    """
    found: tuple[Tensor, Tensor, Tensor]
    found = _HeadLoss.apply(hidden_ND, head.weight, targets_N, temperature, token_loss, dtype)  # type: ignore[no-untyped-call]
    return found


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
    ) -> tuple[Tensor, Tensor, Tensor]:
        whole = dtype == torch.float32
        cast_VD = weight_VD.to(dtype)
        size = chunk_size(len(weight_VD), hidden_ND.device) * (1 if whole else 2)
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        d_hidden_ND = torch.empty_like(hidden_ND)
        d_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        logprobs_N, entropy_N = (torch.empty(len(targets_N), device=hidden_ND.device) for _ in range(2))
        for begin in range(0, len(targets_N), size):
            part = slice(begin, min(begin + size, len(targets_N)))
            cast_nD = hidden_ND[part].to(dtype)
            logits_nV = cast_nD @ cast_VD.t()
            # With short numbers the float32 half of the work goes some rows at a time, and ends where the logits were.
            rows = part.stop - begin if whole else max(1, size // 8)
            for first in range(0, part.stop - begin, rows):
                inner = slice(begin + first, min(begin + first + rows, part.stop))
                here = logits_nV[first : first + rows]
                logprobs_N[inner], entropy_N[inner], one = _differentiate(
                    here, targets_N[inner], temperature, token_loss, inner
                )
                loss += one
            d_hidden_ND[part] = logits_nV @ cast_VD
            if d_weight_VD is not None and whole:
                d_weight_VD.addmm_(logits_nV.t(), cast_nD)
            elif d_weight_VD is not None:
                d_weight_VD += logits_nV.t() @ cast_nD
        ctx.save_for_backward(d_hidden_ND, d_weight_VD)
        ctx.mark_non_differentiable(logprobs_N, entropy_N)
        return loss, logprobs_N, entropy_N

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        d_hidden_ND, d_weight_VD = ctx.saved_tensors
        if float(gradient) != 1.0:
            d_hidden_ND = d_hidden_ND * gradient
            d_weight_VD = None if d_weight_VD is None else d_weight_VD * gradient
        return d_hidden_ND, d_weight_VD, None, None, None, None


def _differentiate(
    logits_nV: Tensor, targets_n: Tensor, temperature: float, token_loss: TokenLoss, part: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and loss of some rows; the loss's gradient takes the place of the logits.

    With p = softmax(z), z = logits / temperature: d log p_t / d z = onehot_t - p, d H / d z_j = -p_j (log p_j + H).
    """
    wide_nV = logits_nV.float()
    if temperature != 1.0:
        wide_nV = wide_nV / temperature
    p_nV = wide_nV.softmax(-1)
    # The largest probability is exp(largest logit - normaliser): no second pass of exponentials.
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
