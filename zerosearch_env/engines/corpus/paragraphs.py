"""Search in the few paragraphs that come with a question (HotpotQA, 2WikiMultihopQA, MuSiQue)."""

from __future__ import annotations

from itertools import islice

from ...bounded_cache import BoundedCache
from ...game.answers import contains_answer
from ...types import Document, Paragraph, SearchRequest, full_text
from ..noise import seeded_orders
from ..ranking import SCALE
from .bm25 import Bm25Index
from .build import build_index

CACHED_QUESTIONS = 512
"""Number of questions for which the index of the paragraphs is kept: an episode searches the same one several times."""


class ParagraphSearch:
    """Ranks the paragraphs of a request by BM25, supporting paragraphs first. The paragraphs are the whole corpus."""

    def __init__(self) -> None:
        self._indexes: BoundedCache[tuple[Paragraph, ...], Bm25Index] = BoundedCache(CACHED_QUESTIONS)

    def search(self, request: SearchRequest) -> tuple[list[Document], list[Document]]:
        """The useful and the noisy documents for the slots of a request, each best first; there may be too few.

        Useful are the supporting paragraphs, then the best distractors. Noisy are distractors without a gold answer,
        other than the useful ones, drawn by the seed. `source` is the paragraph's number in the question.
        """
        paragraphs, mask, scores = request.paragraphs or (), request.noise_mask, self._scores(request)
        best = sorted(range(len(paragraphs)), key=lambda i: (not paragraphs[i].supporting, -scores[i], i))
        useful = [i for i, noise in zip(best, mask, strict=False) if not noise]
        order = seeded_orders([request.seed], len(paragraphs))[0] if any(mask) else ()
        distractors = (i for i in order if not paragraphs[i].supporting and i not in useful)
        clean = (i for i in distractors if not contains_answer(full_text(paragraphs[i]), request.answers))
        noisy = sorted(islice(clean, sum(mask)), key=lambda i: (-scores[i], i))

        def document(i: int) -> Document:
            return Document(paragraphs[i].title, paragraphs[i].text, f"paragraph-{i}", scores[i] / SCALE)

        return list(map(document, useful)), list(map(document, noisy))

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
