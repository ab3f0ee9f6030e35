"""From the learner's weights to an engine's: by name, or as a folder of safetensors files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zerosearch_env.errors import TrainingError

SHARD_BYTES = 4 * 2**30
"""Weights of one file, as far as one tensor is not larger."""
KEEP = 2
"""Folders that stay: a server may still be reading the one before."""


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by the name it has in a checkpoint; a shared one (a tied head) once, under its first name.

    A parameter that is spread over processes is gathered, so all of them must go through this together.
    """
    for name, parameter in model.named_parameters():
        value: Any = parameter.detach()
        yield name, value.full_tensor() if hasattr(value, "full_tensor") else value


def write_weights(model: torch.nn.Module, folder: Path, number: int, *, leader: bool = True) -> Path:
    """Writes the weights into a new folder under `folder`, all or nothing.

    A new one each time: an engine may take a path that it has read before for what it read then (vLLM issue 32718).

    Args:
        model: whose weights.
        folder: its parent; made when it is not there.
        number: names the folder; used once.
        leader: False in the processes that only take part in gathering.

    Returns:
        The folder, absolute.

    Raises:
        TrainingError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    target = folder.absolute() / f"weights-{number:06d}"
    new = target.with_name(f".{target.name}.new")
    try:
        if leader:
            new.mkdir(parents=True)
        shard: dict[str, Tensor] = {}
        size, files = 0, 0
        for name, value in named_weights(model):
            if not leader:
                continue
            size += value.numel() * value.element_size()
            if shard and size > SHARD_BYTES:
                save_file(shard, new / f"model-{files:05d}.safetensors")
                shard, size, files = {}, value.numel() * value.element_size(), files + 1
            shard[name] = value.cpu().contiguous()
        if leader:
            save_file(shard, new / f"model-{files:05d}.safetensors")
            os.replace(new, target)
    except OSError as cause:
        raise TrainingError(f"the weights for the sampler cannot be written to {target}: {cause}") from cause
    return target


def drop_old_weights(folder: Path) -> None:
    """Removes all but the newest folders that `write_weights` has made."""
    for old in sorted(folder.glob("weights-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
