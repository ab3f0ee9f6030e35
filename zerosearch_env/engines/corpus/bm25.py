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
measured several times faster than sorting the postings of many queries together. The impacts of the most frequent words
are kept in such an array too, a *column*: it is added to all sums at once, and a look-up is one access. A column is
made when a query first needs it, within a fixed amount of memory.

In a small corpus nothing is skipped: the impacts of all words are added, most of them as columns.

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
_LONG = 16384
"""Posting lists up to this length, of words without a column, are always walked: testing whether they can be skipped
costs as much."""
_FREQUENT = 8
"""A word in more than one of so many passages has a column, which is then added faster than its postings."""
_COLUMN_BYTES = 32 << 20
"""Maximum memory of all columns."""
_SMALL = 1 << 14
"""In a corpus of at most so many passages all words are added: to find out what can be skipped takes no less time."""
_SPARE = 2
"""Maximum number of arrays of counters that are kept for further calls."""
_FEW = 128
"""So few candidates are all looked up: dropping some first costs as much."""
_MARGIN = 3
"""Walking ends when the threshold exceeds this multiple of what the remaining words can add. A value above 1 walks
longer and leaves fewer candidates."""
_WALK_PER_LOOKUP = 32
"""Number of postings that can be added in the time of one look-up."""
_SCAN_PER_POSTING = 128
"""Number of counters that can be scanned in the time it takes to sort one touched passage."""
_PROBE = 1024
"""Maximum number of passages taken from one posting list to bound the k-th best sum from below."""


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
    _found: dict[str, _Term] = field(default_factory=dict, init=False)
    """The postings of words of earlier queries: most words of a query are frequent ones."""
    _columns: dict[int, NDArray[np.int32]] = field(default_factory=dict, init=False)
    """The columns of frequent words, by the start of their postings; each has shape (size,)."""
    _spare: list[NDArray[np.int32]] = field(default_factory=list, init=False)
    """Counters of earlier calls, all zero: new ones of a large corpus take as long as a query."""

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
        try:
            sums = self._spare.pop()
        except IndexError:
            sums = np.zeros(self.size, dtype=np.int32)
        rankings = [self._rank(query, depth, sums) for query in queries]
        if len(self._spare) < _SPARE:
            self._spare.append(sums)
        return rankings

    def _rank(self, query: str, depth: int, sums: NDArray[np.int32]) -> Ranking:
        """Rank for one query; `sums` has one counter per passage, all zero before and after the call."""
        terms = self._terms(query)
        if self.size <= _SMALL:
            return self._rank_small(terms, depth, sums)
        longest = min(_LONG, self.size // _FREQUENT)
        short = [term for term in terms if term.length <= longest]
        long = [term for term in terms if term.length > longest]
        rest = sum([term.bound for term in long])  # Upper bound on what the remaining words can add to a score.
        # 1. Walk the short posting lists, then those of the strongest other words, until a new passage can no longer
        # enter the result.
        lists: list[NDArray[Any]] = [self.passages[term.start : term.stop] for term in short]
        walked = [self._walk_together(short, lists, sums)] if short else []
        postings = sum(map(len, walked))
        probe: NDArray[Any] | None = None  # Distinct passages; their depth-th best sum is a lower bound.
        threshold = steps = 0
        for term in long:
            if postings >= depth:
                probe = _probe(lists, sums, depth) if probe is None else probe
                threshold = _kth_best(sums[probe], depth)
                if rest * _MARGIN < threshold:
                    break
            walked.append(self._walk(term, sums))
            lists.append(walked[-1])
            steps += 1
            postings += term.length
            rest -= term.bound
        else:
            threshold = _kth_best(sums[_probe(lists, sums, depth) if probe is None else probe], depth)
        # 2. Collect the candidates: passages that the remaining words can still lift to the threshold.
        least = max(threshold - rest, 1)
        sparse = postings * _SCAN_PER_POSTING < self.size
        if sparse:
            touched: NDArray[np.intp] = np.concatenate(walked, dtype=np.intp) if walked else _NOBODY
            found = np.unique(touched[sums[touched] >= least])
        else:
            found = (sums >= least).nonzero()[0]
        # 3. Add the remaining words for the candidates only, dropping those that fall too far behind.
        for term in long[steps:]:
            if len(found) > _FEW:
                reached = sums[found]
                threshold = max(threshold, _kth_best(reached, depth))
                found = found[reached >= threshold - rest]
            if len(found) * _WALK_PER_LOOKUP > term.length and self._column(term) is None:
                sparse = False
                self._walk(term, sums)
            else:
                self._look_up(term, found, sums)
            rest -= term.bound
        # 4. Sort the candidates and reset the counters.
        ranking = _top(found, sums, depth)
        if sparse:
            for passages in walked:
                sums[passages] = 0
        else:
            sums.fill(0)
        return ranking

    def _rank_small(self, terms: Sequence[_Term], depth: int, sums: NDArray[np.int32]) -> Ranking:
        """`_rank` without pruning."""
        for term in terms:
            self._walk(term, sums)
        # A result is at least as good as the depth-th best passage with some word.
        enough = next((term for term in terms if term.length >= depth), None)
        least = 0 if enough is None else _kth_best(sums[self.passages[enough.start : enough.stop][:_PROBE]], depth)
        found = (sums >= max(least, 1)).nonzero()[0]
        if len(found) > _FEW:
            reached = sums[found]
            found = found[reached >= _kth_best(reached, depth)]
        ranking = _top(found, sums, depth)
        sums.fill(0)
        return ranking

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
            term = found.get(text)
            if term is None:
                term = found[text] = self._find(text)
            if weight > 1:
                term = _Term(term.bound * weight, term.start, term.stop, term.length, weight)
            if term.length:
                terms.append(term)
        terms.sort(reverse=True)
        return terms

    def _find(self, text: str) -> _Term:
        """A word and its postings; without postings if it is in no passage."""
        word = np.uint64(word_hash(text))
        place = int(self.words.searchsorted(word))
        if place == len(self.words) or self.words[place] != word:
            return _Term(0, 0, 0, 0, 1)
        start, stop = int(self.starts[place]), int(self.starts[place + 1])
        return _Term(int(self.strongest[place]), start, stop, stop - start, 1)

    def _column(self, term: _Term) -> NDArray[np.int32] | None:
        """The impact of a frequent word in every passage, made at first use; None if it has no column."""
        column = self._columns.get(term.start)
        if column is None and term.length * _FREQUENT > self.size:
            if (len(self._columns) + 1) * self.size * np.dtype(np.int32).itemsize > _COLUMN_BYTES:
                return None
            column = np.zeros(self.size, dtype=np.int32)
            column[self.passages[term.start : term.stop]] = self.impacts[term.start : term.stop]
            self._columns[term.start] = column
        return column

    def _walk_together(
        self, terms: Sequence[_Term], lists: Sequence[NDArray[Any]], sums: NDArray[np.int32]
    ) -> NDArray[np.intp]:
        """Add the impacts of several words, and return the passages of their lists, some of them several times."""
        # `add.at` is fastest with indices of the machine's own size.
        passages: NDArray[np.intp] = np.concatenate(lists, dtype=np.intp)
        impacts = [
            self.impacts[start:stop] * weight if weight > 1 else self.impacts[start:stop]
            for _, start, stop, _, weight in terms
        ]
        np.add.at(sums, passages, np.concatenate(impacts))
        return passages

    def _walk(self, term: _Term, sums: NDArray[np.int32]) -> NDArray[Any]:
        """Add a word's impacts to the sums of all its passages, and return these passages."""
        passages = self.passages[term.start : term.stop]
        column = self._column(term)
        if column is not None:
            sums += column if term.weight == 1 else column * term.weight
            return passages
        return self._walk_together([term], [passages], sums)

    def _look_up(self, term: _Term, found: NDArray[np.intp], sums: NDArray[np.int32]) -> None:
        """Add a word's impacts to the sums of those passages in `found` (distinct) that contain the word."""
        column = self._column(term)
        if column is not None:
            sums[found] += column[found] * term.weight
            return
        passages = self.passages[term.start : term.stop]
        wanted = found.astype(np.int32)  # of the same type as the postings, which would all be converted otherwise
        place = np.minimum(passages.searchsorted(wanted), len(passages) - 1)
        hit = passages[place] == wanted
        sums[found[hit]] += self.impacts[place[hit] + term.start] * term.weight


class _Term(NamedTuple):
    """A word of a query and its postings."""

    bound: int
    """The most that it can add to a score."""
    start: int
    stop: int
    length: int
    """Number of postings."""
    weight: int
    """Occurrences in the query."""


_NOBODY = np.zeros(0, dtype=np.intp)


def _probe(lists: Sequence[NDArray[Any]], sums: NDArray[np.int32], least: int) -> NDArray[Any]:
    """Some distinct passages of the lists with large sums; at least `least` if the lists together have that many."""
    probe: NDArray[Any] = _NOBODY
    for passages in lists:
        probe = np.union1d(probe, passages[:_PROBE]) if len(probe) else passages[:_PROBE]
        if len(probe) >= least:
            break
    if len(probe) > 4 * least:
        probe = probe[sums[probe].argpartition(-4 * least)[-4 * least :]]
    return probe


def _top(found: NDArray[np.intp], sums: NDArray[np.int32], depth: int) -> Ranking:
    """The `depth` best of some passages in ascending order; the first of equally good ones."""
    scores = sums[found]
    best = (-scores).argsort(kind="stable")[:depth]
    return Ranking(found[best], scores[best])


def _kth_best(values: NDArray[np.int32], rank: int) -> int:
    """The `rank`-th largest value; 0 if there are fewer than `rank`."""
    count = len(values)
    return int(np.partition(values, count - rank)[count - rank]) if count >= rank else 0


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
