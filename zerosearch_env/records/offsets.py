"""Where the episodes of an evaluation are in a file of transcripts, found without parsing the lines.

    transcripts.jsonl -> scan -> Line (offset, length, key) -> read_line -> record

A line has about 10 kB and its key 100 bytes, so a scan is as fast as reading the file. Only chosen lines are parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError

_NOISE = re.compile(rb'"noise_level": ([0-9.eE+-]+)(?:, "noise_kind": ("(?:[^"\\]|\\.)*"))?')
_EXTRA = b', "extra": {'
"""The last entry of a record. Inside a JSON string its quotes would be escaped, so it cannot be part of a text."""
_USUAL_KIND = "distractor"
"""The kind of noise of records that have none: earlier versions had no other."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file of transcripts, and which episode it holds."""

    offset: int
    """Position of its first byte."""
    length: int
    """Bytes, with the line break."""
    agent: str
    engine: str
    noise_level: float
    noise_kind: str
    index: int
    """Position of the question in its dataset."""
    sample: int


def scan(path: Path) -> Iterator[Line]:
    """Find the episodes of an evaluation in a file. Damaged lines, and episodes of something else, are left out.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as cause:
        raise DataError(f"cannot read transcripts from {path}: {cause.strerror or cause}.") from cause
    offset = 0
    with file:
        for line in file:
            if (found := _line(line, offset)) is not None:
                yield found
            offset += len(line)


def _line(line: bytes, offset: int) -> Line | None:
    """The episode on a line; None if there is none."""
    start, noise = line.rfind(_EXTRA), _NOISE.search(line)
    try:
        if start > 0 and noise is not None and line.endswith(b"}\n"):
            extra = json.loads(line[start + len(_EXTRA) - 1 : -2])
            level, kind = float(noise[1]), _USUAL_KIND if noise[2] is None else json.loads(noise[2])
        else:
            record = json.loads(line)
            extra, level = record["extra"], float(record["noise_level"])
            kind = record.get("noise_kind", _USUAL_KIND)
        sample = extra.get("sample", 0)
        return Line(offset, len(line), extra["agent"], extra["engine"], level, kind, extra["index"], sample)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


# Any: the values of a JSON object, checked by whoever reads them
def read_line(file: BinaryIO, offset: int, length: int) -> dict[str, Any]:
    """Parse a line of an open file.

    Args:
        file: the file.
        offset: `Line.offset`.
        length: `Line.length`.

    Raises:
        DataError: the file has changed since it was scanned.
    """
    file.seek(offset)
    try:
        record = json.loads(file.read(length))
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{file.name}: the transcript at byte {offset} cannot be read ({cause})") from cause
    if not isinstance(record, dict):
        raise DataError(f"{file.name}: expected a transcript at byte {offset}, got {type(record).__name__}")
    return record
