"""What a set of trained parameters needs beside it: an optimizer, a flat gradient, a learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from zerosearch_env.errors import require

from .config import TrainConfig


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW whose weight decay leaves out norms and biases (everything with one dimension).

    Raises:
        MissingExtraError: `optimizer.eight_bit` is set and bitsandbytes is not installed.
    """
    settings = config.optimizer
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = settings.beta1, settings.beta2
    if settings.eight_bit:
        bitsandbytes = require("bitsandbytes", "eight-bit")
        optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=betas)
        return optimizer
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """Points every parameter's gradient into one flat vector of zeros, so that it is summed and measured in one go."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float32, device=parameters[0].device)
    offset = 0
    for parameter in parameters:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return flat


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then a straight line to `final_fraction` of the peak at the last step."""
    settings = config.optimizer
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(config.steps - 1 - settings.warmup_steps, 1)
    return settings.learning_rate * (1.0 - (1.0 - settings.final_fraction) * min(done, 1.0))


def clip_and_step(optimizer: torch.optim.Optimizer, gradient: Tensor, norm: float, limit: float, rate: float) -> None:
    """One optimizer step at `rate`, the gradient of L2 norm `norm` cut to `limit` first."""
    gradient.mul_(min(1.0, limit / (norm + 1e-6)))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
