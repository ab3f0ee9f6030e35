"""Load questions and passages: from the built-in world, from files in common formats, from memory, from the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, unknown_name
from ..types import Dataset, Question
from .files.columns import Columns, check_columns, parse_columns
from .files.hub import hub_rows
from .files.passages import corpus_files, load_corpus
from .files.readers import COLUMNS, FORMATS, read_questions
from .files.rows import OnBadRow, check_reading, log_skipped, read_files
from .sources import (
    DatasetSource,
    NamedSource,
    distinct_titles,
    mixture,
    named_sources,
    one_split,
    rows_in_memory,
)

if TYPE_CHECKING:
    from .world.make import WorldConfig

_log = logging.getLogger(__name__)


def load_dataset(
    source: DatasetSource,
    split: str = "train",
    *,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
    limit: int | None = None,
    world: WorldConfig | None = None,
    format: str | None = None,
) -> Dataset:
    """Load questions, and their passages if the dataset has any.

    Args:
        source: `"world"` for the built-in synthetic world; a `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.arrow`
            file (the first four may be gzipped); a folder with a file, or with shards, for each split; otherwise a name
            on the hub, `"owner/name"` or `"owner/name:configuration"`. Several of these are separated by commas, with
            or without weights (`"nq.jsonl=2,hotpotqa.jsonl=1"`), or given as a list, or as a mapping from names to
            weights; see `sources.mixture`. Also rows in memory: a list of `Question` or of mappings, a table of pandas,
            polars, pyarrow or `datasets`, or a mapping from splits to such rows. A `Dataset` is returned unchanged,
            except that it is cut to `limit`.
        split: for the world `"train"` or `"test"`; for a folder part of the names of the files; for a single file and
            for rows in memory only a label.
        on_bad_row: `"raise"` a DataError, or `"skip"` bad rows and count them in `Dataset.skipped_rows`. Their number
            and the first problem are logged as a warning.
        columns: field (`id`, `question`, `answers`, `aliases`, `data_source`) -> the column that holds it, for rows
            with other names. A dot leads into a nested dict; a list of columns gives one answer each.
        limit: maximum number of questions to load; None: all.
        world: size and seed of the world.
        format: one of `FORMATS`; None: detected from the fields of the first row.

    Returns:
        The dataset. `Question.dataset` is the row's `data_source`, if it has one, else the name of the file.

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: a file is missing, empty or broken. The message names the file, the row and the field, says what was
            expected and what was found, and names the nearest column.
        MissingExtraError: the library for parquet, arrow or the hub is not installed.
    """
    reading = _reading(on_bad_row, columns, limit, format)
    if isinstance(source, Dataset):
        _refuse_world(world, source.name)
        return _cut(source, limit)
    named = named_sources(source)
    if named is not None:
        return _load_named(named, split, world, limit, reading)
    _refuse_world(world, type(source).__name__)
    if isinstance(source, Mapping):
        source = one_split(source, split)
    if isinstance(source, Sequence) and source:
        questions = [row for row in source if isinstance(row, Question)]
        if len(questions) == len(source):
            return _cut(Dataset("questions", split, tuple(questions)), limit)
        parts = [part for part in source if isinstance(part, Dataset)]
        if len(parts) == len(source):
            return mixture(parts, [None] * len(parts), limit=limit)
    return _read(rows_in_memory(source), "dataset", "questions", split, limit, reading)


def load_sources(
    sources: Sequence[NamedSource],
    split: str,
    *,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
    limit: int | None = None,
    world: WorldConfig | None = None,
    format: str | None = None,
) -> Dataset:
    """Load a dataset that is given by its name, or a mixture of several. The arguments are those of `load_dataset`.

    Raises:
        ConfigError: as in `load_dataset`.
        DataError: as in `load_dataset`.
        MissingExtraError: as in `load_dataset`.
    """
    return _load_named(sources, split, world, limit, _reading(on_bad_row, columns, limit, format))


def _load_named(
    sources: Sequence[NamedSource],
    split: str,
    world: WorldConfig | None,
    limit: int | None,
    reading: Mapping[str, Any],
) -> Dataset:
    if all(source.name != "world" for source in sources):
        _refuse_world(world, ", ".join(source.name for source in sources))
    if len(sources) == 1:
        return _load_one(sources[0], sources[0].title(split), split, world, limit, reading)
    titles = distinct_titles(sources, split)
    datasets = [
        _load_one(source, title, split, world, None, reading if source.name != "world" else {})
        for source, title in zip(sources, titles, strict=True)
    ]
    return mixture(datasets, [source.weight for source in sources], limit=limit)


def _load_one(
    source: NamedSource,
    title: str,
    split: str,
    world: WorldConfig | None,
    limit: int | None,
    reading: Mapping[str, Any],
) -> Dataset:
    name = source.name
    if name == "world":
        for option in ("format", "columns"):
            if reading.get(option) is not None:
                raise ConfigError(
                    f'{option}={reading[option]!r} describes a file, but the dataset "world" is not a file'
                )
        from .world.make import WorldConfig, make_world

        return _cut(make_world(world or WorldConfig(), split), limit)
    if not name:
        raise unknown_name("dataset", name, ["world"])
    if source.is_file:
        return _read(read_files(source.files(split)), name, title, split, limit, reading)
    if "/" not in name and ":" not in name:
        _reject_misspelling(name)
    return _read(hub_rows(name, split), f"{name} ({split})", title, split, limit, reading)


def _read(rows: Any, where: str, name: str, split: str, limit: int | None, reading: Mapping[str, Any]) -> Dataset:
    found = read_questions(rows, where=where, name=name, split=split, limit=limit, **reading)
    log_skipped(_log, where, found.skipped, found.first_problem)
    metadata = {"format": found.format, "source": where}
    return Dataset(name, split, found.questions, skipped_rows=found.skipped, metadata=metadata)


def _reading(on_bad_row: str, columns: Columns | None, limit: int | None, format: str | None) -> dict[str, Any]:
    """The options of the readers, checked."""
    check_reading(on_bad_row, limit)
    check_columns(columns, COLUMNS)
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    return {"on_bad_row": on_bad_row, "columns": columns, "format": format}


def _refuse_world(world: WorldConfig | None, given: str) -> None:
    if world is not None:
        raise ConfigError(f'world={world!r} describes the dataset "world", but {given!r} was given')


def _cut(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or len(dataset.questions) <= limit:
        return dataset
    return replace(dataset, questions=dataset.questions[:limit])


def _reject_misspelling(name: str) -> None:
    import difflib

    if difflib.get_close_matches(name.lower(), ["world"], cutoff=0.6):
        raise unknown_name("dataset", name, ["world"])


__all__ = [
    "COLUMNS",
    "FORMATS",
    "Columns",
    "Dataset",
    "DatasetSource",
    "NamedSource",
    "OnBadRow",
    "check_columns",
    "corpus_files",
    "load_corpus",
    "load_dataset",
    "load_sources",
    "named_sources",
    "parse_columns",
]
