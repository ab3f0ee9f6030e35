"""Search in the few paragraphs that come with a question (HotpotQA, 2WikiMultihopQA, MuSiQue)."""

from __future__ import annotations

from ...bounded_cache import BoundedCache
from ...game.answers import contains_answer
from ...types import Document, Paragraph, SearchRequest, full_text
from ..noise import seeded_orders
from ..ranking import SCALE
from .bm25 import Bm25Index, build_index

CACHED_QUESTIONS = 512
"""Number of questions for which the index of the paragraphs is kept: an episode searches the same one several times."""


class ParagraphSearch:
    """Ranks the paragraphs of a request by BM25, supporting paragraphs first. The paragraphs are the whole corpus."""

    def __init__(self) -> None:
        self._indexes: BoundedCache[tuple[Paragraph, ...], Bm25Index] = BoundedCache(CACHED_QUESTIONS)

    def useful(self, request: SearchRequest) -> tuple[int, ...]:
        """Positions of up to `top_k` paragraphs: first the supporting ones, then the distractors, each by score."""
        paragraphs = request.paragraphs or ()
        scores = self._scores(request)
        order = sorted(range(len(paragraphs)), key=lambda i: (not paragraphs[i].supporting, -scores[i], i))
        return tuple(order[: request.top_k])

    def noisy(self, request: SearchRequest, shown: tuple[int, ...], count: int) -> tuple[int, ...]:
        """Positions of up to `count` distractors without a gold answer, drawn by the seed, best score first.

        Args:
            request: the search.
            shown: positions that are already in the result.
            count: number of distractors wanted.
        """
        paragraphs = request.paragraphs or ()
        drawn: list[int] = []
        for i in seeded_orders([request.seed], len(paragraphs))[0]:
            if len(drawn) == count:
                break
            if (
                not paragraphs[i].supporting
                and i not in shown
                and not contains_answer(full_text(paragraphs[i]), request.answers)
            ):
                drawn.append(i)
        scores = self._scores(request)
        return tuple(sorted(drawn, key=lambda i: (-scores[i], i)))

    def documents(self, request: SearchRequest, positions: tuple[int, ...]) -> list[Document]:
        """The documents for positions; `source` is the paragraph's number in the question, `score` its BM25 score."""
        paragraphs, scores = request.paragraphs or (), self._scores(request)
        return [
            Document(paragraphs[i].title, paragraphs[i].text, f"paragraph-{i}", scores[i] / SCALE) for i in positions
        ]

    def _scores(self, request: SearchRequest) -> list[int]:
        paragraphs = request.paragraphs or ()
        index = self._indexes.get(paragraphs)
        if index is None:
            index = build_index([full_text(paragraph) for paragraph in paragraphs])
            self._indexes.put(paragraphs, index)
        ranking = index.rank([request.query], len(paragraphs))[0]
        scores = [0] * len(paragraphs)
        for position, score in zip(ranking.ids.tolist(), ranking.scores.tolist(), strict=True):
            scores[position] = score
        return scores
