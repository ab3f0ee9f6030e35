"""Noisy results: passages near the query that cannot answer the question.

A hard negative is a passage that the query ranks just below the useful ones. Which of them are taken is a function of
the request's seed alone. None holds a gold answer, and none is among the useful ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from math import gcd
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..game.rewards import contains_answer
from ..randomness import mix, mix_array
from ..types import Document, SearchRequest, full_text
from .ranking import Ranking

Item = TypeVar("Item")

MAX_EXAMINED = 20_000
"""Passages that are examined for one noisy result before it stays shorter than asked for."""
_STEP = 0x9E3779B97F4A7C15


class RankedPassages(Protocol):
    """Passages that can be ranked for a query to the last one."""

    @property
    def passages(self) -> Sequence[Document]:
        """What is ranked."""
        ...

    def __len__(self) -> int: ...

    def rank_all(self, query: str) -> Ranking:
        """Every passage that has a score for the query, best first."""
        ...


def seeded_orders(seeds: Sequence[int], size: int) -> list[list[int]]:
    """One random order of `range(size)` for each seed, drawn with the package's own generator."""
    with np.errstate(over="ignore"):
        counters = np.asarray(seeds, dtype=np.uint64)[:, None] + np.arange(size, dtype=np.uint64) * np.uint64(_STEP)
    orders: list[list[int]] = np.argsort(mix_array(0, counters), axis=1, kind="stable").tolist()
    return orders


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

    First from the pool (the ranks after the first `skip`, as many as `order` is long), in the seeded order; then, if
    the pool holds too few, from ever more distant ranks; last, from passages that share no word with the query.

    Args:
        index: the passages.
        request: gives the query, the gold answers and the seed.
        ranking: of the query, `skip + len(order)` deep or deeper.
        order: the seeded order in which the pool's ranks are tried.
        skip: ranks that are useful, and never taken.
        count: how many passages are wanted.
        excluded: positions of further passages that are never taken.
        titles: titles that are never taken.

    Returns:
        (position of the passage, score in units of bm25.SCALE), highest score first; shorter than `count` only when
        MAX_EXAMINED passages, or all of them, do not hold enough without an answer.
    """
    passages, answers = index.passages, request.answers
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

    pool = list(zip(ranking.ids[skip:].tolist(), ranking.scores[skip:].tolist(), strict=True))[: len(order)]
    near = ((place, *pool[place]) for place in order if place < len(pool))
    if count > 0 and not examine(near):
        examine(_further(index, request.query, request.seed, skip, len(pool)))
    return [taken[rank] for rank in sorted(taken)]


def _further(index: RankedPassages, query: str, seed: int, skip: int, pool: int) -> Iterator[tuple[int, int, int]]:
    """Beyond the pool: (rank after `skip`, position, score), seeded inside blocks of doubling width."""
    ranking = index.rank_all(query)
    matched = ranking.ids.tolist()
    start, width, left = skip + pool, 64, MAX_EXAMINED
    while start < len(matched) and left > 0:
        block = range(start, min(start + width, len(matched), start + left))
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


def walk_all(size: int, seed: int) -> Iterator[int]:
    """Every integer below `size` once, from a seeded start with a seeded stride."""
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
    """`count` positions below `size` that are not in `known`, drawn by the seed (fewer where there are fewer)."""
    taken = set(known.tolist())
    drawn: list[int] = []
    for position in walk_all(size, seed):
        if len(drawn) == count:
            break
        if position not in taken:
            drawn.append(position)
    return drawn


def mix_slots(mask: Sequence[bool], useful: Sequence[Item], noisy: Sequence[Item]) -> tuple[Item, ...]:
    """Slot j is the j-th noisy item where `mask[j]`, else the j-th useful one; slots without one are left out."""
    chosen = [noisy if noise else useful for noise in mask]
    return tuple(items[slot] for slot, items in enumerate(chosen) if slot < len(items))
