"""Read corpus files: passages for the built-in search engines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from ...errors import DataError
from ...types import Document, Json
from .columns import Columns, Fields, as_named, check_columns, first_of, has_header, no_column, renamed
from .fields import text, written
from .find import find_files
from .packed import plain
from .rows import NumberedRow, OnBadRow, RowError, RowReader, read_files

_IDS = ("id", "docid", "passage_id", "pid")
_TITLES = ("title",)
_TEXTS = ("text", "contents", "passage", "body")
_FIELDS: Fields = {"id": ("id", _IDS), "title": ("title", _TITLES), "text": ("text", _TEXTS)}


def load_corpus(
    path: str | os.PathLike[str],
    *,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
    limit: int | None = None,
) -> list[Document]:
    r"""Read the passages of a corpus file.

    The file is JSON lines, a JSON array, CSV, TSV (all also gzipped), parquet or arrow. Each row has `contents` in
    Search-R1's form (the title in double quotes on the first line: `"Title"\ntext`), or `text` and optionally `title`.
    `id` is optional.

    Args:
        path: the file, or a folder that contains `corpus.jsonl` (or another ending), its shards, shards without a name
            (`part-0.jsonl`), or the same for "train".
        on_bad_row: `"raise"` a DataError, or `"skip"` bad rows; their number is logged as a warning.
        columns: `id`, `title` or `text` -> the column that holds it, for files with other names. The texts of a list of
            columns are joined, one per line.
        limit: maximum number of passages to read; None: all.

    Returns:
        One document per passage. `source` is the id of the passage, or the number of its row.

    Raises:
        ConfigError: `on_bad_row` is unknown, `columns` has an unknown field, or `limit` is below 1.
        DataError: the file is missing, empty or broken. The message names the file, the row and the field.
    """
    return list(iter_corpus(path, on_bad_row=on_bad_row, columns=columns, limit=limit))


def iter_corpus(
    path: str | os.PathLike[str],
    *,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
    limit: int | None = None,
) -> Iterator[Document]:
    """Read the passages of a corpus file one by one, for files larger than memory. Otherwise like `load_corpus`.

    Raises:
        ConfigError: as in `load_corpus`.
        DataError: as in `load_corpus`; for a bad row, when the iteration reaches it.
    """
    check_columns(columns, _FIELDS)
    rows = read_files(corpus_files(path), header=has_header(columns))
    convert = partial(_passage, columns=columns or {})
    return RowReader(on_bad_row, limit).read(rows, convert, where=path, what="passages")


def corpus_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files of a corpus: those of the split "corpus" (see `find_files`), else of "train", as the hub calls it.

    Raises:
        DataError: there is no such file.
    """
    place = Path(path).expanduser()
    try:
        return find_files(place, "corpus")
    except DataError:
        with suppress(DataError):
            return find_files(place, "train")
        raise


def _passage(numbered: NumberedRow, columns: Columns) -> Document:
    try:
        row = renamed(numbered.content, columns, _FIELDS) if columns else numbered.content
        key = first_of(row, _IDS)
        source = str(numbered.number) if key is None else written(plain(row[key]))
        field = first_of(row, _TEXTS)
        if field is None:
            raise no_column(row, _TEXTS, "text", "a passage")
        body = _text(row[field], field)
        title = row.get(first_of(row, _TITLES))
        if isinstance(title, list):
            title = " ".join(map(written, title))
        if isinstance(title, str):
            return Document(title.strip(), body, source)
        return Document(*split_contents(body), source) if field.lower() == "contents" else Document("", body, source)
    except RowError as problem:
        raise as_named(problem, columns, _FIELDS) from None


def _text(value: Json, field: str) -> str:
    """A text, or the texts of several columns, one after the other."""
    return text("\n".join(text(part, field) for part in value) if isinstance(value, list) else value, field)


def split_contents(contents: str) -> tuple[str, str]:
    """Split a passage in Search-R1's form into title and text. The title is the first line, usually in double quotes.

    A passage with only one line has no title.
    """
    head, line_end, rest = contents.partition("\n")
    if not line_end:
        return "", contents
    title = head.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return title, rest.strip()
