"""The files of a policy directory: check that they are complete, and write them durably and atomically."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from zerosearch_env.errors import CheckpointError, ConfigError


def check_complete(directory: Path) -> None:
    """Report missing or damaged files clearly, before Transformers fails on them with an obscure error.

    Raises:
        CheckpointError: if a file is missing, truncated or damaged.
    """
    if not directory.is_dir():
        raise CheckpointError(f"there is no policy directory at {directory}.")
    missing = [] if (directory / "config.json").is_file() else ["config.json"]
    names = {entry.name for entry in directory.iterdir()}
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = set(read_json(index).get("weight_map", {}).values())
        missing += sorted(shards - names) if shards else ["the weight map in model.safetensors.index.json"]
        weights = [directory / shard for shard in sorted(shards & names)]
    else:
        weights = [directory / name for name in names if name == "model.safetensors"]
        if not weights and not any(name.startswith("pytorch_model") for name in names):
            missing.append("model.safetensors")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}:
        missing.append("tokenizer.json")
    if missing:
        raise CheckpointError(f"{directory} is not a complete policy: {', '.join(missing)} missing.")
    read_json(directory / "config.json")
    for file in weights:
        _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    """Check a file's size. Layout: 8 bytes of header length, the header, then the data; the header gives its end."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(header_size)) if 8 + header_size <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} is cut off or damaged: its header is incomplete.")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise CheckpointError(f"{file} is cut off or damaged: {expected} bytes expected, {size} found.")


def read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        CheckpointError: if the file contains anything else.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise CheckpointError(f"{file} is not valid JSON ({one_line(cause)}): cut off or damaged.") from cause
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {type(values).__name__}.")
    return values


def one_line(error: BaseException) -> str:
    """An exception's class and message on one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def sync(directory: Path) -> None:
    """Flush the files of a directory to disk."""
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Flush the entries of a directory (its file names) to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Write a directory atomically: yields a temporary one that is renamed to `target` at the end of the block.

    A save that is killed leaves the previous directory, or none, but never a partial one. `roll_back` undoes a save
    that was killed between its two renames.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    roll_back(target)
    new, old = _siblings(target)
    for leftover in (new, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    new.mkdir()
    try:
        yield new
        sync(new)
    except BaseException:  # also Ctrl-C: a partial policy is useless, and it takes space on a full disk
        shutil.rmtree(new, ignore_errors=True)
        raise
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    sync_directory(target.parent)
    if old.exists():
        shutil.rmtree(old)


def roll_back(target: Path) -> None:
    """Undo a save that was killed between its two renames."""
    _, old = _siblings(target)
    if not target.exists() and old.is_dir():
        os.rename(old, target)


def _siblings(target: Path) -> tuple[Path, Path]:
    """Temporary paths of the new and of the old directory while they are exchanged."""
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def check_replaceable(directory: Path) -> None:
    """Refuse to replace a directory that is not a policy, because saving removes whatever was there.

    Raises:
        ConfigError: if `directory` exists, is not empty and is not a policy.
    """
    empty = directory.is_dir() and not any(directory.iterdir())
    if directory.exists() and not empty and not (directory / "zerosearch.json").is_file():
        raise ConfigError(f"{directory} exists and is not a policy; it would be removed. Give another --output.")


def policy_path(policy: str) -> Path:
    """The directory of a policy: the shipped base model for "tiny", otherwise the path itself."""
    return Path(str(resources.files("zerosearch_agents") / "assets" / "tiny")) if policy == "tiny" else Path(policy)
