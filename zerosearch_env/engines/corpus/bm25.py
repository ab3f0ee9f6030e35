"""Exact BM25, skipping posting lists that cannot change the result.

The impact of each word in each passage is computed when the index is built (`build.py`), as in bm25s (Lu, 2024,
arXiv:2407.03618). The score of a passage is the sum of the impacts of the query's words. Queries are answered with a
variant of MaxScore (Turtle and Flood, 1995):

    query words, largest possible impact first (in practice: rarest first)

    word        most it can add   postings
    zembla      9.1               ##             walk: add the impact of every posting
    capital     4.0               #####          walk
                                                 here the k-th best sum exceeds 1.2 + 0.3, so a passage
                                                 that has not been seen yet cannot enter the top k
    city        1.2               ##########     look up: only for the remaining candidates,
    the         0.3               ############   by binary search in the posting list

The partial sums are kept in one dense array with a counter per passage. The array stays in the processor's cache; this
measured several times faster than sorting the postings of many queries together.

Impacts are fixed-point integers, so a sum does not depend on the order of its terms. A ranking is therefore the same
in any batch, at any depth and on any machine. Ties are broken by the passage's position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, sentence
from ..ranking import Ranking
from .tokens import words

MAX_QUERY_WORDS = 256
"""Maximum number of words of a query; the rest is ignored. Keeps every score below 2**31 units."""
_FOUND_WORDS = 1 << 16
"""Maximum number of words whose places are remembered."""
_LONG = 4096
"""Posting lists up to this length are always walked: testing whether they can be skipped costs as much."""
_MARGIN = 2
"""Walking ends when the threshold exceeds this multiple of what the remaining words can add. A value above 1 walks
longer and leaves fewer candidates."""
_WALK_PER_LOOKUP = 32
"""Number of postings that can be added in the time of one look-up."""
_SCAN_PER_POSTING = 128
"""Number of counters that can be scanned in the time it takes to sort one touched passage."""
_PROBE = 4096
"""Maximum number of passages taken from the first posting list to bound the k-th best sum from below."""


@dataclass(frozen=True, eq=False, repr=False)  # its fields are millions of characters long
class Bm25Index:
    """Posting lists, word after word (compressed sparse columns), in memory or mapped from the files of a folder.

    The postings of the word at place `w` are `passages[starts[w]:starts[w + 1]]`, with their `impacts` at the same
    places. A word is known by a hash of 64 bits, so that words of any length are found by one binary search in an array
    that need not be read into memory. Two of ten million words have the same hash with a probability of 3 in a million.
    """

    size: int
    """Number of passages."""
    words: NDArray[np.uint64]
    """The hash of each word (`word_hash`) in ascending order, shape (words,)."""
    starts: NDArray[np.int64]
    """Start of each word's postings, shape (words + 1,)."""
    strongest: NDArray[np.int32]
    """Largest impact of each word, shape (words,)."""
    passages: NDArray[np.int32]
    """Passage of each posting, in ascending order per word, shape (postings,)."""
    impacts: NDArray[np.int32]
    """Impact of each posting in units of 1 / SCALE, at least 1, shape (postings,)."""
    folder: Path | None = None
    """The folder of the files that the arrays are mapped from; None: they are in memory."""
    _found: dict[str, tuple[int, int, int]] = field(default_factory=dict, init=False)
    """The places of words of earlier queries: most words of a query are frequent ones."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a mapped index as its folder; a copy maps the same files."""
        if self.folder is not None:
            return open_postings, (self.folder, self.size)
        return type(self)._copy, (self.size, *(getattr(self, name) for name in ARRAYS))

    @classmethod
    def _copy(cls, size: int, *arrays: NDArray[Any]) -> Bm25Index:
        # The fast path of numpy's `add.at` needs the dtype objects of this process; unpickled arrays have others.
        return cls(size, *(array.view(dtype) for array, dtype in zip(arrays, ARRAYS.values(), strict=False)))

    def rank(self, queries: Sequence[str], depth: int) -> list[Ranking]:
        """The `depth` best passages for each query; fewer if fewer passages share a word with it.

        Args:
            queries: any strings; words that occur in no passage are ignored.
            depth: maximum number of passages per query, at least 1.
        """
        sums = np.zeros(self.size, dtype=np.int32)
        return [self._rank(query, depth, sums) for query in queries]

    def _rank(self, query: str, depth: int, sums: NDArray[np.int32]) -> Ranking:
        """Rank for one query; `sums` has one counter per passage, all zero before and after the call."""
        terms = self._terms(query)
        rest = sum(term.bound for term in terms)  # Upper bound on what the remaining words can add to a score.
        walked: list[NDArray[np.intp]] = []
        probe: NDArray[np.intp] | None = None  # Distinct passages; their depth-th best sum is a lower bound.
        # 1. Walk the posting lists of the strongest words, until a new passage can no longer enter the result.
        postings = threshold = 0
        for term in terms:
            length = term.stop - term.start
            if length > _LONG and postings >= depth:
                probe = _distinct(walked, depth) if probe is None else probe
                threshold = _kth_best(sums, probe, depth)
                if rest * _MARGIN < threshold:
                    break
            walked.append(self._walk(term, sums))
            postings += length
            rest -= term.bound
        else:
            threshold = _kth_best(sums, _distinct(walked, depth) if probe is None else probe, depth)
        # 2. Collect the candidates: passages that the remaining words can still lift to the threshold.
        least = max(threshold - rest, 1)
        sparse = postings * _SCAN_PER_POSTING < self.size
        if sparse:
            touched = np.concatenate(walked) if walked else _NOBODY
            found = np.unique(touched[sums[touched] >= least])
        else:
            found = np.flatnonzero(sums >= least)
        # 3. Add the remaining words for the candidates only, dropping those that fall too far behind.
        for term in terms[len(walked) :]:
            if len(found) * _WALK_PER_LOOKUP > term.stop - term.start:
                sparse = False
                self._walk(term, sums)
            else:
                self._look_up(term, found, sums)
            rest -= term.bound
            threshold = max(threshold, _kth_best(sums, found, depth))
            found = found[sums[found] >= threshold - rest]
        # 4. Sort the candidates and reset the counters.
        scores = sums[found]
        best = np.argsort(-scores, kind="stable")[:depth]
        if sparse:
            for passages in walked:
                sums[passages] = 0
        else:
            sums.fill(0)
        return Ranking(found[best], scores[best])

    def _terms(self, query: str) -> list[_Term]:
        """The known words of a query, that with the largest possible contribution first."""
        counts: dict[str, int] = {}
        for text in words(query)[:MAX_QUERY_WORDS]:
            counts[text] = counts.get(text, 0) + 1
        found = self._found
        if len(found) + len(counts) > _FOUND_WORDS:
            found.clear()
        terms = []
        for text, weight in counts.items():
            known = found.get(text)
            if known is None:
                known = found[text] = self._find(text)
            strongest, start, stop = known
            if stop > start:
                terms.append(_Term(strongest * weight, start, stop, weight))
        terms.sort(reverse=True)
        return terms

    def _find(self, text: str) -> tuple[int, int, int]:
        """The largest impact of a word, and start and end of its postings; zeros if it is in no passage."""
        word = np.uint64(word_hash(text))
        place = int(np.searchsorted(self.words, word))
        if place == len(self.words) or self.words[place] != word:
            return 0, 0, 0
        return int(self.strongest[place]), int(self.starts[place]), int(self.starts[place + 1])

    def _walk(self, term: _Term, sums: NDArray[np.int32]) -> NDArray[np.intp]:
        """Add a word's impacts to the sums of all its passages, and return these passages."""
        # `add.at` is fastest with indices of the machine's own size.
        passages = self.passages[term.start : term.stop].astype(np.intp)
        impacts = self.impacts[term.start : term.stop]
        np.add.at(sums, passages, impacts if term.weight == 1 else impacts * term.weight)
        return passages

    def _look_up(self, term: _Term, found: NDArray[np.intp], sums: NDArray[np.int32]) -> None:
        """Add a word's impacts to the sums of those passages in `found` (distinct) that contain the word."""
        passages = self.passages[term.start : term.stop]
        wanted = found.astype(np.int32)  # of the same type as the postings, which would all be converted otherwise
        place = np.minimum(np.searchsorted(passages, wanted), len(passages) - 1)
        hit = passages[place] == wanted
        sums[found[hit]] += self.impacts[place[hit] + term.start] * term.weight


