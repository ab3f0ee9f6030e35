"""Chooses useful and noisy documents from a remote engine's ranking, page by page.

Useful documents are the top ranks. Noisy documents are hard negatives: they are drawn by the request's seed from the
ranks below, and contain no gold answer. The logic is a generator that does no I/O: it yields the number of the page
that it needs, receives the page, and returns the documents.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ...game.answers import contains_answer
from ...types import Document, SearchRequest, full_text
from ..noise import mix_slots, seeded_orders


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a ranking, best ranks first."""

    documents: tuple[Document, ...]
    last: bool = False
    """Whether this is the last page, as far as the engine knows. An empty page is always the last one."""
    attempts: int = 0
    """HTTP attempts made for this page; 0 if it comes from the cache."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The documents of a request, or the reason why the search failed."""

    documents: tuple[Document, ...] = ()
    failure: str | None = None


def depth_of(request: SearchRequest, noise_depth: int) -> int:
    """Number of ranks that a request needs before documents are drawn: `top_k`, and with noise also the pool below."""
    return request.top_k + (max(noise_depth, request.top_k) if any(request.noise_mask) else 0)


def find(request: SearchRequest, *, noise_depth: int, max_pages: int) -> Generator[int, Page, Selection]:
    """Choose the documents: yield page numbers from 0 on, receive the pages, and return a `Selection`.

    - An empty ranking is not a failure: the result is empty, with or without noise.
    - A ranking with too few documents for a noisy result is a failure: documents are not invented, and useful ones
      are not used as noise.
    - A useful result is short if the ranking is short.

    Args:
        request: the search.
        noise_depth: number of ranks below `top_k` from which noisy documents are drawn.
        max_pages: maximum number of pages to request.
    """
    mask, needed = request.noise_mask, depth_of(request, noise_depth)
    noise = any(mask)
    ranking: list[Document] = []
    seen: set[tuple[str, str]] = set()
    noisy: list[Document] = []
    ended = False
    for number in range(max_pages):
        page = yield number
        ended = page.last or not page.documents
        for document in page.documents:
            if (key := (document.title, document.text)) not in seen:
                seen.add(key)
                ranking.append(document)
        last = ended or number + 1 == max_pages
        if last or len(ranking) >= needed:
            noisy = draw_noisy(request, ranking, noise_depth) if noise else []
            if last or not noise or len(noisy) == request.top_k:
                break
    if not ranking:
        return Selection()
    if noise and len(noisy) < request.top_k:
        why = "there are no further results" if ended else f"max_pages={max_pages} is reached"
        return Selection(
            failure=f"only {len(noisy)} of {request.top_k} noisy documents: {len(ranking)} results, of which the best "
            f"{min(request.top_k, len(ranking))} are useful, and noise must not contain a gold answer; {why}"
        )
    return Selection(mix_slots(mask, ranking, noisy))


def draw_noisy(request: SearchRequest, ranking: Sequence[Document], noise_depth: int) -> list[Document]:
    """Draw up to `top_k` documents without a gold answer from below the useful ranks; returned in rank order.

    They come from the pool, the first `noise_depth` ranks below `top_k` (or `top_k` ranks, if more), in seeded order.
    If the pool holds too few, the rest comes from the following ranks, in rank order.
    """
    below = ranking[request.top_k :]
    pool = min(max(noise_depth, request.top_k), len(below))
    chosen: list[int] = []
    for place in (*seeded_orders([request.seed], pool)[0], *range(pool, len(below))):
        if len(chosen) == request.top_k:
            break
        if not contains_answer(full_text(below[place]), request.forbidden):
            chosen.append(place)
    return [below[place] for place in sorted(chosen)]
