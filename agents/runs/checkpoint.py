"""Checkpoints: everything needed to continue a run. A kill at any moment leaves a valid checkpoint on disk.

A checkpoint is a directory `checkpoints/step-000040` ("40 steps are finished") with `weights.safetensors`,
`optimizer.pt` and `state.json`. A checkpoint of a policy is a policy directory as well: the trained parameters are then
in its `model.safetensors`, and `weights.safetensors` is only there if they are others than the policy's (adapters, or
with a critic). `state.json` is written last, with a hash of itself and the sizes and hashes of the other
files, so that later damage is noticed. The directory is written under a temporary name, every file is synced, and then
it is renamed: a directory with a final name is complete.
No random state is stored, since all randomness of a run is a function of (seed, step). A critic's weights are stored
with the policy's under the prefix `critic.`; its optimizer state is in the policy's under the key `critic`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zerosearch_env.errors import CheckpointError, sentence
from zerosearch_env.files import sync
from zerosearch_env.identity import file_hashes, new_hash, text_hash

from ..forward.fsdp import full_copy
from ..policy.files import one_line
from ..processes.workers import launch_rank

_log = logging.getLogger(__name__)
T = TypeVar("T")

STATE_FILE = "state.json"
VERSION = 2
_NAME = re.compile(r"step-(\d{6,})")
_WEIGHTS, _MODEL, _OPTIMIZER = "weights.safetensors", "model.safetensors", "optimizer.pt"
_KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types of parameters, by their names in safetensors."""


@dataclass(frozen=True)
class RunState:
    """The state of a run, except its tensors."""

    step: int
    """Steps finished."""
    metrics_bytes: int
    """Size of `metrics.jsonl` when saved; later bytes belong to steps that will be repeated."""
    transcripts_bytes: int
    """The same for `transcripts.jsonl`."""
    initial_policy: str
    """Fingerprint of the policy that the run started with, which is the KL's reference."""
    seconds: float
    """Wall time of the run so far, in seconds."""
    rollbacks: int = 0
    """Number of rollbacks before the checkpoint was saved."""


def save_checkpoint(
    folder: Path,
    state: RunState,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    *,
    keep: int,
    write_policy: Callable[[Path], object] = lambda directory: None,
) -> Path:
    """Writes a checkpoint, then removes the oldest ones beyond `keep` and the remains of killed saves.

    Args:
        folder: the run's `checkpoints` directory; created if it is missing.
        state: the state of the run.
        weights: the parameters by name, without duplicates.
        optimizer: the optimizer's `state_dict()`.
        keep: number of checkpoints to keep, including this one.
        write_policy: called with the checkpoint's directory to write a policy into it. If the weights are those of its
            `model.safetensors`, they are not written again.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full. It is then removed completely,
            and all older checkpoints are unchanged.
    """
    new = new_checkpoint(folder, state.step)
    try:
        write_policy(new)
        if not _holds(new / _MODEL, weights):
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, new / _WEIGHTS)
        torch.save(dict(optimizer), new / _OPTIMIZER)
        files = [path for path in sorted(new.rglob("*")) if path.is_file()]
        for path in files:
            sync(path)
        names = [path.relative_to(new).as_posix() for path in files]
        write_state(new, state, dict(zip(names, file_hashes(files), strict=True)))
    except Exception as cause:  # torch, safetensors and tokenizers raise exceptions of various classes
        raise failed_checkpoint(new, cause) from cause
    return finish_checkpoint(new, keep=keep)


def _holds(file: Path, weights: Mapping[str, Tensor]) -> bool:
    """Whether a file holds parameters with exactly these names and types."""
    if not file.is_file():
        return False
    with safe_open(file, framework="pt") as saved:
        kinds = {name: _KINDS.get(saved.get_slice(name).get_dtype()) for name in saved.keys()}  # noqa: SIM118
    return kinds == {name: value.dtype for name, value in weights.items()}


