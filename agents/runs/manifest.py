"""The manifest of a run or a file: what made it, from what, and whether it is complete."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerosearch_env.errors import DataError
from zerosearch_env.files import write_text
from zerosearch_env.identity import installed_versions

SCHEMA_VERSION = 1
"""Schema version of manifests, and of the files of the simulator's pipeline."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence the results."""
    libraries = ("zerosearch-env", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **installed_versions(libraries)}


def input_record(files: Sequence[Path]) -> dict[str, Any]:
    """The entry for input files in a manifest: their paths, and the SHA-256 of all their bytes, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return {"paths": list(map(str, files)), "sha256": digest.hexdigest()}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; paths become strings."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n")


def write_manifest(path: Path, stage: str, *, complete: bool, settings: Mapping[str, Any], **entries: Any) -> None:
    """Write a manifest: what every stage records, and further entries of this one."""
    stage_entries = {"schema_version": SCHEMA_VERSION, "stage": stage, "complete": complete, "settings": settings}
    write_json(path, {**stage_entries, "versions": versions(), **entries})


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest in a file; None if the file does not exist.

    Raises:
        DataError: the file is not a manifest, or has a newer schema version than this release reads.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError) as cause:
        raise DataError(f"{path} is not a manifest of this pipeline ({type(cause).__name__}: {cause})") from cause
    if version > SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {version}; this release reads {SCHEMA_VERSION}")
    return dict(values)
