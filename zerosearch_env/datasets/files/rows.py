"""Read the rows of a data file: JSON, CSV, TSV (all also gzipped), parquet or arrow.

A row that cannot be read is yielded as a `RowError`, so the caller decides whether to stop.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast, get_args

from ...checks import check_whole_number
from ...errors import DataError, require, unknown_name
from ...types import Question
from .find import ENDINGS, SUFFIXES

Row = Mapping[str, Any]
_CONTAINERS = ("data", "Data", "questions", "examples")
"""Keys under which a JSON file that is one object holds its rows."""


class RowError(Exception):
    """A row does not follow its format.

    Args:
        field: name of the field, or "" for the whole row.
        expected: description of the expected value.
        got: the actual value; it is shortened in the message.
        words: `got` is a description, not a value; it is shown as it is.
    """

    def __init__(self, field: str, expected: str, got: object, *, words: bool = False) -> None:
        super().__init__(field, expected, got)
        self.field, self.expected, self.got, self.words = field, expected, got, words
        shown = str(got) if words else repr(got)
        shown = shown if words or len(shown) <= 120 else f"{shown[:117]}..."
        where = f"field {field!r}: " if field else ""
        self.message = f"{where}expected {expected}, got {shown}"

    def __str__(self) -> str:
        return self.message


class NumberedRow(NamedTuple):
    """A row, or the error that reading it gave, and where it is."""

    place: str
    """For messages, for example "train.jsonl, row 3"."""
    number: int
    """Unique in its dataset; part of the id of a row without an id."""
    content: Row | Question | RowError


def read_files(files: list[Path]) -> Iterator[NumberedRow]:
    """The rows of a file or of all its shards, numbered through.

    Raises:
        DataError: as in `read_rows`.
        MissingExtraError: as in `read_rows`.
    """
    before, number = 0, 0
    for file in files:
        for number, content in read_rows(file):
            yield NumberedRow(f"{file}, row {number}", before + number, content)
        before += number


def read_rows(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a file with their numbers, from 1: the line number in JSON lines, CSV and TSV, else the row number.

    A JSON file may also be one object with the rows under "data" (SQuAD, TriviaQA); SQuAD's paragraphs become one row
    per question.

    Raises:
        DataError: the whole file is broken: damaged gzip, parquet or arrow data, or invalid JSON.
        MissingExtraError: the file is parquet or arrow, and pyarrow is not installed.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith((".parquet", ".arrow")):
        yield from _parquet(path) if name.endswith(".parquet") else _arrow(path)
        return
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as opened:
            file = cast(BinaryIO, opened)
            if name.endswith((".csv", ".tsv")):
                yield from _table(path, file, "\t" if name.endswith(".tsv") else None)
            elif not name.endswith(SUFFIXES) and _first_sign(file) not in (b"{", b"["):
                raise DataError(f"{path} is not a data file: expected the ending {ENDINGS}")
            elif _is_document(file, lines_likely=not name.endswith(".json")):
                yield from _document(path, file.read())
            else:
                yield from _lines(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise DataError(f"{path} is damaged or cut off: {cause}") from cause


def _first_sign(file: BinaryIO) -> bytes:
    """The first byte that is neither white space nor part of a byte-order mark. Rewinds the file to its start."""
    sign = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    file.seek(0)
    return sign


def _is_document(file: BinaryIO, *, lines_likely: bool) -> bool:
    """Whether a JSON file is one value, not one value per line. Rewinds the file to its start."""
    sign = _first_sign(file)
    if sign != b"{":
        return sign == b"["
    # An object: the rows under a key, or the first of many lines.
    lines = (line for line in file if line.strip(b"\xef\xbb\xbf \t\r\n"))
    line, is_single = next(lines, b""), next(lines, None) is None
    file.seek(0)
    try:
        return _container(json.loads(line.decode("utf-8-sig"))) is not None and is_single
    except (ValueError, RecursionError):
        return not lines_likely and not line.rstrip().endswith(b"}")  # one object, spread over lines


def _container(document: Any) -> list[Any] | None:
    """The rows in a JSON object that holds them under a key, or column by column (pandas); None if it is a row."""
    if not isinstance(document, dict):
        return None
    for key in _CONTAINERS:
        rows = document.get(key)
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            return rows
    cells = list(document.values())
    if all(isinstance(column, dict) and column.keys() == cells[0].keys() for column in cells):
        index = list(cells[0]) if cells else []
        if index and all(key.isdigit() for key in index):  # the index of a data frame
            return [{name: column[key] for name, column in document.items()} for key in index]
    return None


def _lines(file: BinaryIO) -> Iterator[tuple[int, Row | RowError]]:
    for number, raw in enumerate(file, 1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not line.strip():
            continue
        try:
            yield number, _object(json.loads(line.decode("utf-8")))
        except UnicodeDecodeError as problem:
            yield number, RowError("", "UTF-8 text", line[max(0, problem.start - 20) : problem.start + 20])
        except (ValueError, RecursionError) as problem:
            cut = "" if raw.endswith(b"\n") else "; the last line has no end and may be cut off"
            yield (
                number,
                RowError("", f"one JSON object per line ({problem}{cut})", line[:200].decode("utf-8", "replace")),
            )


def _document(path: Path, content: bytes) -> Iterator[tuple[int, Row | RowError]]:
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} is not UTF-8 text: {cause}") from cause
    except (ValueError, RecursionError) as cause:
        raise DataError(
            f"{path} begins like a JSON document but is not valid JSON; it may be cut off: {cause}"
        ) from cause
    rows = document
    if isinstance(document, dict):
        container = _container(document)
        rows = [document] if container is None else container
    yield from enumerate((_object(row) for entry in rows for row in _questions_of(entry)), 1)


def _questions_of(entry: Any) -> Iterator[Any]:
    """One row per question of an article in SQuAD's original form; any other entry as it is."""
    paragraphs = entry.get("paragraphs") if isinstance(entry, dict) else None
    if (
        not isinstance(paragraphs, list)
        or not paragraphs
        or not all(isinstance(part, dict) and "qas" in part for part in paragraphs)
    ):
        yield entry
        return
    for part in paragraphs:
        for question in part["qas"]:
            if isinstance(question, dict):
                yield {"title": entry.get("title"), "context": part.get("context"), **question}
            else:
                yield question


