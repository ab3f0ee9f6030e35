"""What a set of trained parameters needs beside it: an optimizer, a flat gradient, a learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import TrainConfig
from .sharding import local, placed_like


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves out norms and biases (everything with one dimension)."""
    settings = config.optimizer
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """Points every parameter's gradient into one flat vector of zeros, so that it is summed and measured in one go.

    Of sharded parameters it holds this process's parts, into which FSDP adds what it has summed over the processes.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = [local(parameter.detach()) for parameter in parameters]
    flat = torch.zeros(sum(part.numel() for part in parts), dtype=torch.float32, device=parts[0].device)
    offset = 0
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = placed_like(parameter, flat[offset : offset + part.numel()].view_as(part))
        offset += part.numel()
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
