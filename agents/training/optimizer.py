"""Optimizer, flat gradient and learning rate of a set of trained parameters."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from zerosearch_env.errors import ConfigError

from ..config.train import TrainConfig
from ..forward.fsdp import local, placed_like


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Creates AdamW, without weight decay for norms and biases (parameters with one dimension).

    Raises:
        ConfigError: `optimizer.eight_bit` is set without a GPU, or without bitsandbytes.
    """
    settings = config.optimizer
    groups = decay_groups(model, settings.weight_decay)
    betas = settings.beta1, settings.beta2
    if settings.eight_bit:
        return _eight_bit(groups, settings.learning_rate, betas)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters as groups of an optimizer: without weight decay for norms and biases (one dimension)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _eight_bit(groups: list[dict[str, Any]], rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device
    if device.type != "cuda":
        raise ConfigError(f"optimizer.eight_bit needs a GPU, the policy is on {device}; remove the option.")
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError as cause:
        raise ConfigError(
            f"optimizer.eight_bit needs bitsandbytes, which cannot be imported ({cause}): pip install bitsandbytes."
        ) from cause
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(groups, lr=rate, betas=betas)
    return optimizer


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """Makes every gradient a view of one flat vector of zeros, so all are summed and measured in one operation.

    For sharded parameters the vector holds this process's parts; FSDP adds the gradients summed over processes to them.
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
    """Scales the gradient, of L2 norm `norm`, down to at most `limit`, then makes one optimizer step at `rate`."""
    gradient.mul_(min(1.0, limit / (norm + 1e-6)))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
