"""Hashes in results.json, by which edits and damage are recognised.

They do not prove who wrote a file: anyone can compute them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from zerosearch_env.identity import text_hash


def record_hash(record: Mapping[str, Any]) -> str:
    """The hash of a JSON object without its own `hash`; the same before it is written and after it is read."""
    values = {name: value for name, value in record.items() if name != "hash"}
    return text_hash(json.dumps(values, sort_keys=True, default=str))


def file_hash(settings: Mapping[str, Any], cells: Iterable[Mapping[str, Any]]) -> str:
    """The hash of the settings and of the cells, by their hashes."""
    return record_hash({"settings": settings, "cells": [cell["hash"] for cell in cells]})


def changed_parts(values: Mapping[str, Any]) -> list[str]:
    """What was changed in a results file after it was written.

    Args:
        values: the content of the file, as `Evaluation.as_dict` gives it.

    Returns:
        The cells whose record does not fit its hash, and "the settings or the list of cells" if these do not; empty if
        all fits, or the file is of a version without hashes.
    """
    if "hash" not in values:
        return []
    parts = []
    for cell in values["cells"]:
        if cell.get("hash") != record_hash(cell):
            parts.append(f"the cell of {cell['agent']!r}, {cell['engine']}, noise {cell['noise_level']}")
            parts[-1] += f" {cell['noise_kind']}" if cell.get("noise_kind") else ""
    if not parts and values["hash"] != file_hash(values["settings"], values["cells"]):
        parts.append("the settings or the list of cells")
    return parts
