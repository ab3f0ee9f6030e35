"""Read the rows of a data file: JSON lines, a JSON array (both also gzipped), or parquet.

A row that cannot be read is yielded as a `RowError`, so the caller decides whether to stop.
"""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

from ...checks import check_whole_number
from ...errors import DataError, require, unknown_name

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")
"""File name endings of data files; `.gz` may follow the first two."""


class RowError(Exception):
    """A row does not follow its format.

    Args:
        field: name of the field, or "" for the whole row.
        expected: description of the expected value.
        got: the actual value; it is shortened in the message.
    """

    def __init__(self, field: str, expected: str, got: object) -> None:
        super().__init__(field, expected, got)
        shown = repr(got)
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        where = f"field {field!r}: " if field else ""
        self.message = f"{where}expected {expected}, got {shown}"

    def __str__(self) -> str:
        return self.message


def looks_like_file(name: str) -> bool:
    """Whether a name refers to a file or folder, not to a dataset on the hub."""
    path = Path(name).expanduser()
    return path.exists() or name.startswith((".", "/", "~")) or name.removesuffix(".gz").endswith(SUFFIXES)


def find_file(path: Path, split: str) -> Path:
    """The path itself if it is a file; in a folder, the file of a split (`{split}.jsonl`, `.json`, `.parquet`, `.gz`).

    Raises:
        DataError: there is no such file; the message suggests files with similar names.
    """
    if path.is_file():
        return path
    if path.is_dir():
        for suffix in SUFFIXES:
            for ending in (suffix, f"{suffix}.gz"):
                if (path / f"{split}{ending}").is_file():
                    return path / f"{split}{ending}"
        there = sorted(p.name for p in path.iterdir() if p.name.removesuffix(".gz").endswith(SUFFIXES))
        raise DataError(
            f"the folder {path} has no file for the split {split!r} (expected {split}.jsonl, .json or .parquet); "
            + (f"it has: {', '.join(there[:10])}" if there else "it has no data file at all")
        )
    if not path.parent.is_dir():
        raise DataError(f"{path} does not exist: there is no folder {path.parent}")
    names = [p.name for p in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    raise DataError(f"{path} does not exist.{hint}")


def read_rows(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a file with their numbers, from 1: the line number in JSON lines, else the row number.

    Raises:
        DataError: the whole file is broken: damaged gzip or parquet data, or an invalid JSON array.
        MissingExtraError: the file is parquet and pyarrow is not installed.
    """
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
        return
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as opened:
            file = cast(BinaryIO, opened)
            if _first_sign(file) == b"[":
                yield from _array(path, file.read())
            else:
                yield from _lines(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise DataError(f"{path} is damaged or cut off: {cause}") from cause


def _first_sign(file: BinaryIO) -> bytes:
    """The first byte that is neither white space nor part of a byte-order mark. Rewinds the file to its start."""
    head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return head[:1]


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


def _array(path: Path, content: bytes) -> Iterator[tuple[int, Row | RowError]]:
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} is not UTF-8 text: {cause}") from cause
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{path} begins like a JSON array but is not valid JSON; it may be cut off: {cause}") from cause
    for number, row in enumerate(rows, 1):
        yield number, _object(row)


def _object(row: Any) -> Row | RowError:
    return row if isinstance(row, dict) else RowError("", "a JSON object", row)


def _parquet(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    parquet = require("pyarrow.parquet")
    arrow = require("pyarrow")
    try:
        file = parquet.ParquetFile(path)
    except (arrow.ArrowInvalid, OSError) as cause:
        raise DataError(f"{path} is not a parquet file, or is damaged: {cause}") from cause
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row


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
