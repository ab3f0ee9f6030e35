"""An opened dense index: faiss proposes candidates, which are scored and ranked exactly here.

Scores are computed again because faiss rounds its sums differently for different numbers of queries. They are
fixed-point integers in units of `1 / ranking.SCALE`, and ties are broken by the passage's position. So a ranking
depends on the query's vector alone:

    query vector -> faiss: depth + 16 candidates -> exact scores, sort -> is the cut at `depth` certain?
                       ^                                                     |        |
                       |            no: ask for 8 times as many              |        yes: return `depth` passages
                       +-----------------------------------------------------+
    (if faiss was asked for 2048 or more and the cut is still uncertain, every vector is scored)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from ..indexes.passage_store import PassageStore
from ..ranking import SCALE, Ranking
from .encoders import Encoder, Vectors
from .manifest import DenseManifest

_SCAN = 8192
"""Vectors scored per step when all vectors are scored."""
_SPARE = 16
"""Extra passages requested from faiss, so that near ties at the cut are decided by exact scores."""
_MATRIX_FROM = 20
"""Number of queries from which an exact search uses matrix products; the default of faiss for many years."""
_DEEPEST = 2048
"""Once faiss was asked for this many passages and the cut is still a near tie, every vector is scored."""


def embed_queries(manifest: DenseManifest, encoder: Encoder, queries: list[str]) -> Vectors:
    """Embed queries with the prefix and scaling of the index, shape (queries, dimension)."""
    return scaled(encoder.encode_queries([manifest.query_prefix + query for query in queries]), manifest.normalize)


def scaled(vectors: Vectors, normalize: bool) -> Vectors:
    """Divide each vector by its length if `normalize`; zero vectors are not changed."""
    if not normalize:
        return vectors
    # Unlike with BLAS, the sum of a row does not depend on the number of rows.
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


class DenseIndex:
    """An index opened for searching; `source.py` opens one.

    Args:
        manifest: what the index is.
        vectors: the index in faiss.
        passages: the passage of each vector.
        ef_search: number of candidates that an HNSW search keeps; raised to the number of passages requested.
        nprobe: number of lists that an IVF search reads; None means an eighth of all lists, at least 16.
    """

    def __init__(
        self,
        manifest: DenseManifest,
        vectors: Any,  # Any: faiss has no types
        passages: PassageStore,
        *,
        ef_search: int = 128,
        nprobe: int | None = None,
    ) -> None:
        self.manifest, self.vectors, self.passages = manifest, vectors, passages
        self._faiss = require("faiss")
        # Number of queries from which faiss uses matrix products in an exact search. Recent releases set it so high
        # that a batch of 64 queries is processed one by one, which measured five times slower. The setting applies to
        # the whole process and changes only the speed.
        limits = self._faiss.cvar
        limits.distance_compute_blas_threshold = min(limits.distance_compute_blas_threshold, _MATRIX_FROM)
        self._ef_search = ef_search
        self._nprobe = nprobe

    def __len__(self) -> int:
        return self.manifest.passages

    def rank(self, queries: Vectors, depth: int) -> list[Ranking]:
        """The `depth` best passages for each query, best first; all passages if there are fewer.

        Args:
            queries: vectors from `embed_queries`, shape (queries, dimension).
            depth: number of passages, at least 1. An approximate index may find other passages at another depth.
        """
        depth = min(depth, len(self))
        count = min(depth + _SPARE, len(self))
        rankings = []
        for query, ids in zip(queries, self._propose(queries, count), strict=True):
            ranking, proposed = self._scored(query, ids), count
            while not self._settled(ranking, depth) and proposed < min(_DEEPEST, len(self)):
                proposed = min(proposed * 8, len(self))
                ranking = self._scored(query, self._propose(query[None], proposed)[0])
            if not self._settled(ranking, depth):
                ranking = self.rank_all(query, depth)
            rankings.append(Ranking(ranking.ids[:depth], ranking.scores[:depth]))
        return rankings

    def rank_all(self, query: Vectors, depth: int) -> Ranking:
        """The exact `depth` best passages for one query vector, shape (dimension,); scores every vector."""
        size = len(self)
        scores = np.empty(size, dtype=np.int64)
        for start in range(0, size, _SCAN):
            count = min(_SCAN, size - start)
            scores[start : start + count] = _scores(self.vectors.reconstruct_n(start, count), query)
        if depth < size:
            least = np.partition(scores, size - depth)[size - depth]
            ids = np.flatnonzero(scores >= least)
        else:
            ids = np.arange(size)
        best = ids[np.argsort(-scores[ids], kind="stable")][:depth]
        return Ranking(best.astype(np.int64), scores[best])

    def _propose(self, queries: Vectors, count: int) -> NDArray[np.int64]:
        """Positions of passages found by faiss, shape (queries, count); padded with -1."""
        faiss, index, kind = self._faiss, self.vectors, self.manifest.kind
        if kind == "hnsw":
            options = faiss.SearchParametersHNSW(efSearch=max(self._ef_search, count))
            return np.asarray(index.search(queries, count, params=options)[1])
        if kind == "ivf":
            nprobe = min(self._nprobe or max(16, index.nlist // 8), index.nlist)
            # Search one by one: faiss rounds the distances to the list centres differently for several queries.
            options = faiss.SearchParametersIVF(nprobe=nprobe)
            found = [index.search(query[None], count, params=options)[1][0] for query in queries]
            return np.asarray(found).reshape(len(queries), count)
        return np.asarray(index.search(queries, count)[1])

    def _scored(self, query: Vectors, ids: NDArray[np.int64]) -> Ranking:
        ids = np.sort(ids[ids >= 0])
        scores = _scores(self.vectors.reconstruct_batch(ids), query) if len(ids) else np.zeros(0, np.int64)
        best = np.argsort(-scores, kind="stable")
        return Ranking(ids[best], scores[best])

    def _settled(self, ranking: Ranking, depth: int) -> bool:
        """Whether the first `depth` ranks are final.

        There must be enough candidates. For an exact index, no passage outside the candidates may be able to enter:
        the score at rank `depth` must exceed the lowest candidate's score by more than the rounding error of faiss.
        """
        if self.manifest.kind != "flat" or len(ranking.ids) == len(self):
            return len(ranking.ids) >= depth
        cut = int(ranking.scores[-1])
        margin = 2 + (abs(cut) >> 18)  # FAISS sums in single precision.
        return int(ranking.scores[depth - 1]) > cut + margin


def _scores(vectors: Vectors, query: Vectors) -> NDArray[np.int64]:
    """Inner products in units of 1 / SCALE, shape (vectors,); each depends on its own vector and the query alone."""
    products = vectors.astype(np.float64) * query.astype(np.float64)
    scores: NDArray[np.int64] = np.rint(products.sum(axis=1) * SCALE).astype(np.int64)
    return scores
