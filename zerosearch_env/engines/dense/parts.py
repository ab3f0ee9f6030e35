"""Index, encoder and reranker of a dense engine, loaded once for all engines of a process."""

from __future__ import annotations

import threading
import weakref

import numpy as np

from ...types import Options
from ..noise import MAX_EXAMINED
from ..ranking import Ranking
from .encoders import CrossEncoderReranker, Encoder, Reranker, SentenceEncoder
from .index import DenseIndex, embed_queries
from .source import IndexSource


class Parts:
    """The index, encoder and reranker, shared by the engines of one process."""

    def __init__(self, index: DenseIndex, encoder: Encoder, reranker: Reranker | None) -> None:
        self.index, self.encoder, self.reranker = index, encoder, reranker


class RankedToTheEnd:
    """A ranking that can be extended beyond its last rank, for `sample_negatives`."""

    def __init__(self, parts: Parts, ranking: Ranking) -> None:
        self.passages = parts.index.passages
        self._parts, self._head = parts, ranking

    def __len__(self) -> int:
        return len(self.passages)

    def rank_to(self, query: str, depth: int) -> Ranking:
        """The ranking, followed by at least `depth` further passages by exact score, if there are as many."""
        index, head = self._parts.index, self._head
        vector = embed_queries(index.manifest, self._parts.encoder, [query])[0]
        exact = index.rank_all(vector, min(len(index), len(head.ids) + max(depth, MAX_EXAMINED)))
        rest = ~np.isin(exact.ids, head.ids)
        return Ranking(np.concatenate([head.ids, exact.ids[rest]]), np.concatenate([head.scores, exact.scores[rest]]))


_SHARED: weakref.WeakValueDictionary[tuple[object, ...], Parts] = weakref.WeakValueDictionary()
_SHARED_LOCK = threading.Lock()


def open_parts(
    source: IndexSource,
    encoder: str | Encoder | None,
    reranker: str | Reranker | None,
    device: str | None,
    tuning: Options,
) -> Parts:
    """Load and check index, encoder and reranker. Open engines with equal descriptions share them."""
    chosen = source.encoder() if encoder is None else encoder
    named = isinstance(chosen, str) and (reranker is None or isinstance(reranker, str))
    key = (*source.stamp(), chosen, reranker, device, *tuning.items())
    with _SHARED_LOCK:
        parts = _SHARED.get(key) if named else None
        if parts is None:
            index = source.open(**tuning)
            network = SentenceEncoder(chosen, device=device) if isinstance(chosen, str) else chosen
            source.check_encoder(index, network)
            judge = CrossEncoderReranker(reranker, device=device) if isinstance(reranker, str) else reranker
            parts = Parts(index, network, judge)
            if named:
                _SHARED[key] = parts
        return parts
