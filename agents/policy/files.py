"""The files of a policy directory: where they are, that they are complete, and that they may be replaced."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from zerosearch_env.errors import CheckpointError, ConfigError, require, sentence

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_HUB_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")
_OTHER_FILES = ("*/*", "consolidated*")
"""Formats of other libraries, in folders of their own or under this name."""
_CARDS = ("zerosearch.json", "simulator.json")
_CAUSAL = re.compile(r"CausalLM|LMHead|ConditionalGeneration|Decoder")
"""In the names of classes of Transformers that continue a text."""


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
        hint = " Copy the files of the tokenizer that it was trained with." if missing == ["tokenizer.json"] else ""
        raise CheckpointError(f"{directory} is not a complete policy: {', '.join(missing)} missing.{hint}")
    config = read_json(directory / "config.json")
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    if config.get("is_encoder_decoder") or (kinds and not any(map(_CAUSAL.search, kinds))):
        raise CheckpointError(
            f"{directory} is not a causal language model: its config.json says "
            f"{', '.join(kinds) or 'encoder-decoder'}. A policy continues a text, as Qwen3ForCausalLM does."
        )
    for file in weights:
        _read_header(file)


def stored_weights(directory: Path) -> tuple[str | None, int]:
    """The data type of most parameters in a directory's safetensors, and how many parameters there are.

    Returns:
        `(None, 0)` without safetensors, and None for a type other than float32, bfloat16 and float16.

    Raises:
        CheckpointError: a file is cut off or damaged.
    """
    counts: Counter[str] = Counter()
    for file in sorted(directory.glob("*.safetensors")):
        for entry in _read_header(file).values():
            counts[entry["dtype"]] += math.prod(entry["shape"])
    (kind, _), *_ = counts.most_common(1) or [("", 0)]
    return _STORED.get(kind), counts.total()


def _read_header(file: Path) -> dict[str, Any]:
    """Read the header of a safetensors file, and check the file's size.

    Layout: 8 bytes of header length, the header, then the data; the header gives its end.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(header_size)) if 8 + header_size <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} is cut off or damaged: its header is incomplete.")
    header.pop("__metadata__", None)
    expected = 8 + header_size + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != expected:
        raise CheckpointError(f"{file} is cut off or damaged: {expected} bytes expected, {size} found.")
    return header


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
    """Refuse to replace a directory that is not a policy or a simulation LLM of this package: saving removes it.

    Raises:
        ConfigError: if `directory` exists, is not empty and is neither.
    """
    empty = directory.is_dir() and not any(directory.iterdir())
    if directory.exists() and not empty and not any((directory / card).is_file() for card in _CARDS):
        raise ConfigError(f"{directory} exists and is not a policy; it would be removed. Give another --output.")


def policy_path(policy: str, *, weights: bool = True) -> Path:
    """The directory of a policy: the shipped base model for "tiny", a download for a hub name, else the path itself.

    A model on the Hugging Face Hub is downloaded into its cache: configuration, tokenizer, chat template and
    safetensors. Within a process it is asked for once, so all of a command uses one commit.

    Args:
        policy: "tiny", a directory, or ORG/NAME or ORG/NAME@REVISION on the hub.
        weights: whether its weights are needed too; otherwise a download leaves them out.

    Raises:
        ConfigError: the hub has no such model, it does not give it out, or it cannot be reached.
        MissingExtraError: a hub name, and huggingface_hub is not installed.
    """
    return _download(policy, weights) if is_hub_name(policy) else local_policy(policy)


def local_policy(policy: str) -> Path:
    """As `policy_path`, without downloading anything."""
    return Path(str(resources.files("zerosearch_agents") / "assets" / "tiny")) if policy == "tiny" else Path(policy)


def is_hub_name(policy: str) -> bool:
    """Whether a policy is named as on the hub: not as a directory, nor as one in a directory that exists."""
    return bool(_HUB_NAME.fullmatch(policy)) and not Path(policy).exists() and not Path(policy).parent.is_dir()


@cache
def _download(policy: str, weights: bool) -> Path:
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    name, _, revision = policy.partition("@")
    token = "run `hf auth login`, or set HF_TOKEN"
    ignored = _OTHER_FILES if weights else (*_OTHER_FILES, "*.safetensors")
    try:
        folder = hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(_HUB_FILES), ignore_patterns=list(ignored)
        )
    except errors.GatedRepoError as cause:
        raise ConfigError(
            f"the model {name} on the Hugging Face Hub is gated: ask for access at https://huggingface.co/{name}, "
            f"then {token}"
        ) from cause
    except errors.RepositoryNotFoundError as cause:
        raise ConfigError(
            f"there is no model {name} on the Hugging Face Hub, and no folder of that name here. For a private model "
            f"{token}"
        ) from cause
    except errors.RevisionNotFoundError as cause:
        raise ConfigError(
            f"the model {name} on the Hugging Face Hub has no branch, tag or commit {revision!r}"
        ) from cause
    except (OSError, ValueError) as cause:
        offline = (
            "HF_HUB_OFFLINE is set"
            if require("huggingface_hub.constants").HF_HUB_OFFLINE
            else sentence(one_line(cause)).rstrip(".")
        )
        raise ConfigError(
            f"the model {policy} is neither a folder nor in the local cache of the Hugging Face Hub, and the hub "
            f"cannot be reached ({offline}). On a machine with a network run `hf download {name}`, or give the model's "
            "folder"
        ) from cause
    return Path(folder)
