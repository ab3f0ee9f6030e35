"""Load questions and passages: from the built-in world, from files in common formats, from memory, from the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ConfigError, unknown_name
from ..types import Dataset, Question
from .files.columns import Column, Columns, check_columns, has_header, parse_columns
from .files.hub import hub_rows
from .files.passages import corpus_files, load_corpus
from .files.readers import COLUMNS, FORMATS, read_questions
from .files.rows import OnBadRow, RowReader, read_files
from .files.tables import read_table_questions
from .sources import (
    DatasetSource,
    NamedSource,
    distinct_titles,
    includes_world,
    mixture,
    named_sources,
    one_split,
    rows_in_memory,
)

if TYPE_CHECKING:
    from .world.make import WorldConfig


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
            with other names. A dot leads into a nested dict; a list of columns gives one answer each. In CSV and TSV
            without a header, columns have numbers, from 0.
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
    RowReader(on_bad_row, limit)  # checks both
    check_columns(columns, COLUMNS)
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    read = partial(read_questions, split=split, on_bad_row=on_bad_row, columns=columns, format=format)
    named = named_sources(source)
    if world is not None and not includes_world(source):
        one = source.name if isinstance(source, Dataset) else type(source).__name__
        given = ", ".join(part.name for part in named) if named else one
        raise ConfigError(f'world={world!r} describes the dataset "world", but {given!r} was given')
    if isinstance(source, Dataset):
        return _cut(source, limit)
    if named is None:
        if isinstance(source, Mapping):
            source = one_split(source, split)
        if isinstance(source, Sequence) and source:
            questions = [row for row in source if isinstance(row, Question)]
            if len(questions) == len(source):
                return _cut(Dataset("questions", split, tuple(questions)), limit)
            parts = [part for part in source if isinstance(part, Dataset)]
            if len(parts) == len(source):
                return mixture(parts, [None] * len(parts), limit=limit)
        return read(rows_in_memory(source), where="dataset", name="questions", limit=limit)
    if len(named) == 1 and named[0].name == "world":
        for option, value in (("format", format), ("columns", columns)):
            if value is not None:
                raise ConfigError(f'{option}={value!r} describes a file, but the dataset "world" is not a file')

    def load(part: NamedSource, title: str, limit: int | None) -> Dataset:
        if part.name == "world":
            from .world.make import WorldConfig, make_world

            return _cut(make_world(world or WorldConfig(), split), limit)
        if part.is_file:
            files = part.files(split)
            if limit is None and not columns:
                data = read_table_questions(files, where=part.name, name=title, split=split, format=format)
                if data is not None:
                    return data
            rows = read_files(files, header=has_header(columns))
            return read(rows, where=part.name, name=title, limit=limit)
        return read(hub_rows(part.name, split), where=f"{part.name} ({split})", name=title, limit=limit)

    titles = distinct_titles(named, split)
    if len(named) == 1:
        return load(named[0], titles[0], limit)
    datasets = [load(part, title, None) for part, title in zip(named, titles, strict=True)]
    return mixture(datasets, [part.weight for part in named], limit=limit)


def _cut(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or len(dataset.questions) <= limit:
        return dataset
    return replace(dataset, questions=dataset.questions[:limit])


__all__ = [
    "COLUMNS",
    "FORMATS",
    "Column",
    "Columns",
    "Dataset",
    "DatasetSource",
    "NamedSource",
    "OnBadRow",
    "check_columns",
    "corpus_files",
    "load_corpus",
    "load_dataset",
    "named_sources",
    "parse_columns",
]
