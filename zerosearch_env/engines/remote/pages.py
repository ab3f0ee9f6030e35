"""Useful and noisy documents out of a remote engine's ranking, page by page.

Useful documents are the best ranks. Noisy ones are hard negatives: drawn by the request's seed from the ranks below
them, none with a gold answer. The rules are a generator without any input or output: it yields the number of the page
that it needs, is sent the page, and returns what was found.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ...types import Document, SearchRequest
from ..guard import leaks
from ..noise import mix_slots, seeded_orders


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a ranking, best ranks first."""

    documents: tuple[Document, ...]
    last: bool = False
    """Whether nothing comes after it, as far as the engine knows. After an empty page nothing does."""
    attempts: int = 0
    """HTTP attempts behind it; 0 for one from the cache."""


@dataclass(frozen=True, slots=True)
class Found:
    """The documents of a request, or why there are none."""

    documents: tuple[Document, ...] = ()
    failure: str | None = None


def depth_of(request: SearchRequest, noise_depth: int) -> int:
    """Ranks that a request looks at before anything is drawn: `top_k`, with noise also the pool below them."""
    return request.top_k + (max(noise_depth, request.top_k) if any(request.noise_mask) else 0)


def find(request: SearchRequest, *, noise_depth: int, max_pages: int) -> Generator[int, Page, Found]:
    """Yields numbers of pages from 0 on, takes the pages, returns the documents.

    A ranking without any document is no failure: nothing was found, and the result is empty whatever its noise. A
    ranking that holds too few documents for a noisy result fails: nothing is made up, and nothing useful passes for
    noise. A useful result is as short as the ranking.

    Args:
        request: the search.
        noise_depth: ranks below `top_k` from which noisy documents are drawn.
        max_pages: pages that are asked for at most.
    """
    mask, needed = request.noise_mask, depth_of(request, noise_depth)
    ranking: list[Document] = []
    seen: set[tuple[str, str]] = set()
    noisy: list[Document] = []
    number, ended = 0, False
    while True:
        if any(mask) and (ended or len(ranking) >= needed):
            noisy = draw_noisy(request, ranking, noise_depth)
        enough = len(ranking) >= needed and (not any(mask) or len(noisy) == request.top_k)
        if enough or ended:
            break
        if number == max_pages:
            if any(mask):
                noisy = draw_noisy(request, ranking, noise_depth)
            break
        page = yield number
        number += 1
        ended = page.last or not page.documents
        for document in page.documents:
            if (key := (document.title, document.text)) not in seen:
                seen.add(key)
                ranking.append(document)
    if not ranking:
        return Found()
    if any(mask) and len(noisy) < request.top_k:
        why = "there are no further results" if ended else f"max_pages={max_pages} is reached"
        return Found(
            failure=f"only {len(noisy)} of {request.top_k} noisy documents: {len(ranking)} results, of which the best "
            f"{min(request.top_k, len(ranking))} are useful and the others may hold no gold answer; {why}"
        )
    return Found(mix_slots(mask, ranking, noisy))


def draw_noisy(request: SearchRequest, ranking: Sequence[Document], noise_depth: int) -> list[Document]:
    """Up to `top_k` documents below the useful ranks without a gold answer, in the order of their ranks.

    First from the `noise_depth` ranks of the pool, in the seeded order; where these hold too few, from further ranks,
    the nearest first.
    """
    below = ranking[request.top_k :]
    pool = min(max(noise_depth, request.top_k), len(below))
    chosen: list[int] = []
    for place in (*seeded_orders([request.seed], pool)[0], *range(pool, len(below))):
        if len(chosen) == request.top_k:
            break
        if not leaks(below[place], request.answers):
            chosen.append(place)
    return [below[place] for place in sorted(chosen)]