def new_checkpoint(folder: Path, step: int) -> Path:
    """Creates an empty directory for a checkpoint under its temporary name; removes the remains of killed saves."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".new-*"):
        shutil.rmtree(leftover)
    new = folder / f".new-step-{step:06d}"
    new.mkdir()
    return new


def write_state(new: Path, state: RunState, hashes: Mapping[str, str]) -> None:
    """Writes the state. `hashes` has the hash of each file, by its name in the directory; all are on disk already."""
    files = {name: {"bytes": (new / name).stat().st_size, "blake2b": value} for name, value in sorted(hashes.items())}
    record = {"version": VERSION, **asdict(state), "files": files}
    text = json.dumps({**record, "blake2b": _record_hash(record)}, indent=2)
    (new / STATE_FILE).write_text(text + "\n", encoding="utf-8")
    sync(new / STATE_FILE)
    sync(new)


def finish_checkpoint(new: Path, *, keep: int) -> Path:
    """Renames a written checkpoint to its final name, and removes the oldest ones beyond `keep`."""
    folder, final = new.parent, _final(new)
    if final.exists():  # from before the run fell back to an older checkpoint and repeated these steps
        shutil.rmtree(final)
    os.rename(new, final)
    sync(folder)
    for old in checkpoint_paths(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def failed_checkpoint(new: Path, cause: BaseException) -> CheckpointError:
    """Removes a checkpoint that could not be written completely, and returns the error to raise."""
    shutil.rmtree(new, ignore_errors=True)
    older = next(iter(reversed(checkpoint_paths(new.parent))), None)
    older_state = "There is no older checkpoint" if older is None else f"{older} is untouched"
    return CheckpointError(
        f"the checkpoint {_final(new)} could not be written: {sentence(one_line(cause))} "
        f"{older_state}; make room and resume."
    )


def _final(new: Path) -> Path:
    return new.with_name(new.name.removeprefix(".new-"))


def checkpoint_paths(folder: Path) -> list[Path]:
    """All checkpoints of a folder, valid or not, oldest first."""
    if not folder.is_dir():
        return []
    by_step = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(by_step)]


def checkpoint_state(path: Path) -> RunState:
    """The state of the run when a checkpoint was saved.

    Raises:
        CheckpointError: it is missing, half written or damaged.
    """
    state, files = _read_state(path)
    for name, entry in files.items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != entry["bytes"]:
            raise CheckpointError(f"{path} is half written: {name} should have {entry['bytes']} bytes, found {size}.")
    return state


def check_files(path: Path, share: slice = slice(None)) -> None:
    """Compares the files of a checkpoint with the hashes in its state.

    Args:
        path: the checkpoint.
        share: which of its files to check, in the order of their names; several processes can each take a share.

    Raises:
        CheckpointError: a file is damaged.
    """
    _, files = _read_state(path)
    names = sorted(files)[share]
    try:
        hashes = file_hashes(path / name for name in names)
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read: {sentence(one_line(cause))}") from cause
    for name, value in zip(names, hashes, strict=True):
        if value != files[name]["blake2b"]:
            raise CheckpointError(f"{path} is damaged: {name} has changed since it was written.")


def load_checkpoint(path: Path) -> tuple[RunState, dict[str, Tensor], dict[str, Any]]:
    """Reads one checkpoint: the state, the weights by name, the optimizer's state.

    Raises:
        CheckpointError: it is missing, half written or damaged.
    """
    state = checkpoint_state(path)
    check_files(path)
    try:
        weights = load_file(path / (_WEIGHTS if (path / _WEIGHTS).is_file() else _MODEL))
        optimizer = torch.load(path / _OPTIMIZER, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch, safetensors and pickle raise exceptions of various classes
        raise CheckpointError(f"{path} is damaged: {type(cause).__name__}: {cause}") from cause
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path} is of no use: {name} holds values that are not finite numbers.")
    return state, weights, optimizer


def load_latest(
    folder: Path, current: Callable[[RunState], bool] = lambda state: True
) -> tuple[Path, RunState, dict[str, Tensor], dict[str, Any]] | None:
    """The newest valid checkpoint of a folder; None if it has no checkpoint.

    Args:
        folder: the run's `checkpoints` directory.
        current: returns whether to consider a checkpoint; others are skipped.

    Raises:
        CheckpointError: there are checkpoints, but none of them is valid; the message gives the reason for each.
    """
    latest = newest(folder, load_checkpoint, current)
    return None if latest is None else (latest[0], *latest[1])


def newest(folder: Path, read: Callable[[Path], T], current: Callable[[RunState], bool]) -> tuple[Path, T] | None:
    """The newest checkpoint that `read` can read, and the result of `read`; None if the folder has no checkpoint.

    Newer checkpoints that cannot be read are left out, with a warning that gives the reason.

    Args:
        folder: the run's `checkpoints` directory.
        read: reads a checkpoint; raises `CheckpointError` if that is not possible.
        current: returns whether to consider a checkpoint; others are skipped.

    Raises:
        CheckpointError: there are checkpoints, but none of them is valid; the message gives the reason for each.
    """
    problems: list[str] = []
    for path in reversed(checkpoint_paths(folder)):
        try:
            if current(checkpoint_state(path)):
                checkpoint = read(path)
                if problems and launch_rank() == 0:
                    _log.warning("%s The newest good checkpoint is used: %s.", " ".join(problems), path)
                return path, checkpoint
        except CheckpointError as error:
            problems.append(sentence(error))
    if problems:
        raise CheckpointError(f"no valid checkpoint in {folder}: {' '.join(problems)}")
    return None


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """A hash of the bits of all weights; the same in every process that holds all or parts of them."""
    digest = new_hash()
    for name in sorted(weights):
        value = full_copy(weights[name].detach()).cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_state(path: Path) -> tuple[RunState, dict[str, dict[str, Any]]]:
    """The state in a checkpoint, and size and hash of each of its files.

    Raises:
        CheckpointError: `state.json` is missing, damaged or of another version.
    """
    file = path / STATE_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a checkpoint, or is half written: it has no {STATE_FILE}.") from None
    except (ValueError, OSError) as cause:
        raise CheckpointError(f"{file} is damaged: {sentence(cause)}") from cause
    if not isinstance(record, dict):
        raise CheckpointError(f"{file} is damaged: expected a JSON object, got {type(record).__name__}.")
    version = record.get("version")
    if version != VERSION and isinstance(version, int):
        raise CheckpointError(f"{file} has version {version}; this release reads version {VERSION}.")
    if record.pop("blake2b", None) != _record_hash(record):
        raise CheckpointError(f"{file} is damaged: it has changed since it was written.")
    del record["version"]
    files = record.pop("files")
    return RunState(**record), files


def _record_hash(record: Mapping[str, Any]) -> str:
    return text_hash(json.dumps(record, sort_keys=True))
