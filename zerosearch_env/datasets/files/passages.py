"""Read corpus files: passages for the built-in search engines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError, sentence
from ...types import Document
from .fields import first_of, plain, text
from .rows import Row, RowError, find_file, read_rows

_IDS = ("id", "_id", "docid", "passage_id", "pid")


def load_corpus(path: str | os.PathLike[str], *, on_bad_row: str = "raise", limit: int | None = None) -> list[Document]:
    r"""Read the passages of a corpus file.

    The file is JSON lines, a JSON array or parquet. Each row has `contents` in Search-R1's form (the title in double
    quotes on the first line: `"Title"\ntext`), or `text` and optionally `title`. `id` is optional.

    Args:
        path: the file, or a folder that contains `corpus.jsonl` (or `.json`, `.parquet`, or a gzipped file).
        on_bad_row: `"raise"` a DataError, or `"skip"` bad rows.
        limit: maximum number of passages to read; None: all.

    Returns:
        One document per passage. `source` is the id of the passage, or the number of its row.

    Raises:
        ConfigError: `on_bad_row` is unknown, or `limit` is below 1.
        DataError: the file is missing, empty or broken. The message names the file, the row and the field.
    """
    return list(iter_corpus(path, on_bad_row=on_bad_row, limit=limit))


def iter_corpus(
    path: str | os.PathLike[str], *, on_bad_row: str = "raise", limit: int | None = None
) -> Iterator[Document]:
    """Read the passages of a corpus file one by one, for files larger than memory. Otherwise like `load_corpus`.

    Raises:
        ConfigError: as in `load_corpus`; raised when the first passage is requested.
        DataError: as in `load_corpus`; raised when the iteration reaches the problem.
    """
    from .rows import check_reading

    check_reading(on_bad_row, limit)
    file = find_file(Path(path).expanduser(), "corpus")
    count = 0
    problem = ""
    for number, row in read_rows(file):
        try:
            if isinstance(row, RowError):
                raise row
            passage = _passage(row, number)
        except RowError as error:
            problem = problem or f"{file}, row {number}: {error}"
            if on_bad_row == "raise":
                raise DataError(f'{sentence(problem)} on_bad_row="skip" leaves such rows out.') from None
            continue
        yield passage
        count += 1
        if count == limit:
            break
    if not count:
        raise DataError(f"{file} holds no passage: " + (problem or "it is empty"))


def _passage(row: Row, number: int) -> Document:
    key = first_of(row, _IDS)
    source = str(number) if key is None else str(plain(row[key]))
    field = first_of(row, ("text", "contents", "passage", "body"))
    if field is None:
        raise RowError("contents", "a passage in `contents`, or in `text` and `title`", sorted(map(str, row)))
    body = text(row[field], field)
    if isinstance(row.get("title"), str):
        return Document(row["title"].strip(), body, source)
    return Document(*split_contents(body), source) if field == "contents" else Document("", body, source)


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
