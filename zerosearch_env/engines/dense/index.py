"""An opened dense index: candidates from faiss, exact scores and ranks on top of them.

faiss proposes passages, and their scores are computed again here: its own sums are rounded differently for different
numbers of queries. Scores are fixed-point integers in units of `bm25.SCALE`, ties are broken by the passage's position:
a ranking depends on the query's vector alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, require
from ..ranking import SCALE, Ranking
from .encoders import Encoder, Vectors, fingerprint, probe, same_probe
from .manifest import FAISS_FILE, Manifest, read_manifest
from .passage_store import PassageStore

_SCAN = 8192
"""Vectors that are scored at once when all of them are."""
_SPARE = 16
"""Passages that faiss is asked for beyond those wanted, so that near ties at the cut are decided by exact scores."""
_MATRIX_FROM = 20
"""Queries from which an exact search multiplies matrices; faiss's own value for many years."""
_DEEPEST = 2048
"""Passages that faiss is asked for at most: where even they end in a tie, every vector is scored."""


def check_encoder(manifest: Manifest, encoder: Encoder, folder: Path) -> None:
    """Check that an encoder is the one an index was built with, by what it makes of the probe sentences.

    Raises:
        ConfigError: it is another one; both are named.
    """
    numbers = probe(encoder)
    if same_probe(numbers, np.asarray(manifest.probes, dtype=np.float64)):
        return
    changed = " (the same place: its files have changed since)" if encoder.name == manifest.encoder else ""
    raise ConfigError(
        f"the index {folder} was built with the encoder {manifest.encoder!r} (fingerprint "
        f"{manifest.encoder_fingerprint}), and {encoder.name!r} (fingerprint {fingerprint(numbers)}) is another "
        f"one{changed}. Give the option encoder= the right one, or build the index again with this one."
    )


def embed_queries(manifest: Manifest, encoder: Encoder, queries: list[str]) -> Vectors:
    """Vectors of queries as the index compares them, shape (queries, dimension)."""
    return scaled(encoder.encode_queries([manifest.query_prefix + query for query in queries]), manifest.normalize)


def scaled(vectors: Vectors, normalize: bool) -> Vectors:
    """The vectors, each divided by its length where `normalize`; a zero vector stays."""
    if not normalize:
        return vectors
    # one row's sum does not depend on the number of rows, unlike BLAS
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