def _object(row: Any) -> Row | RowError:
    return row if isinstance(row, dict) else RowError("", "a JSON object", row)


def _table(path: Path, file: BinaryIO, delimiter: str | None) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a CSV or TSV file whose first line names the columns; an empty cell is None."""
    # Bytes that are not UTF-8 become lone surrogates, which make only the rows that hold them bad rows.
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        head = lines.readline()
        lines.seek(0)
        rows = csv.reader(lines, delimiter=delimiter or max(",;\t", key=head.count), strict=True)
        try:
            columns = [name.strip() for name in next(rows, [])]
        except csv.Error as cause:
            raise DataError(f"{path}: the line with the names of the columns cannot be read: {cause}") from cause
        yield from _cells(rows, columns)


def _cells(rows: Any, columns: list[str]) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a `csv.reader` behind its first line."""
    while True:
        number = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as problem:
            yield number, RowError("", f"cells in the form of RFC 4180 ({problem})", "something else", words=True)
            continue
        if cells and len(cells) != len(columns):
            yield number, RowError("", f"{len(columns)} cells ({', '.join(columns)})", cells)
        elif cells:
            yield number, {name: value if value else None for name, value in zip(columns, cells, strict=True)}


def _parquet(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    parquet = require("pyarrow.parquet")
    arrow = require("pyarrow")
    try:
        file = parquet.ParquetFile(path)
    except (arrow.ArrowInvalid, OSError) as cause:
        raise DataError(f"{path} is not a parquet file, or is damaged: {cause}") from cause
    with file:
        yield from _batches(path, file.iter_batches(batch_size=4096))


def _arrow(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of an arrow file, in the stream format (`datasets`) or the file format (feather)."""
    arrow = require("pyarrow")
    with arrow.memory_map(str(path)) if path.stat().st_size else io.BytesIO() as source:
        try:
            reader = arrow.ipc.open_stream(source)
        except arrow.ArrowInvalid:
            try:
                reader = arrow.ipc.open_file(source)
            except (arrow.ArrowInvalid, OSError) as cause:
                raise DataError(f"{path} is not an arrow file, or is damaged: {cause}") from cause
            yield from _batches(path, map(reader.get_batch, range(reader.num_record_batches)))
            return
        yield from _batches(path, reader)


def _batches(path: Path, batches: Any) -> Iterator[tuple[int, Row | RowError]]:
    arrow = require("pyarrow")
    try:
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (arrow.ArrowInvalid, OSError) as cause:
        raise DataError(f"{path} is damaged or cut off: {cause}") from cause


OnBadRow = Literal["raise", "skip"]


def check_reading(on_bad_row: str, limit: int | None) -> None:
    """Check the arguments that all readers share.

    Raises:
        ConfigError: `on_bad_row` is unknown, or `limit` is below 1.
    """
    if on_bad_row not in get_args(OnBadRow):
        raise unknown_name("on_bad_row", on_bad_row, get_args(OnBadRow))
    if limit is not None:
        check_whole_number("limit", limit, hint="None means no limit.")


def log_skipped(log: logging.Logger, where: object, skipped: int, first_problem: str) -> None:
    """Log a warning about the rows that `on_bad_row="skip"` left out, if any."""
    if skipped:
        rows = "1 row was" if skipped == 1 else f"{skipped} rows were"
        log.warning("%s: %s left out. The first problem: %s", where, rows, first_problem)
