"""Builds BM25 indexes, in memory or in a folder, with a bounded amount of memory.

    texts -> runs -> merged posting lists
             |       |
             |       blocks of words: each run's postings of these words, one run after the other, become impacts
             postings of some consecutive passages, sorted by word

A run holds as many passages as fit into memory. In a folder, runs are files: an interrupted build continues after the
last complete one. Impacts are those of bm25s in its "lucene" variant, which has no negative ones, in fixed point.
"""

from __future__ import annotations

import math
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...checks import check_number
from ...files import replaced_directory
from ...identity import package_version, read_hash
from ...types import Document, full_text
from ..indexes.folder import (
    BM25,
    Manifest,
    OnProgress,
    begin_build,
    claim,
    describe_files,
    finish,
    library_versions,
)
from ..indexes.passage_store import PASSAGES_FILE, PassageStore
from ..ranking import SCALE
from .bm25 import ARRAYS, POSTING_FILES, Bm25Index, word_hash
from .tokens import words

K1, B = 1.5, 0.75
LEAST_MEMORY = 200
"""Megabytes with which an index can be built; enough for some millions of passages."""
_TOKENS = 1 << 22
"""Tokens of a run in memory."""
_POSTINGS = 1 << 20
"""Postings of a block in memory."""
_TOKEN_BYTES = 48
"""Memory that a run needs per token while it is sorted; a distinct word counts as 5 tokens."""
_POSTING_BYTES = 80
"""Memory that a block needs per posting while its impacts are computed."""
_SPARE_BYTES = 24_000_000
"""Memory left to the interpreter and to the file system's buffers."""
_RUNS = "runs"
_REPORT = 2048
"""Passages between two progress reports."""


@dataclass(frozen=True, kw_only=True)
class Bm25Manifest(Manifest):
    """The content of `index.json` of a BM25 index; `kind` is `"bm25"`."""

    NAME: ClassVar[str] = BM25
    FORMAT: ClassVar[int] = 1
    DATA_FILES: ClassVar[tuple[str, ...]] = POSTING_FILES

    words: int
    """Number of distinct words."""
    postings: int
    """Number of pairs of a word and a passage that holds it."""
    k1: float
    b: float


def build_index(texts: Iterable[str], *, k1: float = K1, b: float = B) -> Bm25Index:
    """Index texts in memory.

    Args:
        texts: one string per passage.
        k1: saturation of repeated words.
        b: penalty on long passages, in [0, 1].
    """
    merged = _Merged([_Run(arrays) for arrays in _count(iter(texts), 0, _TOKENS)], k1, b)
    total = int(merged.starts[-1])
    passages, impacts = np.empty(total, np.int32), np.empty(total, np.int32)
    end = 0
    for block in merged.blocks(_POSTINGS):
        start, end = end, end + len(block[0])
        passages[start:end], impacts[start:end] = block
    return Bm25Index(len(merged.lengths), merged.words, merged.starts, merged.strongest, passages, impacts)


