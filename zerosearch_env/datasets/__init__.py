"""Load questions and passages: from the built-in world, from files in common formats, and from the hub."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, unknown_name
from ..types import Dataset
from .files.hub import hub_rows
from .files.passages import load_corpus
from .files.readers import FORMATS, read_questions
from .files.rows import OnBadRow, check_reading, find_file, looks_like_file, read_rows

if TYPE_CHECKING:
    from .world.make import WorldConfig


def load_dataset(
    name_or_path: str | os.PathLike[str] | Dataset,
    split: str = "train",
    *,
    on_bad_row: OnBadRow = "raise",
    limit: int | None = None,
    world: WorldConfig | None = None,
    format: str | None = None,
) -> Dataset:
    """Load questions, and their passages if the dataset has any.

    Args:
        name_or_path: `"world"` for the built-in synthetic world; a `.jsonl`, `.json` or `.parquet` file (the first two
            may be gzipped), or a folder with one such file per split; otherwise a name on the hub, `"owner/name"` or
            `"owner/name:configuration"`. A `Dataset` is returned unchanged, except that it is cut to `limit`.
        split: for the world `"train"` or `"test"`; for a folder the name of the file; for a single file only a label.
        on_bad_row: `"raise"` a DataError, or `"skip"` bad rows and count them in `Dataset.skipped_rows`.
        limit: maximum number of questions to load; None: all.
        world: size and seed of the world.
        format: one of `FORMATS`; None: detected from the fields of the first row.

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: a file is missing, empty or broken. The message names the file, the row and the field, and says what
            was expected and what was found.
        MissingExtraError: the library for parquet or for the hub is not installed.
    """
    check_reading(on_bad_row, limit)
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if isinstance(name_or_path, Dataset):
        return _cut(name_or_path, limit)
    name = os.fspath(name_or_path)
    if name == "world":
        if format is not None:
            raise ConfigError(f'format={format!r} describes a file, but the dataset "world" is not a file')
        from .world.make import WorldConfig, make_world

        return _cut(make_world(world or WorldConfig(), split), limit)
    if world is not None:
        raise ConfigError(f'world={world!r} describes the dataset "world", but {name!r} was requested')
    if not name:
        raise unknown_name("dataset", name, ["world"])
    if looks_like_file(name):
        path = find_file(Path(name).expanduser(), split)
        rows, where, title = read_rows(path), str(path), path.name.removesuffix(".gz").rpartition(".")[0]
        if Path(name).expanduser().is_dir():
            title = path.resolve().parent.name
    else:
        if "/" not in name and ":" not in name:
            _reject_misspelling(name)
        rows, where, title = hub_rows(name, split), f"{name} ({split})", name
    questions, skipped, detected = read_questions(
        rows, where=where, name=title, split=split, format=format, skip_bad_rows=on_bad_row == "skip", limit=limit
    )
    return Dataset(title, split, questions, skipped_rows=skipped, metadata={"format": detected, "source": where})


def _cut(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or len(dataset.questions) <= limit:
        return dataset
    return replace(dataset, questions=dataset.questions[:limit])


def _reject_misspelling(name: str) -> None:
    import difflib

    if difflib.get_close_matches(name.lower(), ["world"], cutoff=0.6):
        raise unknown_name("dataset", name, ["world"])


__all__ = ["FORMATS", "Dataset", "OnBadRow", "load_corpus", "load_dataset"]
