"""Checkpoints of runs with sharded models: every process writes its own parts (torch.distributed.checkpoint).

The directory looks as described in `runs/checkpoint.py`, with a folder `shards/` in place of `weights.safetensors` and
`optimizer.pt`. It also gets its final name only when everything is on disk. Tensors are saved by name, not by process,
so any number of processes can read them, including a single one without FSDP. With several machines the run directory
must be on a file system that all of them share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zerosearch_env.errors import CheckpointError
from zerosearch_env.identity import file_hashes

from ..forward.fsdp import copy_share
from ..processes.workers import Workers
from ..runs.checkpoint import (
    RunState,
    check_files,
    checkpoint_state,
    failed_checkpoint,
    finish_checkpoint,
    load_checkpoint,
    new_checkpoint,
    newest,
    write_state,
)
from .update import Learner

SHARDS = "shards"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint."""

    state: RunState
    weights: dict[str, Tensor] | None
    """The weights by name; None if the checkpoint is sharded (`load_shards` reads them)."""
    optimizer: dict[str, Any] | None
    """The optimizer's `state_dict()`; None if the checkpoint is sharded."""


def find_newest(folder: Path, current: Callable[[RunState], bool], workers: Workers) -> tuple[Path, Checkpoint] | None:
    """The newest valid checkpoint, sharded or not; None if the folder has no checkpoint.

    Args:
        folder: the run's `checkpoints` directory.
        current: returns whether to consider a checkpoint; others are skipped.
        workers: all workers must call this together; each checks a share of the shards.

    Raises:
        CheckpointError: there are checkpoints, but none of them is valid.
    """
    return newest(folder, lambda path: read_checkpoint(path, workers), current)


def read_checkpoint(path: Path, workers: Workers = Workers()) -> Checkpoint:  # noqa: B008 - a constant
    """Reads a checkpoint, sharded or not; of a sharded one, only its state, and its shards are checked.

    Raises:
        CheckpointError: it is missing, half written or damaged.
    """
    if not (path / SHARDS).is_dir():
        return Checkpoint(*load_checkpoint(path))
    problem = None
    try:
        check_files(path, slice(workers.rank, None, workers.size))
    except CheckpointError as error:
        problem = str(error)
    for found in workers.gather(problem):
        if found is not None:
            raise CheckpointError(found)
    return Checkpoint(checkpoint_state(path), None, None)


def save_shards(folder: Path, state: RunState | None, learner: Learner, *, keep: int) -> None:
    """Writes a checkpoint; all workers must call this together.

    Args:
        folder: the run's `checkpoints` directory.
        state: the state of the run; None in all workers except worker 0.
        learner: its weights and optimizer states are saved.
        keep: number of checkpoints to keep, including this one.

    Raises:
        CheckpointError: raised in every worker if one of them cannot write its parts; older checkpoints are unchanged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    workers = learner.workers
    step = workers.agree(0 if state is None else state.step)
    new = folder / f".new-step-{step:06d}"
    if state is not None:
        new_checkpoint(folder, step)
    workers.agree(0)  # wait until the directory exists
    try:
        save(learner_tensors(learner), storage_writer=FileSystemWriter(new / SHARDS, sync_files=True))
        files = sorted(path for path in (new / SHARDS).rglob("*") if path.is_file())[workers.rank :: workers.size]
        share = {str(path.relative_to(new)): value for path, value in zip(files, file_hashes(files), strict=True)}
        shares = workers.gather(share)
        if state is not None:
            write_state(new, state, {name: value for share in shares for name, value in share.items()})
    except (OSError, RuntimeError, CheckpointException) as cause:
        raise failed_checkpoint(new, cause) from cause
    if state is not None:
        finish_checkpoint(new, keep=keep)
    workers.agree(0)  # no worker continues before the checkpoint is complete


def load_shards(path: Path, learner: Learner) -> None:
    """Reads a checkpoint of `save_shards` into a learner, sharded or not; all workers must call this together.

    A critic that the saved run did not have starts from scratch.

    Raises:
        CheckpointError: it is damaged or belongs to another model.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(path / SHARDS)
    try:
        saved = reader.read_metadata().state_dict_metadata
    except Exception as cause:  # pickle and torch raise exceptions of various classes
        raise CheckpointError(f"{path} is damaged: {type(cause).__name__}: {cause}") from cause
    tensors = learner_tensors(learner)
    if not any(name.startswith("critic.") for name in saved):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("critic.")}
    for part, who in (("policy", repr(learner.config.policy)), ("critic", "this run's critic")):
        here = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith(f"{part}.")}
        there: dict[str, Any] = {n: tuple(getattr(m, "size", ())) for n, m in saved.items() if n.startswith(f"{part}.")}
        if here and here != there:
            raise CheckpointError(f"{path} belongs to another model than {who}.")
    try:
        with warnings.catch_warnings():
            # "we assume the intent is to load in a single process": correct if this is the only process.
            warnings.filterwarnings("ignore", message=".*single process.*")
            load(tensors, storage_reader=reader)
    except Exception as cause:  # as above
        raise CheckpointError(f"{path} is damaged: {type(cause).__name__}: {cause}") from cause


@torch.no_grad()
def spread_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Loads an unsharded `state_dict()` into an optimizer of sharded parameters: each process takes its parts."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _begin(optimizer)
    for index, moments in saved["state"].items():
        for name in _MOMENTS:
            copy_share(moments[name], optimizer.state[parameters[index]][name])


def learner_tensors(learner: Learner) -> dict[str, Tensor]:
    """This process's weights and moments of policy and critic by name; missing moments are initialised."""
    tensors = _tensors("policy", learner.policy.model, learner.optimizer)
    if learner.critic is not None:
        tensors |= _tensors("critic", learner.critic.module, learner.critic.optimizer)
    return tensors


def _tensors(part: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    _begin(optimizer)
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        tensors[f"{part}.{name}"] = parameter.detach()
        for moment in _MOMENTS:
            tensors[f"{part}.{name}.{moment}"] = optimizer.state[parameter][moment]
    return tensors


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Initialises missing moments as AdamW does at its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                    "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
                }
