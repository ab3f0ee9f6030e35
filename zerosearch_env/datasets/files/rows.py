"""Read the rows of a data file: JSON, CSV, TSV (all also gzipped), parquet or arrow.

A row that cannot be read is yielded as a `RowError`. `RowReader` converts rows, and decides whether to stop at such a
row or to leave it out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar, cast, get_args

from ...checks import check_whole_number
from ...errors import DataError, require, sentence, unknown_name
from .find import ENDINGS, SUFFIXES

Row = Mapping[Any, Any]
"""Cells by column: by name or, in a table without a header, by number."""
OnBadRow = Literal["raise", "skip"]
Value = TypeVar("Value")
_log = logging.getLogger(__name__)
_HEADINGS = {"id", "question", "answer", "answers", "title", "text"}
"""Names of columns that no cell of a table without a header is."""
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_CONTAINERS = ("data", "questions", "examples")
"""Keys, in any case, under which a JSON file that is one object holds its rows."""


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
    """A row and where it is."""

    place: str
    """For messages, for example "train.jsonl, row 3"."""
    number: int
    """Unique in its dataset; part of the id of a row without an id."""
    # Any: each kind of dataset has its own
    content: Any
    """A `Row`, a `Question` (only in memory), or the `RowError` that reading the row gave."""


class RowReader:
    """Converts rows one by one. A bad row raises, or is left out and counted.

    Args:
        on_bad_row: `"raise"` a DataError with file, row and field, or `"skip"` the row.
        limit: maximum number of rows to convert; None: all.

    Raises:
        ConfigError: `on_bad_row` is unknown, or `limit` is below 1.
    """

    def __init__(self, on_bad_row: OnBadRow = "raise", limit: int | None = None) -> None:
        if on_bad_row not in get_args(OnBadRow):
            raise unknown_name("on_bad_row", on_bad_row, get_args(OnBadRow))
        if limit is not None:
            check_whole_number("limit", limit, hint="None means no limit.")
        self.on_bad_row, self.limit = on_bad_row, limit
        self.skipped = 0
        """Number of rows left out so far."""

    def read(
        self, rows: Iterable[NumberedRow], convert: Callable[[NumberedRow], Value], *, where: object, what: str
    ) -> Iterator[Value]:
        """Yield `convert(row)` for each row. A warning in the log tells how many were left out, and the first problem.

        Args:
            rows: the rows of one dataset.
            convert: called with rows that could be read; raises `RowError` for a bad one.
            where: the dataset, for messages.
            what: what the dataset should hold, in the plural.

        Raises:
            DataError: a row is bad and `on_bad_row` is "raise", or no row is usable.
        """
        converted, first_problem = 0, ""
        for row in rows:
            try:
                if isinstance(row.content, RowError):
                    raise row.content
                value = convert(row)
            except RowError as problem:
                message = f"{row.place}: {problem}"
                if self.on_bad_row == "raise":
                    raise DataError(
                        f'{sentence(message)} on_bad_row="skip" (in a command: --on-bad-row skip) leaves such rows out.'
                    ) from None
                self.skipped += 1
                first_problem = first_problem or message
                continue
            yield value
            converted += 1
            if converted == self.limit:
                break
        if not converted and first_problem:
            raise DataError(
                f"{where} has no usable row: all {self.skipped} were skipped. The first problem: {first_problem}"
            )
        if not converted:
            raise DataError(f"{where} is empty: it has no {what}")
        if first_problem:
            left_out = "1 row was" if self.skipped == 1 else f"{self.skipped} rows were"
            _log.warning("%s: %s left out. The first problem: %s", where, left_out, first_problem)


def read_files(files: Iterable[Path], *, header: bool = True) -> Iterator[NumberedRow]:
    """The rows of a file or of several, such as all its shards, numbered through.

    Args:
        files: the files, in order.
        header: as in `read_rows`.

    Raises:
        DataError: as in `read_rows`.
        MissingExtraError: as in `read_rows`.
    """
    before = 0
    for file in files:
        number = 0
        for number, content in read_rows(file, header=header):
            yield NumberedRow(f"{file}, row {number}", before + number, content)
        before += number


def read_rows(path: Path, *, header: bool = True) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a file with their numbers, from 1: the line number in JSON lines, CSV and TSV, else the row number.

    A JSON file may also be one object with the rows under "data" (SQuAD, TriviaQA) or "questions" (WebQSP); SQuAD's
    paragraphs become one row per question.

    Args:
        path: the file.
        header: whether the first line of CSV and TSV names the columns; if not, their names are the numbers from 0.

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
                yield from _table(path, file, "\t" if name.endswith(".tsv") else None, header)
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
    for key, rows in document.items():
        if key.lower() in _CONTAINERS and isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
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


def _table(path: Path, file: BinaryIO, delimiter: str | None, header: bool) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a CSV or TSV file; an empty cell is None."""
    # Bytes that are not UTF-8 become lone surrogates, which make only the rows that hold them bad rows.
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        head = lines.readline()
        lines.seek(0)
        separator = delimiter or max(",;\t", key=head.count)

        def read() -> Any:
            return csv.reader(_requoted(lines) if separator == "\t" else lines, delimiter=separator, strict=True)

        rows = read()
        try:
            columns: Sequence[str | int] = [name.strip() for name in next(rows, [])]
        except csv.Error as cause:
            raise DataError(f"{path}: its first line cannot be read: {cause}") from cause
        names = {str(name).lower() for name in columns}
        # A header of numbers is what pandas writes for columns without names.
        if not header and not all(name == "" or name.isdecimal() for name in names):
            if not names.isdisjoint(_HEADINGS):
                raise DataError(f"{path} has a header: give the names of its columns ({', '.join(names)}), not numbers")
            columns = range(len(columns))
            lines.seek(0)
            rows = read()
        yield from _cells(rows, columns)


def _requoted(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a TSV file; cells such as `"A" and B`, from a writer that quotes nothing, are quoted as in CSV."""
    is_open = False  # a quoted cell goes on in the next line
    for line in lines:
        if '"' in line:
            cells, is_odd = line.rstrip("\r\n").split("\t"), line.count('"') % 2 == 1
            if is_open:
                is_open = not is_odd
            elif is_odd and any(cell.startswith('"') and cell.count('"') % 2 for cell in cells):
                is_open = True
            else:
                line = "\t".join(map(_quoted, cells)) + "\n"
        yield line


def _quoted(cell: str) -> str:
    if not cell.startswith('"') or cell.count('"') % 2 or _QUOTED.fullmatch(cell):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def _cells(rows: Any, columns: Sequence[str | int]) -> Iterator[tuple[int, Row | RowError]]:
    """The remaining rows of a `csv.reader`."""
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
            yield number, RowError("", f"{len(columns)} cells ({', '.join(map(str, columns))})", cells)
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
