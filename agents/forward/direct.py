"""Layers whose weight gradients are added to `.grad` directly, as in Megatron-LM's gradient accumulation fusion.

autograd makes the gradient of each weight as a new tensor and then adds it to `.grad`: one more tensor, and one more
pass over memory of the size of the model in every micro-batch. Here the product that makes the gradient adds it.

It is added when `backward` runs (`head.head_loss`: before), so `torch.autograd.grad` does not return it, and a weight
without a `.grad` (`optimizer.flat_gradient` makes one) gets its gradient from autograd as usual.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functions import apply, once_differentiable


def own_gradient(weight: Tensor) -> Tensor | None:
    """The tensor to which a weight's gradient can be added; None if autograd must do it.

    None for a weight that is frozen, sharded, not in float32, or has no `.grad`, and where no gradients are computed.
    """
    plain = type(weight) is nn.Parameter and weight.requires_grad and weight.dtype == torch.float32
    return weight.grad if plain and torch.is_grad_enabled() else None


def linear(layer: Any, x_TD: Tensor) -> Tensor:
    """layer(x_TD), of any kind of layer; a plain linear one adds its weight's gradient to `.grad`."""
    gradient = own_gradient(layer.weight) if type(layer) is nn.Linear and x_TD.dtype == torch.float32 else None
    if gradient is None or torch.is_autocast_enabled(x_TD.device.type):
        through: Tensor = layer(x_TD)
        return through
    result: Tensor = apply(_Linear, x_TD, layer.weight, layer.bias, gradient)
    return result


def embed(layer: Any, ids_T: Tensor) -> Tensor:
    """layer(ids_T), of any kind of layer; a plain embedding adds its weight's gradient to `.grad`."""
    plain = type(layer) is nn.Embedding and layer.max_norm is None and not layer.scale_grad_by_freq
    gradient = own_gradient(layer.weight) if plain and not layer.sparse else None
    if gradient is None:
        through: Tensor = layer(ids_T)
        return through
    result: Tensor = apply(_Embedding, layer.weight, ids_T, layer.padding_idx, gradient)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight: Tensor, bias: Tensor | None, d_weight: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, weight)
        ctx.d_weight = d_weight
        return F.linear(x_TD, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x_TD, weight = ctx.saved_tensors
        d_x = gradient @ weight if ctx.needs_input_grad[0] else None
        ctx.d_weight.addmm_(gradient.t(), x_TD)
        return d_x, None, gradient.sum(0) if ctx.needs_input_grad[2] else None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids_T: Tensor, padding: int | None, d_weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids_T)
        ctx.padding, ctx.d_weight = padding, d_weight
        return F.embedding(ids_T, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (ids_T,) = ctx.saved_tensors
        if ctx.padding is not None:  # its row is not trained
            gradient = gradient * (ids_T != ctx.padding)[:, None]
        ctx.d_weight.index_add_(0, ids_T, gradient)
        return None, None, None, None