def build_folder(
    passages: Iterable[Document],
    output: Path,
    *,
    k1: float = K1,
    b: float = B,
    memory: int = 1024,
    overwrite: bool = False,
    restart: bool = False,
    progress: OnProgress = lambda stage, done, total: None,
) -> Bm25Manifest:
    """Write an index of passages into a folder. An interrupted build of the same passages is continued.

    Args:
        passages: the passages to index, at least one; title and text have the same weight.
        output: the folder for the index.
        k1: saturation of repeated words, at least 0.
        b: penalty on long passages, in [0, 1].
        memory: the memory of this process that the build aims to stay within, in megabytes, at least LEAST_MEMORY. Less
            memory means more and smaller runs.
        overwrite: replace an existing index in `output`.
        restart: discard an unfinished build of other passages.
        progress: called with the stages `"reading"`, `"indexing"` (passages) and `"merging"` (postings).

    Returns:
        The manifest of the finished index.

    Raises:
        ConfigError: there are no passages, an option is invalid, `output` is not empty, or an unfinished build has
            other passages.
    """
    check_number("k1", k1, least=0)
    check_number("b", b, least=0, most=1)
    check_number("memory", memory, least=LEAST_MEMORY)
    output = output.expanduser().absolute()
    work, size = begin_build(output, passages, overwrite, progress)
    plan = {"kind": BM25, "passages": read_hash(work / PASSAGES_FILE), "package": package_version()}
    if not claim(work, plan, restart=restart):
        shutil.rmtree(work / _RUNS, ignore_errors=True)
    free = max(memory * 1_000_000 - _resident() - _SPARE_BYTES, 32_000_000)
    merged = _Merged(_stored_runs(work, size, free // _TOKEN_BYTES, progress), k1, b)
    _write(work, merged, free // _POSTING_BYTES, progress)
    shutil.rmtree(work / _RUNS)
    manifest = Bm25Manifest(
        format=Bm25Manifest.FORMAT,
        kind=BM25,
        passages=size,
        libraries=library_versions(),
        files=describe_files(work, Bm25Manifest),
        words=len(merged.words),
        postings=int(merged.starts[-1]),
        k1=k1,
        b=b,
    )
    finish(work, output, manifest)
    return manifest


class _Run:
    """The postings of some consecutive passages, in memory or in a folder of one file per array.

    `words`, `starts` and `passages` are as in `Bm25Index`; `counts` holds how often the word of each posting occurs in
    the passage, and `lengths` the number of tokens of each passage.
    """

    NAMES = ("words", "starts", "passages", "counts", "lengths")

    def __init__(self, arrays: dict[str, NDArray[Any]] | Path) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        if isinstance(self._arrays, dict):
            return self._arrays[name]
        # Mapped for a moment only: mapped pages count as memory of this process.
        return np.asarray(np.load(self._arrays / f"{name}.npy", mmap_mode="r", allow_pickle=False))


class _Numbers(dict[str, int]):
    """Numbers words in the order in which they are looked up."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def _count(texts: Iterator[str], first: int, most: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of one run after another.

    Args:
        texts: the passages from number `first` on.
        first: number of the first passage.
        most: a run ends when it has this many tokens.
    """
    while True:
        numbers, tokens, lengths = _Numbers(), array("i"), array("i")
        number = numbers.__getitem__
        for text in texts:
            before = len(tokens)
            tokens.fromlist(list(map(number, words(text))))
            lengths.append(len(tokens) - before)
            if len(tokens) + 5 * len(numbers) >= most:
                break
        if not lengths:
            return
        yield _sorted_run(numbers, tokens, lengths, first)
        first += len(lengths)


def _sorted_run(
    numbers: dict[str, int], tokens: array[int], lengths: array[int], first: int
) -> dict[str, NDArray[Any]]:
    hashes, rank = np.unique(np.fromiter(map(word_hash, numbers), np.uint64, len(numbers)), return_inverse=True)
    size, sizes = len(lengths), np.frombuffer(lengths, np.int32)
    # One number per token, word * size + passage. Sorted, equal neighbours are the occurrences of a word in a passage.
    pairs = rank.astype(np.int64)[np.frombuffer(tokens, np.int32)] if tokens else np.zeros(0, np.int64)
    pairs *= size
    pairs += np.repeat(np.arange(size, dtype=np.int32), sizes)
    pairs.sort()
    changes = np.flatnonzero(np.concatenate([np.ones(min(len(pairs), 1), bool), pairs[1:] != pairs[:-1]]))
    counts = np.diff(changes, append=len(pairs)).astype(np.int32)
    pairs = pairs[changes]
    del changes
    word = pairs // size
    pairs -= word * size
    starts = np.concatenate([[0], np.cumsum(np.bincount(word, minlength=len(hashes)))])
    return {
        "words": hashes,
        "starts": starts,
        "passages": (pairs + first).astype(np.int32),
        "counts": counts,
        "lengths": sizes,
    }


def _stored_runs(work: Path, size: int, most: int, progress: OnProgress) -> list[_Run]:
    """All runs of the passages in `work`; those that are not there yet are made."""
    runs = work / _RUNS
    runs.mkdir(exist_ok=True)
    folders = sorted(folder for folder in runs.iterdir() if not folder.name.startswith("."))
    done = sum(len(_Run(folder)["lengths"]) for folder in folders)
    progress("indexing", done, size)

    def texts(done: int) -> Iterator[str]:
        for number, passage in zip(count(done + 1), PassageStore(work).stream(done), strict=False):
            yield full_text(passage)
            if number % _REPORT == 0 or number == size:
                progress("indexing", number, size)

    for arrays in _count(texts(done), done, most):
        place = runs / f"{len(folders):06}"
        with replaced_directory(place) as folder:
            for name in _Run.NAMES:
                np.save(folder / f"{name}.npy", arrays[name])
        arrays.clear()  # before the next run is made
        folders.append(place)
    return [_Run(folder) for folder in folders]


class _Merged:
    """The posting lists of all runs together. Words, starts and lengths are known at once; `blocks` makes the postings.

    Args:
        runs: in the order of their passages.
        k1: saturation of repeated words.
        b: penalty on long passages.
    """

    def __init__(self, runs: Sequence[_Run], k1: float, b: float) -> None:
        self._runs, self._k1, self._b = runs, k1, b
        self.words = _union(runs)
        self.lengths = np.concatenate([run["lengths"] for run in runs] or [np.zeros(0, np.int32)])
        frequencies = np.zeros(len(self.words), np.int64)
        for run in runs:
            frequencies[np.searchsorted(self.words, run["words"])] += np.diff(run["starts"])
        self.starts: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(frequencies)])
        self.strongest = np.zeros(len(self.words), np.int32)
        """Largest impact of each word; complete once all blocks have been made."""
        distinct, place = np.unique(frequencies, return_inverse=True)
        size = len(self.lengths)
        # `math.log` instead of numpy's, which may round differently on another processor.
        idf = [math.log(1 + (size - n + 0.5) / (n + 0.5)) for n in distinct.tolist()]
        self._idf = np.asarray(idf, np.float32)[place]
        self._mean = float(self.lengths.mean()) if size else 0.0

    def blocks(self, most: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Passages and impacts of the postings, in order.

        Args:
            most: maximum number of postings of a block, unless a single word has more in one run.
        """
        low = 0
        while low < len(self.words):
            high = max(int(np.searchsorted(self.starts, self.starts[low] + most, "right")) - 1, low + 1)
            # The runs of a word that is too frequent for one block follow each other in any case.
            fits = self.starts[high] - self.starts[low] <= most
            for runs in [self._runs] if fits else [[run] for run in self._runs]:
                yield self._block(runs, low, high)
            low = high

    def _block(self, runs: Sequence[_Run], low: int, high: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        chosen = self.words[low:high]
        parts = [self._part(run, chosen) for run in runs]
        frequencies = np.zeros(high - low, np.int64)
        for places, numbers, *_ in parts:
            frequencies[places] += numbers
        starts = np.cumsum(frequencies) - frequencies
        total = int(frequencies.sum())
        passages, counts = np.empty(total, np.int32), np.empty(total, np.int32)
        filled = starts.copy()
        for places, numbers, run_passages, run_counts in parts:
            before = np.cumsum(numbers) - numbers
            target = np.arange(len(run_passages)) + np.repeat(filled[places] - before, numbers)
            passages[target], counts[target] = run_passages, run_counts
            filled[places] += numbers
        impacts = self._impacts(passages, counts, np.repeat(self._idf[low:high], frequencies))
        if total:
            held = frequencies > 0
            strongest = np.maximum.reduceat(impacts, starts[held])
            self.strongest[low:high][held] = np.maximum(self.strongest[low:high][held], strongest)
        return passages, impacts

    @staticmethod
    def _part(run: _Run, chosen: NDArray[np.uint64]) -> tuple[NDArray[Any], ...]:
        """The words of a run that are among the chosen (by place), their numbers of postings, and the postings."""
        all_words, all_starts = run["words"], run["starts"]
        low, high = np.searchsorted(all_words, chosen[0]), np.searchsorted(all_words, chosen[-1], "right")
        places = np.searchsorted(chosen, all_words[low:high])
        start, stop = int(all_starts[low]), int(all_starts[high])
        numbers = np.diff(all_starts[low : high + 1])
        return places, numbers, np.array(run["passages"][start:stop]), np.array(run["counts"][start:stop])

    def _impacts(
        self, passages: NDArray[np.int32], counts: NDArray[np.int32], idf: NDArray[np.float32]
    ) -> NDArray[np.int32]:
        """idf * count / (count + k1 * (1 - b + b * length / mean length)), in units of 1 / SCALE.

        Every step rounds as in bm25s, which stores its scores in single precision.
        """
        saturation = self._b * self.lengths[passages].astype(np.float64)
        saturation /= self._mean or 1.0
        saturation += 1 - self._b
        saturation *= self._k1
        saturation += counts
        score = (idf * (counts / saturation)).astype(np.float32).astype(np.float64)
        # An impact rounded to 0 would make a match look like a miss.
        return np.maximum(np.rint(score * SCALE), 1).astype(np.int32)


def _union(runs: Iterable[_Run]) -> NDArray[np.uint64]:
    """The words of all runs, in order."""
    known, waiting = np.zeros(0, np.uint64), list[NDArray[np.uint64]]()
    for run in runs:
        waiting.append(np.array(run["words"]))
        if sum(map(len, waiting)) > max(len(known), 1 << 18):
            known, waiting = np.unique(np.concatenate([known, *waiting])), []
    return np.unique(np.concatenate([known, *waiting]))


def _write(work: Path, merged: _Merged, most: int, progress: OnProgress) -> None:
    """Write the posting lists, block by block."""
    total, done = int(merged.starts[-1]), 0
    with (work / "passages.npy").open("wb") as passages, (work / "impacts.npy").open("wb") as impacts:
        for file in (passages, impacts):
            header = {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(file, header)
        progress("merging", 0, total)
        for block in merged.blocks(most):
            passages.write(block[0].data)
            impacts.write(block[1].data)
            done += len(block[0])
            progress("merging", done, total)
    for name in ("words", "starts", "strongest"):
        np.save(work / f"{name}.npy", getattr(merged, name).astype(ARRAYS[name], copy=False))


def _resident() -> int:
    """The memory of this process in bytes; a guess where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 80_000_000
