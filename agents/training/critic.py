"""The critic: estimates a value before every sampled token, from its own trunk or from the policy's.

Document and prompt tokens get no values, since the policy takes no action there.
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
    """A value function with its own optimizer. All of its state is in the parameters and the optimizer."""

    module: nn.Module
    """Holds the critic's own parameters: with a shared trunk, only the value head."""
    trunk: Any | None
    """A causal language model with the value head in place of its vocabulary head; None: the policy's hidden states
    are used."""
    head: nn.Linear
    """Maps a hidden state to a value."""
    optimizer: torch.optim.Optimizer
    gradient: Tensor
    """The critic's own gradients in one flat vector; every parameter's `.grad` is a view into it."""

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of it. A value head on a shared trunk is never sharded."""
        return self.trunk is not None and is_sharded(self.trunk)

    def weights(self) -> dict[str, Tensor]:
        """The critic's own trained parameters by name; tied parameters appear once."""
        return {name: parameter.data for name, parameter in self.module.named_parameters() if parameter.requires_grad}


def make_critic(policy: Policy, config: TrainConfig, place: Place | None = None) -> Critic | None:
    """Creates the critic of a new run; None if the algorithm does not use one.

    The value head is initialised to zero, so all values are 0 at first and the critic needs no seed.

    Args:
        policy: a separate trunk is a copy of its model; must not be sharded.
        config: the run's configuration.
        place: moves or shards the critic (`fsdp.make_place`); None: it stays on the policy's device.
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
        trunk.set_output_embeddings(head)  # an unused vocabulary head would cost memory
    module: nn.Module = head if trunk is None else trunk
    if place is not None:
        place(module)
    return Critic(module, trunk, head, make_optimizer(module, config), flat_gradient(module))


def token_values(critic: Critic, batch: MicroBatch, policy_hidden_ND: Tensor | None) -> Tensor:
    """The value before each sampled token, shape `(N,)`.

    Args:
        critic: the critic.
        batch: the micro-batch.
        policy_hidden_ND: the policy's hidden states before each sampled token; required with a shared trunk.
    """
    hidden_ND = policy_hidden_ND if critic.trunk is None else hidden_states(critic.trunk, batch)
    assert hidden_ND is not None
    values: Tensor = critic.head(hidden_ND.float())[:, 0]
    return values


def critic_rate(config: TrainConfig, rate: float) -> float:
    """The critic's learning rate when the policy's is `rate`: the same schedule with a separate peak."""
    if config.critic.learning_rate is None:
        return rate
    return rate * config.critic.learning_rate / config.optimizer.learning_rate


_PREFIX = "critic."


def with_critic(weights: dict[str, Tensor], critic: Critic | None) -> dict[str, Tensor]:
    """Adds the critic's weights, under a prefix, to the policy's: the contents of a checkpoint."""
    if critic is None:
        return weights
    return weights | {f"{_PREFIX}{name}": value for name, value in critic.weights().items()}


def split_weights(saved: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits a checkpoint's weights into the policy's and the critic's (empty if the run had no critic)."""
    return dict(_without(saved, critic=False)), dict(_without(saved, critic=True))


def _without(saved: dict[str, Tensor], *, critic: bool) -> Iterator[tuple[str, Tensor]]:
    for name, value in saved.items():
        if name.startswith(_PREFIX) == critic:
            yield name.removeprefix(_PREFIX), value
