"""Read corpus files: passages for the built-in search engines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import DataError, sentence
from ...types import Document
from .columns import Columns, cell, check_columns, first_of, no_column
from .fields import plain, text, written
from .find import find_files
from .rows import NumberedRow, OnBadRow, Row, RowError, check_reading, log_skipped, read_files

_log = logging.getLogger(__name__)

_IDS = ("id", "docid", "passage_id", "pid")
_TEXTS = ("text", "contents", "passage", "body")
_FIELDS = ("id", "title", "text")


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
        columns: `id`, `title` or `text` -> the column that holds it, for files with other names.
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
        ConfigError: as in `load_corpus`; raised when the first passage is requested.
        DataError: as in `load_corpus`; raised when the iteration reaches the problem.
    """
    check_reading(on_bad_row, limit)
    check_columns(columns, _FIELDS)
    files = corpus_files(path)
    count, skipped, problem = 0, 0, ""
    for row in read_files(files):
        try:
            passage = _passage(row, columns or {})
        except RowError as error:
            problem = problem or f"{row.place}: {error}"
            if on_bad_row == "raise":
                raise DataError(f'{sentence(problem)} on_bad_row="skip" leaves such rows out.') from None
            skipped += 1
            continue
        yield passage
        count += 1
        if count == limit:
            break
    if not count:
        raise DataError(f"{path} holds no passage: " + (problem or "it is empty"))
    log_skipped(_log, path, skipped, problem)


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
    row = numbered.content
    if isinstance(row, RowError):
        raise row
    assert isinstance(row, Mapping)
    if columns:
        row = {**row, **{field: _joined(row, column, field) for field, column in columns.items()}}
    key = first_of(row, _IDS)
    source = str(numbered.number) if key is None else written(plain(row[key]))
    field = first_of(row, _TEXTS)
    if field is None:
        raise no_column(row, _TEXTS, "text", "a passage")
    body = text(row[field], field)
    title = first_of(row, ("title",))
    if title is not None and isinstance(row[title], str):
        return Document(row[title].strip(), body, source)
    return Document(*split_contents(body), source) if field.lower() == "contents" else Document("", body, source)


def _joined(row: Row, column: str | Sequence[str], field: str) -> object:
    """The cell of a named column; the texts of several columns, one after the other."""
    if isinstance(column, str):
        return cell(row, column, field)
    return "\n".join(text(cell(row, name, field), name) for name in column)


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
