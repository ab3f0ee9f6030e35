"""Passages on disk: a JSON lines file and the byte offset of each line, both memory-mapped and read on access.

A store with a million passages opens instantly and uses no extra memory; processes that read the same store share its
pages.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ...errors import DataError, sentence
from ...types import Document

PASSAGES_FILE = "passages.jsonl"
OFFSETS_FILE = "offsets.npy"


def write_passages(folder: Path, passages: Iterable[Document]) -> int:
    """Write a store into an existing folder.

    Returns:
        The number of passages.
    """
    starts = [0]
    with (folder / PASSAGES_FILE).open("wb") as file:
        for passage in passages:
            starts.append(starts[-1] + file.write(_line(passage)))
    np.save(folder / OFFSETS_FILE, np.asarray(starts, dtype=np.int64))
    return len(starts) - 1


def _line(passage: Document) -> bytes:
    row = {"id": passage.source, "title": passage.title, "text": passage.text}
    try:
        return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # A lone surrogate, which can only be written as an escape.
        return json.dumps(row).encode("ascii") + b"\n"


class PassageStore(Sequence[Document]):
    """The passages of a folder, read from disk on access.

    Args:
        folder: the folder written by `write_passages`.

    Raises:
        DataError: a file is missing, or the two files do not match.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / PASSAGES_FILE
        try:
            self._starts = np.load(folder / OFFSETS_FILE, mmap_mode="r", allow_pickle=False)
            with self._path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError) as cause:
            raise DataError(
                f"the passages in {folder} cannot be read: {sentence(cause)} Build the index again."
            ) from cause
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
        line = self._bytes[int(self._starts[position]) : int(self._starts[position + 1])]
        try:
            row = json.loads(line)
            return Document(row["title"], row["text"], row["id"])
        except (ValueError, KeyError, TypeError) as cause:
            raise DataError(
                f"{self._path}, row {position + 1} is damaged: {sentence(cause)} Build the index again."
            ) from cause

    def __iter__(self) -> Iterator[Document]:
        return (self[position] for position in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder only; a copy maps the same files."""
        return type(self), (self._path.parent,)
