"""The critic: a value before every token that the policy samples, from a trunk of its own or from the policy's.

Documents and prompts have hidden states but no values: nothing is decided there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config.train import TrainConfig
from ..forward.batch import MicroBatch, hidden_states
from ..forward.fsdp import Place, is_sharded
from ..policy.policy import Policy
from .optimizer import flat_gradient, make_optimizer


@dataclass
class Critic:
    """A value function with its own optimizer. Its state is in the parameters and the optimizer."""

    module: nn.Module
    """All parameters that are the critic's own: with a shared trunk the value head alone."""
    trunk: Any | None
    """A causal language model whose vocabulary head is the value head; None: the policy's hidden states are read."""
    head: nn.Linear
    """Hidden state -> value."""
    optimizer: torch.optim.Optimizer
    gradient: Tensor
    """The critic's own gradients as one flat vector, which every parameter's `.grad` is a view of."""

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of it only; a value head alone is whole everywhere."""
        return self.trunk is not None and is_sharded(self.trunk)

    def weights(self) -> dict[str, Tensor]:
        """The critic's own trained parameters by name, shared ones once."""
        return {name: parameter.data for name, parameter in self.module.named_parameters() if parameter.requires_grad}


def make_critic(policy: Policy, config: TrainConfig, place: Place | None = None) -> Critic | None:
    """The critic of a new run, or None when the algorithm has none.

    The value head begins at zero, so the first values are 0 whatever the hidden states are, and a critic needs no seed.

    Args:
        policy: what a trunk of its own is a copy of; whole, not sharded.
        config: the run's configuration.
        place: puts the critic where it computes (`sharding.make_place`); None: where the policy is.
    """
    if config.algorithm.advantage != "gae":
        return None
    source: Any = policy.model
    width = int(source.get_output_embeddings().weight.shape[1])
    head = nn.Linear(width, 1, device=source.device)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    trunk: Any = None
    if config.critic.trunk == "separate":
        trunk = copy.deepcopy(source)
        for parameter in trunk.parameters():
            parameter.grad = None
        trunk.set_output_embeddings(head)  # so that a vocabulary head that nobody reads costs no memory
    module: nn.Module = head if trunk is None else trunk
    if place is not None:
        place(module)
    return Critic(module, trunk, head, make_optimizer(module, config), flat_gradient(module))


def token_values(critic: Critic, batch: MicroBatch, policy_hidden_ND: Tensor | None) -> Tensor:
    """The value before each sampled token, shape `(N,)`.

    Args:
        critic: the critic.
        batch: the micro-batch.
        policy_hidden_ND: the policy's hidden states before each sampled token; needed with a shared trunk.
    """
    hidden_ND = policy_hidden_ND if critic.trunk is None else hidden_states(critic.trunk, batch)
    assert hidden_ND is not None
    values: Tensor = critic.head(hidden_ND.float())[:, 0]
    return values


def critic_rate(config: TrainConfig, rate: float) -> float:
    """The critic's learning rate where the policy's is `rate`: the same course, with a peak of its own."""
    if config.critic.learning_rate is None:
        return rate
    return rate * config.critic.learning_rate / config.optimizer.learning_rate


_PREFIX = "critic."


def with_critic(weights: dict[str, Tensor], critic: Critic | None) -> dict[str, Tensor]:
    """The policy's weights and, under a prefix, the critic's: what a checkpoint holds."""
    if critic is None:
        return weights
    return weights | {f"{_PREFIX}{name}": value for name, value in critic.weights().items()}


def split_weights(saved: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two parts of what a checkpoint holds: the policy's weights and the critic's (empty where it had none)."""
    return dict(_without(saved, critic=False)), dict(_without(saved, critic=True))


def _without(saved: dict[str, Tensor], *, critic: bool) -> Iterator[tuple[str, Tensor]]:
    for name, value in saved.items():
        if name.startswith(_PREFIX) == critic:
            yield name.removeprefix(_PREFIX), value
