"""Exact BM25 on a bm25s index, skipping posting lists that cannot change the result.

bm25s (Lu, 2024, arXiv:2407.03618) computes the impact of each word in each passage at indexing time. The score of a
passage is the sum of the impacts of the query's words. Queries are answered with a variant of MaxScore (Turtle and
Flood, 1995):

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

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..ranking import SCALE, Ranking
from .tokens import words

MAX_QUERY_WORDS = 256
"""Maximum number of words of a query; the rest is ignored. Keeps every score below 2**31 units."""
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
    """Posting lists in the order of the vocabulary, in the layout of bm25s (compressed sparse columns).

    The postings of word `w` are `passages[starts[w]:starts[w + 1]]`, with their `impacts` at the same places.
    """

    vocabulary: dict[str, int]
    size: int
    """Number of passages."""
    starts: list[int]
    """Start of each word's postings, length words + 1."""
    strongest: list[int]
    """Largest impact of each word, length words."""
    passages: NDArray[np.int64]
    """Passage of each posting, in ascending order per word, shape (postings,)."""
    impacts: NDArray[np.int32]
    """Impact of each posting in units of 1 / SCALE, at least 1, shape (postings,)."""

    def __setstate__(self, state: dict[str, object]) -> None:
        # The fast path of numpy's `add.at` needs the dtype objects of this process; unpickled arrays have others.
        for name, dtype in (("passages", np.int64), ("impacts", np.int32)):
            state[name] = np.asarray(state[name]).view(dtype)
        self.__dict__.update(state)

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
        rest = sum(bound for bound, _, _ in terms)  # Upper bound on what the remaining words can add to a score.
        walked: list[NDArray[np.int64]] = []
        probe: NDArray[np.int64] | None = None  # Distinct passages; their depth-th best sum is a lower bound.
        # 1. Walk the posting lists of the strongest words, until a new passage can no longer enter the result.
        postings = threshold = 0
        for bound, word, weight in terms:
            length = self.starts[word + 1] - self.starts[word]
            if length > _LONG and postings >= depth:
                probe = _distinct(walked, depth) if probe is None else probe
                threshold = _kth_best(sums, probe, depth)
                if rest * _MARGIN < threshold:
                    break
            walked.append(self._walk(word, weight, sums))
            postings += length
            rest -= bound
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
        for bound, word, weight in terms[len(walked) :]:
            if len(found) * _WALK_PER_LOOKUP > self.starts[word + 1] - self.starts[word]:
                sparse = False
                self._walk(word, weight, sums)
            else:
                self._look_up(word, weight, found, sums)
            rest -= bound
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

    def _terms(self, query: str) -> list[tuple[int, int, int]]:
        """The known words of a query as (largest possible contribution, word, occurrences), largest first."""
        lookup = self.vocabulary.get
        counts: dict[int, int] = {}
        for text in words(query)[:MAX_QUERY_WORDS]:
            word = lookup(text)
            if word is not None:
                counts[word] = counts.get(word, 0) + 1
        return sorted(((self.strongest[word] * count, word, count) for word, count in counts.items()), reverse=True)

    def _walk(self, word: int, weight: int, sums: NDArray[np.int32]) -> NDArray[np.int64]:
        """Add a word's impacts to the sums of all its passages, and return these passages."""
        start, stop = self.starts[word], self.starts[word + 1]
        passages, impacts = self.passages[start:stop], self.impacts[start:stop]
        np.add.at(sums, passages, impacts if weight == 1 else impacts * weight)
        return passages

    def _look_up(self, word: int, weight: int, found: NDArray[np.int64], sums: NDArray[np.int32]) -> None:
        """Add a word's impacts to the sums of those passages in `found` (distinct) that contain the word."""
        start, stop = self.starts[word], self.starts[word + 1]
        passages = self.passages[start:stop]
        place = np.minimum(np.searchsorted(passages, found), stop - start - 1)
        hit = passages[place] == found
        sums[found[hit]] += self.impacts[place[hit] + start] * weight


_NOBODY = np.zeros(0, dtype=np.int64)


def _distinct(lists: Sequence[NDArray[np.int64]], least: int) -> NDArray[np.int64]:
    """Some distinct passages of the lists; at least `least` of them if the lists together have that many."""
    probe = _NOBODY
    for passages in lists:
        probe = np.union1d(probe, passages) if len(probe) else passages[:_PROBE]
        if len(probe) >= least:
            break
    return probe


def _kth_best(sums: NDArray[np.int32], passages: NDArray[np.int64], rank: int) -> int:
    """The `rank`-th largest sum among distinct passages; 0 if there are fewer than `rank` passages."""
    count = len(passages)
    return int(np.partition(sums[passages], count - rank)[count - rank]) if count >= rank else 0


@cache
def _load_bm25s() -> ModuleType:
    """The library, whose logger then follows the user's configuration.

    bm25s sets its logger to DEBUG when it is imported, so its messages appear wherever the root logger has a handler.
    """
    import bm25s

    logger = logging.getLogger("bm25s")
    if logger.level == logging.DEBUG:
        logger.setLevel(logging.NOTSET)
    return bm25s  # type: ignore[no-any-return]


def build_index(texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> Bm25Index:
    """Index texts with bm25s, in its "lucene" variant, which has no negative impacts.

    Args:
        texts: one string per passage.
        k1: saturation of repeated words.
        b: penalty on long passages, in [0, 1].
    """
    bm25s = _load_bm25s()
    vocabulary: dict[str, int] = {}
    number = vocabulary.setdefault
    ids = [[number(word, len(vocabulary)) for word in words(text)] for text in texts]
    if not vocabulary:
        return Bm25Index({}, len(texts), [0], [], _NOBODY, _NOBODY.astype(np.int32))
    library = bm25s.BM25(k1=k1, b=b, method="lucene")
    library.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    starts = np.asarray(library.scores["indptr"], dtype=np.int64)
    passages = np.asarray(library.scores["indices"], dtype=np.int64)
    # An impact rounded to 0 would make a match look like a miss.
    impacts = np.maximum(np.rint(library.scores["data"].astype(np.float64) * SCALE), 1).astype(np.int32)
    order = np.repeat(np.arange(len(vocabulary)) * len(texts), np.diff(starts)) + passages
    if (order[1:] < order[:-1]).any():  # Some releases of bm25s do not sort the passages of a word.
        order = np.argsort(order)
        passages, impacts = passages[order], impacts[order]
    strongest = np.maximum.reduceat(impacts, starts[:-1])
    return Bm25Index(vocabulary, len(texts), starts.tolist(), strongest.tolist(), passages, impacts)
