"""The files of a policy directory: check that they are complete, and that they may be replaced."""

from __future__ import annotations

import json
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
