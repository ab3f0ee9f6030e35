"""Export the learner's weights for an engine: as named tensors, or as a folder of safetensors files."""

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
"""Maximum size of one file, unless a single tensor is larger."""
KEEP = 2
"""Number of folders to keep: a server may still be reading the previous one."""


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter with its name in a checkpoint; a shared one (a tied head) once, under its first name.

    Sharded parameters are gathered, so all processes must iterate together.
    """
    for name, parameter in model.named_parameters():
        value: Any = parameter.detach()
        yield name, value.full_tensor() if hasattr(value, "full_tensor") else value


def write_weights(model: torch.nn.Module, folder: Path, number: int, *, leader: bool = True) -> Path:
    """Write the weights atomically into a new folder under `folder`.

    Every call needs a new folder: an engine may use its cached contents of a path that it has read before (vLLM issue
    32718).

    Args:
        model: the model to export.
        folder: the parent folder; created if it does not exist.
        number: number in the folder's name; use each number only once.
        leader: False in processes that only take part in gathering.

    Returns:
        The absolute path of the new folder.

    Raises:
        TrainingError: if the folder cannot be written.
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
    """Remove all folders written by `write_weights` except the newest `KEEP`."""
    for old in sorted(folder.glob("weights-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
