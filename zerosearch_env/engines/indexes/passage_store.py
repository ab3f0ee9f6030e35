"""Passages on disk: a JSON lines file and the byte offset of each line, both memory-mapped and read on access.

A store with a million passages opens instantly and uses no extra memory; processes that read the same store share its
pages. The file is one that `write_passages` has written, or any with rows in Search-R1's form, whose offsets
`write_offsets` finds.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ...bounded_cache import BoundedCache
from ...datasets.files.passages import split_contents
from ...errors import DataError, sentence
from ...types import Document, JsonObject

PASSAGES_FILE = "passages.jsonl"
OFFSETS_FILE = "offsets.npy"
_LATEST = 64
"""Number of passages that are kept: a noisy search looks at each passage that it returns twice."""
_BLOCK = 4096
"""Passages between two progress reports."""
_READ_BYTES = 1 << 24
"""Bytes read at once from a file whose lines are looked for."""


def write_passages(
    folder: Path,
    passages: Iterable[Document],
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> int:
    """Write a store into an existing folder.

    Args:
        folder: where to write.
        passages: the passages, in order.
        progress: called as `progress("reading", done, None)` after every few thousand passages.

    Returns:
        The number of passages.
    """
    starts, end = array("q", [0]), 0
    with (folder / PASSAGES_FILE).open("wb") as file:
        for passage in passages:
            end += file.write(_line(passage))
            starts.append(end)
            if len(starts) % _BLOCK == 0:
                progress("reading", len(starts), None)
    progress("reading", len(starts) - 1, len(starts) - 1)
    np.save(folder / OFFSETS_FILE, np.frombuffer(starts, dtype=np.int64))
    return len(starts) - 1


def write_offsets(
    folder: Path,
    file: Path,
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> None:
    """Find the lines of a file and write their offsets into an existing folder; `PassageStore` then reads the file.

    Args:
        folder: where to write.
        file: a file with one passage per line.
        progress: called as `progress("reading", bytes, total bytes)` after every few million bytes.
    """
    starts, end, size = array("q", [0]), 0, file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            found = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (end + 1)
            starts.frombytes(found.astype(np.int64).tobytes())
            end += len(block)
            progress("reading", end, size)
    if starts[-1] != end:  # the last line has no end
        starts.append(end)
    np.save(folder / OFFSETS_FILE, np.frombuffer(starts, dtype=np.int64))


def _line(passage: Document) -> bytes:
    row = {"id": passage.source, "title": passage.title, "text": passage.text}
    try:
        return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # A lone surrogate, which can only be written as an escape.
        return json.dumps(row).encode("ascii") + b"\n"


class PassageStore(Sequence[Document]):
    """The passages of a folder, read from disk on access.

    Args:
        folder: the folder written by `write_passages` or `write_offsets`.
        file: the file with the passages, if it is outside the folder.

    Raises:
        DataError: a file is missing, or the two files do not match.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        self._source = folder, file
        self._path = file or folder / PASSAGES_FILE
        self._remedy = "Build the index again." if file is None else 'Expected {"id": ..., "contents": ...}.'
        try:
            self._starts = np.asarray(np.load(folder / OFFSETS_FILE, mmap_mode="r", allow_pickle=False))
            with self._path.open("rb") as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError) as cause:
            raise DataError(
                f"the passages in {self._path.parent} cannot be read: {sentence(cause)} {self._remedy}"
            ) from cause
        self._latest: BoundedCache[int, Document] = BoundedCache(_LATEST)
        if self._starts.ndim != 1 or len(self._starts) < 2 or int(self._starts[-1]) != len(self._bytes):
            raise DataError(
                f"{self._path} with {len(self._bytes)} bytes does not match {OFFSETS_FILE}; one of them is "
                "damaged. Build the index again."
            )

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        """One passage, or a list of them.

        Raises:
            DataError: the line of a passage is damaged.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} passages, so index {index} is out of range")
        passage = self._latest.get(position)
        if passage is None:
            passage = self._read(position, self._bytes[int(self._starts[position]) : int(self._starts[position + 1])])
            self._latest.put(position, passage)
        return passage

    def _read(self, position: int, line: bytes) -> Document:
        try:
            return _document(json.loads(str(line, "utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise DataError(f"{self._path}, row {position + 1} is damaged: {sentence(cause)} {self._remedy}") from cause

    def __iter__(self) -> Iterator[Document]:
        return self.stream()

    def stream(self, start: int = 0) -> Iterator[Document]:
        """All passages from a position on, read from the file: mapped pages would count as memory of this process.

        Raises:
            DataError: the line of a passage is damaged.
        """
        with self._path.open("rb") as file:
            file.seek(int(self._starts[start]))
            for position in range(start, len(self)):
                yield self._read(position, file.readline())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the places of the files only; a copy maps the same files."""
        return type(self), self._source


def _document(row: JsonObject) -> Document:
    if "contents" in row:
        return Document(*split_contents(row["contents"]), str(row["id"]))
    return Document(row["title"], row["text"], row["id"])
