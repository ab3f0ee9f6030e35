"""Noisy results: passages close to the query that cannot answer the question.

Noisy passages are hard negatives: they rank just below the useful ones. The request's seed alone decides which of them
are drawn. They contain no gold answer and are never useful passages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..game.answers import contains_answer
from ..randomness import mix, mix_array
from ..types import Document, SearchRequest, full_text
from .ranking import Ranking

Item = TypeVar("Item")

MAX_EXAMINED = 20_000
"""Maximum number of passages examined for one noisy result; after that the result may be shorter than requested."""
_DEEPER = 8
"""How many times as deep as needed a query is ranked again: deeper ranks cost little, another ranking costs much."""
_STEP = 0x9E3779B97F4A7C15


class RankedPassages(Protocol):
    """A collection of passages that can be ranked for a query as deep as needed."""

    @property
    def passages(self) -> Sequence[Document]:
        """The passages that are ranked."""
        ...

    def __len__(self) -> int: ...

    def rank_to(self, query: str, depth: int) -> Ranking:
        """At least the `depth` best passages with a score for the query, best first; all of them if there are fewer."""
        ...


def seeded_orders(seeds: Sequence[int], size: int) -> list[list[int]]:
    """One random permutation of `range(size)` per seed, drawn with this package's generator."""
    counters = np.asarray(seeds, dtype=np.uint64)[:, None] + _steps(size)
    orders: list[list[int]] = mix_array(0, counters).argsort(axis=1, kind="stable").tolist()
    return orders


@lru_cache(maxsize=64)
def _steps(size: int) -> NDArray[np.uint64]:
    return np.arange(size, dtype=np.uint64) * np.uint64(_STEP)


def sample_negatives(
    index: RankedPassages,
    request: SearchRequest,
    ranking: Ranking,
    order: Sequence[int],
    *,
    skip: int,
    count: int,
    excluded: Collection[int] = (),
    titles: Collection[str] = (),
) -> list[tuple[int, int]]:
    """Draw up to `count` passages without a gold answer.

    Passages are tried in this order, until there are enough:

        ranks   0 .. skip-1   skip .. skip+len(order)-1    further ranks        no word in common
                useful,       the pool, in the             blocks of doubling   with the query,
                never drawn   seeded order                 width, each seeded   score 0

    Args:
        index: the passages.
        request: gives the query, the answers that must not be stated, and the seed.
        ranking: ranking of the query, at least `skip + len(order)` deep.
        order: seeded order in which the ranks of the pool are tried.
        skip: number of top ranks that are useful and never drawn.
        count: number of passages wanted.
        excluded: positions of other passages that are never drawn.
        titles: passages with these titles are never drawn.

    Returns:
        Pairs (position of the passage, score in units of 1 / ranking.SCALE), highest score first. There are fewer than
        `count` only if too few of the MAX_EXAMINED passages, or of all passages, are free of gold answers.
    """
    passages, answers = index.passages, request.forbidden
    taken: dict[int, tuple[int, int]] = {}

    def examine(candidates: Iterable[tuple[int, int, int]]) -> bool:
        for rank, position, score in candidates:
            passage = passages[position]
            if position in excluded or passage.title in titles or contains_answer(full_text(passage), answers):
                continue
            taken[rank] = (position, score)
            if len(taken) == count:
                return True
        return False

    end = skip + len(order)
    positions, scores = ranking.ids[skip:end].tolist(), ranking.scores[skip:end].tolist()
    near = ((place, positions[place], scores[place]) for place in order if place < len(positions))
    if count > 0 and not examine(near):
        examine(_further(index, request.query, request.seed, skip, len(positions)))
    return [taken[rank] for rank in sorted(taken)]


def _further(index: RankedPassages, query: str, seed: int, skip: int, pool: int) -> Iterator[tuple[int, int, int]]:
    """Candidates after the pool: (rank after `skip`, position, score), shuffled by seed in blocks of doubling width."""
    start, width, left = skip + pool, 64, MAX_EXAMINED
    most = start + left
    matched: list[int] = []
    depth = 0
    while left > 0:
        stop = min(start + width, most)
        if stop > len(matched) >= depth:
            depth = min(_DEEPER * stop, most)
            ranking = index.rank_to(query, depth)
            matched = ranking.ids.tolist()
        block = range(start, min(stop, len(matched)))
        if not block:
            break
        for place in seeded_orders([mix(seed, start)], len(block))[0]:
            rank = block[place]
            yield rank - skip, matched[rank], int(ranking.scores[rank])
        left -= len(block)
        start += width
        width *= 2
    known = set(matched)
    for number, position in enumerate(walk_all(len(index), seed)):
        if number >= left:
            return
        if position not in known:
            yield len(index) + number, position, 0


def check_drawn(noisy: Sequence[object], request: SearchRequest) -> None:
    """Check that a noisy result has at least one document: an empty one would say that nothing was found.

    Raises:
        EngineError: there is none.
    """
    if not noisy:
        raise EngineError(
            f"no noisy document for {request.query!r}: each passage that was examined is useful or states a gold "
            "answer. Use a larger corpus, or leave this question out."
        )


def walk_all(size: int, seed: int) -> Iterator[int]:
    """Every integer below `size` once, from a seeded start and with a seeded stride that is coprime to `size`."""
    if size < 1:
        return
    stride = 1 + mix(seed, 1) % size
    while gcd(stride, size) != 1:
        stride += 1
    position = mix(seed, 2) % size
    for _ in range(size):
        yield position
        position = (position + stride) % size


def unrelated(size: int, seed: int, known: NDArray[np.int64], count: int) -> list[int]:
    """Draw `count` positions below `size` that are not in `known`, by seed; fewer if there are not enough."""
    taken = set(known.tolist())
    drawn: list[int] = []
    for position in walk_all(size, seed):
        if len(drawn) == count:
            break
        if position not in taken:
            drawn.append(position)
    return drawn


def mix_slots(mask: Sequence[bool], useful: Sequence[Item], noisy: Sequence[Item]) -> tuple[Item, ...]:
    """Slot j gets the j-th noisy item if `mask[j]`, else the j-th useful item; slots without an item are left out."""
    chosen = [noisy if noise else useful for noise in mask]
    return tuple(items[slot] for slot, items in enumerate(chosen) if slot < len(items))