class DenseIndex:
    """An index opened for searching.

    Args:
        folder: where `build_index` wrote it.
        ef_search: candidates that an HNSW search keeps; at least as many as are asked for.
        nprobe: lists that an IVF search reads; None: an eighth of all, at least 16.

    Raises:
        DataError: there is no index, or a damaged one.
        MissingExtraError: faiss is not installed.
    """

    def __init__(self, folder: Path, *, ef_search: int = 128, nprobe: int | None = None) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.passages = PassageStore(folder)
        self._faiss = require("faiss", "dense")
        try:
            # mapped: processes share the pages, and a large index opens at once
            self._index = self._faiss.read_index(str(folder / FAISS_FILE), self._faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as cause:  # a damaged size asks for more memory than there is
            reason = str(cause).rpartition("Error: ")[2]
            raise DataError(f"{folder / FAISS_FILE} cannot be read: {reason}. Build the index again.") from cause
        found = (self._index.ntotal, self._index.d, len(self.passages))
        if found != (self.manifest.passages, self.manifest.dimension, self.manifest.passages):
            raise DataError(
                f"{folder}: index.json promises {self.manifest.passages} passages with vectors of "
                f"{self.manifest.dimension} numbers; found {found[0]} vectors of {found[1]} numbers and {found[2]} "
                "passages. Build the index again."
            )
        # From how many queries faiss multiplies matrices in an exact search: recent releases set it so high that the
        # queries of a batch of 64 are compared one by one, which measured five times slower. It holds for the whole
        # process and changes nothing but speed.
        limits = self._faiss.cvar
        limits.distance_compute_blas_threshold = min(limits.distance_compute_blas_threshold, _MATRIX_FROM)
        self._ef_search = ef_search
        self._nprobe = nprobe

    def __len__(self) -> int:
        return self.manifest.passages

    def rank(self, queries: Vectors, depth: int) -> list[Ranking]:
        """The `depth` best passages for each query (all where there are fewer), best first.

        Args:
            queries: as `embed_queries` makes them, shape (queries, dimension).
            depth: how many passages, at least 1. An approximate index may find others at another depth.
        """
        depth = min(depth, len(self))
        wanted = min(depth + _SPARE, len(self))
        rankings = []
        for query, ids in zip(queries, self._propose(queries, wanted), strict=True):
            ranking, asked = self._scored(query, ids), wanted
            while not self._settled(ranking, depth) and asked < min(_DEEPEST, len(self)):
                asked = min(asked * 8, len(self))
                ranking = self._scored(query, self._propose(query[None], asked)[0])
            if not self._settled(ranking, depth):
                ranking = self.rank_all(query, depth)
            rankings.append(Ranking(ranking.ids[:depth], ranking.scores[:depth]))
        return rankings

    def rank_all(self, query: Vectors, depth: int) -> Ranking:
        """The exact `depth` best passages for one query, shape (dimension,): every vector is scored."""
        size = len(self)
        scores = np.empty(size, dtype=np.int64)
        for start in range(0, size, _SCAN):
            count = min(_SCAN, size - start)
            scores[start : start + count] = _scores(self._index.reconstruct_n(start, count), query)
        if depth < size:
            least = np.partition(scores, size - depth)[size - depth]
            ids = np.flatnonzero(scores >= least)
        else:
            ids = np.arange(size)
        best = ids[np.argsort(-scores[ids], kind="stable")][:depth]
        return Ranking(best.astype(np.int64), scores[best])

    def _propose(self, queries: Vectors, count: int) -> NDArray[np.int64]:
        """Positions that faiss finds, shape (queries, count), -1 where it finds too few."""
        faiss, index, kind = self._faiss, self._index, self.manifest.kind
        if kind == "hnsw":
            options = faiss.SearchParametersHNSW(efSearch=max(self._ef_search, count))
            return np.asarray(index.search(queries, count, params=options)[1])
        if kind == "ivf":
            nprobe = min(self._nprobe or max(16, index.nlist // 8), index.nlist)
            # one by one: faiss rounds the distances to the lists' centres differently for many queries at once
            options = faiss.SearchParametersIVF(nprobe=nprobe)
            found = [index.search(query[None], count, params=options)[1][0] for query in queries]
            return np.asarray(found).reshape(len(queries), count)
        return np.asarray(index.search(queries, count)[1])

    def _scored(self, query: Vectors, ids: NDArray[np.int64]) -> Ranking:
        ids = np.sort(ids[ids >= 0])
        scores = _scores(self._index.reconstruct_batch(ids), query) if len(ids) else np.zeros(0, np.int64)
        best = np.argsort(-scores, kind="stable")
        return Ranking(ids[best], scores[best])

    def _settled(self, ranking: Ranking, depth: int) -> bool:
        """Whether there are enough, and none that an exact search left out can belong to the first `depth`."""
        if self.manifest.kind != "flat" or len(ranking.ids) == len(self):
            return len(ranking.ids) >= depth
        cut = int(ranking.scores[-1])
        margin = 2 + (abs(cut) >> 18)  # faiss sums in single precision
        return int(ranking.scores[depth - 1]) > cut + margin


def _scores(vectors: Vectors, query: Vectors) -> NDArray[np.int64]:
    """Inner products in units of 1 / SCALE, shape (vectors,); the same for a vector in any company."""
    products = vectors.astype(np.float64) * query.astype(np.float64)
    scores: NDArray[np.int64] = np.rint(products.sum(axis=1) * SCALE).astype(np.int64)
    return scores
