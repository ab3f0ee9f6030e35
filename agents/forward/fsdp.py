"""Shards models over the processes of a run with FSDP2 (`torch.distributed.fsdp.fully_shard`).

Each process keeps a part of every parameter, of its gradient and of its optimizer state. The full weights of a decoder
layer exist only while that layer computes. The full embedding, last norm and vocabulary head (the root group) stay in
memory from the forward pass to the end of the backward pass, because the head is used in chunks.

Sampling uses all weights for every token, so each process has a separate full copy for it (`Learner.full_copy`).
`copy_weights` updates the copy once per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zerosearch_env.errors import ConfigError

from ..config.train import TrainConfig
from ..processes.workers import Workers, under_torchrun
from .packed import run_layer, run_packed

NORM_PART = 1 << 21
"""Elements of a gradient whose squares are summed in float32."""
Place = Callable[[nn.Module], None]
"""Puts a module on its device: shards a language model, moves any other module."""


def wants_fsdp(config: TrainConfig, workers: Workers) -> bool:
    """Whether this run shards its models; "auto" does not shard a model with adapters, most of which is not trained.

    Raises:
        ConfigError: sharding is required but there is only one process, or another option does not allow it.
    """
    choice = config.scale.fsdp
    if choice == "on" and workers.size == 1:
        raise ConfigError(
            'scale.fsdp = "on" needs several processes, got one: start with '
            "torchrun --nproc-per-node N -m zerosearch_env.cli train ..., or leave it at auto."
        )
    if choice == "on" and config.lora.rank:
        raise ConfigError('scale.fsdp = "on" shards whole models, got lora.rank: set scale.fsdp to "auto" or "off".')
    sharded = choice == "on" or (choice == "auto" and workers.size > 1 and under_torchrun() and not config.lora.rank)
    if sharded and config.optimizer.eight_bit:
        raise ConfigError(
            "optimizer.eight_bit cannot keep the state of a sharded model: remove it (each process holds only a part "
            'of the state), or set scale.fsdp to "off".'
        )
    return sharded


def make_place(workers: Workers, device: str) -> Place:
    """Creates a `Place` over all workers; they must call it with the same modules in the same order."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(torch.device(device).type, (workers.size,))

    def place(module: nn.Module) -> None:
        if getattr(module, "base_model", None) is None:
            module.to(device)
        else:
            shard(module, mesh)

    return place


def shard(model: Any, mesh: Any) -> None:
    """Shards a Transformers causal language model in place: one group per decoder layer, one for the rest.

    Gradients are summed over the processes, not averaged: each process computes its share of the mini-batch's loss.

    Args:
        model: on the CPU or on the mesh's device; its parameters become DTensors on the mesh's device.
        mesh: a one-dimensional device mesh.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    body = model.base_model
    for module in [*layers, model]:
        fully_shard(module, mesh=mesh)
    for module in [*layers, model]:
        # Request a plain sum, since gloo does not support a sum with a factor.
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)

    def final_hidden(ids_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        states: Tensor = body(input_ids=ids_BT, position_ids=positions_BT, use_cache=False).last_hidden_state
        return states

    # Forward methods of the root group without the vocabulary head (the loss applies it), and of each packed layer.
    model.final_hidden = final_hidden
    register_fsdp_forward_method(model, "final_hidden")
    for layer in layers:
        layer.packed = partial(run_layer, layer)
    model.packed = partial(run_packed, model)
    for module in [*layers, model]:
        register_fsdp_forward_method(module, "packed")


def is_sharded(model: Any) -> bool:
    """Whether `shard` was applied to a model."""
    return hasattr(model, "final_hidden")


def drop_full_weights(models: Iterable[Any]) -> None:
    """Frees full weights left by forward passes without a backward pass; other models are unaffected."""
    for model in models:
        if is_sharded(model):
            model.reshard()


def full_copy(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one, in every process (all must call this together); a plain tensor unchanged."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; a plain tensor unchanged."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def placed_like(tensor: Tensor, part: Tensor) -> Tensor:
    """A tensor sharded like `tensor`, with `part` as this process's part; if `tensor` is plain, `part` itself."""
    if not hasattr(tensor, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    like: Any = tensor
    made: Tensor = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return made


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies a sharded model's weights into an unsharded one, per parameter; all processes must call it together."""
    places = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        places[name].copy_(full_copy(parameter.detach()))


@torch.no_grad()
def copy_share(source: Tensor, target: Tensor) -> None:
    """Copies a full tensor into a plain one, or this process's part of it into a sharded one, without communication."""
    if not hasattr(target, "to_local"):
        target.copy_(source)
        return
    from torch.distributed.tensor import distribute_tensor

    placed: Any = target
    source = source.to(placed.device, placed.dtype)
    share: Any = distribute_tensor(source, placed.device_mesh, placed.placements, src_data_rank=None)
    placed.to_local().copy_(share.to_local())


def gradient_norm(gradient: Tensor, workers: Workers, *, sharded: bool) -> float:
    """L2 norm of a flat gradient; if sharded, of all processes' parts together.

    Computed in parts: a sum of 135 million squares in float32 loses a percent.
    """
    if not sharded:
        return math.hypot(*(float(part.norm()) for part in gradient.split(NORM_PART)))
    squares = gradient.double().square().sum().cpu()
    workers.add(squares)
    return float(squares.sqrt())