class _Term(NamedTuple):
    """A word of a query and its postings."""

    bound: int
    """The most that it can add to a score."""
    start: int
    stop: int
    weight: int
    """Occurrences in the query."""


_NOBODY = np.zeros(0, dtype=np.intp)


def _distinct(lists: Sequence[NDArray[np.intp]], least: int) -> NDArray[np.intp]:
    """Some distinct passages of the lists; at least `least` of them if the lists together have that many."""
    probe = _NOBODY
    for passages in lists:
        probe = np.union1d(probe, passages) if len(probe) else passages[:_PROBE]
        if len(probe) >= least:
            break
    return probe


def _kth_best(sums: NDArray[np.int32], passages: NDArray[np.intp], rank: int) -> int:
    """The `rank`-th largest sum among distinct passages; 0 if there are fewer than `rank` passages."""
    count = len(passages)
    return int(np.partition(sums[passages], count - rank)[count - rank]) if count >= rank else 0


ARRAYS: dict[str, Any] = {
    "words": np.uint64,
    "starts": np.int64,
    "strongest": np.int32,
    "passages": np.int32,
    "impacts": np.int32,
}
"""The arrays of an index in the order of its fields, with their types. Each is a file `NAME.npy` in a folder."""
POSTING_FILES = tuple(f"{name}.npy" for name in ARRAYS)


@lru_cache(maxsize=1 << 16)
def word_hash(word: str) -> int:
    """The hash of a word: 64 bits, the same on every machine."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def open_postings(folder: Path, size: int) -> Bm25Index:
    """Map the posting lists in a folder.

    Args:
        folder: the folder with the files.
        size: number of passages.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        mapped = [np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in POSTING_FILES]
        # Plain arrays on the mapped memory: slices of numpy's own class for it cost microseconds each.
        index = Bm25Index(size, folder=folder, **dict(zip(ARRAYS, map(np.asarray, mapped), strict=True)))
        right = [array.dtype == dtype and array.ndim == 1 for array, dtype in zip(mapped, ARRAYS.values(), strict=True)]
        right.append(len(index.words) == len(index.strongest) == len(index.starts) - 1)
        right.append(len(index.passages) == len(index.impacts) == int(index.starts[-1]))
    except (OSError, ValueError, EOFError, IndexError) as cause:
        raise DataError(
            f"the posting lists in {folder} cannot be read: {sentence(cause)} Build the index again."
        ) from cause
    if not all(right):
        raise DataError(f"the posting lists in {folder} do not match; one is damaged. Build the index again.")
    return index
