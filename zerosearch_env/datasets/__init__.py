"""Questions and passages: the built-in world, files of the usual formats, and the hub."""

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
    """Load questions, and the passages that belong to them where there are any.

    Args:
        name_or_path: `"world"` for the built-in synthetic world; a `.jsonl`, `.json` or `.parquet` file (the first two
            also gzipped), or a folder with one such file a split; else a name on the hub, `"owner/name"` or
            `"owner/name:configuration"`. A `Dataset` is returned as it is, cut to `limit`.
        split: which part: of the world `"train"` or `"test"`; of a folder the file's name; of a file only a label.
        on_bad_row: `"raise"` a DataError, or `"skip"` bad rows and count them in `Dataset.skipped_rows`.
        limit: questions to load at most; None: all.
        world: sizes and seed of the world.
        format: one of `FORMATS`; None: told by the fields of the first row.

    Raises:
        ConfigError: an argument cannot be used; the nearest valid name is suggested.
        DataError: a file is missing, empty or broken; says the file, the row, the field, what was expected and got.
        MissingExtraError: parquet or the hub, and the library that reads it is not installed.
    """
    check_reading(on_bad_row, limit)
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if isinstance(name_or_path, Dataset):
        return _cut(name_or_path, limit)
    name = os.fspath(name_or_path)
    if name == "world":
        if format is not None:
            raise ConfigError(f'format={format!r} describes a file, and the dataset "world" is none')
        from .world.make import WorldConfig, make_world

        return _cut(make_world(world or WorldConfig(), split), limit)
    if world is not None:
        raise ConfigError(f'world={world!r} describes the dataset "world", and {name!r} was asked for')
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
    questions, skipped, found = read_questions(
        rows, where=where, name=title, split=split, format=format, skip_bad_rows=on_bad_row == "skip", limit=limit
    )
    return Dataset(title, split, questions, skipped_rows=skipped, metadata={"format": found, "source": where})


def _cut(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or len(dataset.questions) <= limit:
        return dataset
    return replace(dataset, questions=dataset.questions[:limit])


def _reject_misspelling(name: str) -> None:
    import difflib

    if difflib.get_close_matches(name.lower(), ["world"], cutoff=0.6):
        raise unknown_name("dataset", name, ["world"])


__all__ = ["FORMATS", "Dataset", "OnBadRow", "load_corpus", "load_dataset"]
