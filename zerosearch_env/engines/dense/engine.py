"""`DenseEngine`: passages near the query in the space of a sentence encoder, with hard negatives as noise.

The index is built by `zerosearch index build`. faiss and sentence-transformers (extra `dense`) load when an engine is
built.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...bounded_cache import BoundedCache
from ...errors import ConfigError
from ...types import Dataset, Document, SearchRequest, SearchResult, full_text
from ..base import BatchedEngine, check_mask, check_size
from ..corpus.passages import CACHED_QUERIES
from ..noise import mix_slots, sample_negatives, seeded_orders
from ..ranking import SCALE, Ranking
from .encoders import Encoder, Reranker
from .index import embed_queries
from .parts import Parts, RankedToTheEnd, open_parts


class DenseEngine(BatchedEngine):
    """Search in a dense index.

    - Useful documents are the `top_k` passages nearest to the query; with a reranker, the best of the `rerank_from`
      nearest by its scores.
    - Noisy documents are drawn by the request's seed from the `pool` ranks below `top_k`, as in `CorpusEngine`: none of
      the useful ones, none with a gold answer in title or text; more distant ranks where the pool holds too few.
    - With one noise flag a document, slot j holds the j-th useful or the j-th noisy document.

    `Document.score` is the cosine or inner product; with a reranker its score, and None for a passage below
    `rerank_from`, which the reranker has not seen.

    Args:
        folder: the index.
        encoder: an encoder, its path or its name; None takes the one named in the index. It must be the one that the
            index was built with.
        reranker: a reranker, or the path or name of a cross-encoder; None: none.
        rerank_from: ranks that are reranked, at least `top_k`.
        pool: ranks below `top_k` from which noisy documents are drawn; at least 1.
        device: where encoder and reranker run, `"cpu"`, `"cuda"`, ...; None lets sentence-transformers choose.
        ef_search: as in `DenseIndex`.
        nprobe: as in `DenseIndex`.
        cached_queries: queries whose rankings are kept; 0 keeps none.

    Raises:
        ConfigError: an option cannot be used, or the encoder is not the one that the index was built with.
        DataError: there is no index, or a damaged one.
        MissingExtraError: faiss or sentence-transformers is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        encoder: str | Encoder | None = None,
        reranker: str | Reranker | None = None,
        rerank_from: int = 50,
        pool: int = 40,
        device: str | None = None,
        ef_search: int = 128,
        nprobe: int | None = None,
        cached_queries: int = CACHED_QUERIES,
    ) -> None:
        super().__init__()
        counts = {"pool": pool, "rerank_from": rerank_from, "ef_search": ef_search, "nprobe": nprobe or 1}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
        self._folder = Path(folder).expanduser().resolve()
        self._encoder, self._reranker, self._device = encoder, reranker, device
        self._rerank_from = rerank_from
        self._pool = pool
        self._tuning = {"ef_search": ef_search, "nprobe": nprobe}
        self._parts: Parts | None = None
        self._opening = threading.Lock()
        self._rankings: BoundedCache[tuple[str, int], Ranking] = BoundedCache(cached_queries)
        self._open()

    @property
    def passages(self) -> Sequence[Document]:
        """What is searched; read from disk one by one."""
        return self._open().index.passages

    def check_top_k(self, top_k: int, *, noise: bool = False) -> None:
        """Check that the index is large enough before anything is searched.

        Args:
            top_k: documents of a result.
            noise: whether noisy results will be asked for; they take passages besides the useful ones.

        Raises:
            ConfigError: when it is not, or when fewer passages are reranked than a result has documents.
        """
        check_size(len(self._open().index), top_k, noise=noise)
        if self._reranker is not None and self._rerank_from < top_k:
            raise ConfigError(f"rerank_from={self._rerank_from} must be at least top_k={top_k}")

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order.

        `latency_s` is the time of the whole batch, in seconds.

        Raises:
            EngineError: the engine is closed, or the encoder or reranker failed.
            ConfigError: the index is too small for a request's `top_k`, or a noise mask has another length than it.
        """
        self._check_open()
        began = time.perf_counter()
        for request in requests:
            check_mask(request)
            self.check_top_k(request.top_k, noise=any(request.noise_mask))
        rankings = self._rank(requests)
        seeds = [request.seed for request in requests if request.noisy]
        orders = iter(seeded_orders(seeds, self._pool) if seeds else ())
        documents = [
            self._documents(request, ranking, next(orders) if request.noisy else ())
            for request, ranking in zip(requests, rankings, strict=True)
        ]
        elapsed = time.perf_counter() - began
        return [SearchResult(found, engine="dense", latency_s=elapsed) for found in documents]

    def close(self) -> None:
        """Release index and networks. Calling it twice is fine; searching afterwards raises EngineError."""
        super().close()
        self._parts = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what has been loaded: a copy loads it again at its first search."""
        return {**super().__getstate__(), "_parts": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy has locks of its own."""
        super().__setstate__(state)
        self._opening = threading.Lock()

    def _open(self) -> Parts:
        """Index, encoder and reranker, loaded once."""
        with self._opening:
            if self._parts is None:
                self._check_open()
                self._parts = open_parts(self._folder, self._encoder, self._reranker, self._device, self._tuning)
            return self._parts

    def _rank(self, requests: Sequence[SearchRequest]) -> list[Ranking]:
        """The ranks from which a request's documents come; a query is ranked once for each depth.

        The depth does not depend on the noise: an approximate index may find other passages at another depth.
        """
        parts = self._open()
        keys = [(request.query, request.top_k + self._pool) for request in requests]
        found = {key: ranking for key in dict.fromkeys(keys) if (ranking := self._rankings.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        by_depth: dict[int, list[str]] = {}
        for query, depth in missing:
            by_depth.setdefault(depth, []).append(query)
        for depth, queries in by_depth.items():
            vectors = embed_queries(parts.index.manifest, parts.encoder, queries)
            deepest = depth if parts.reranker is None else max(depth, self._rerank_from)
            rankings = parts.index.rank(vectors, deepest)
            for query, ranking in zip(queries, self._reranked(parts, queries, rankings), strict=True):
                found[query, depth] = ranking
                self._rankings.put((query, depth), ranking)
        return [found[key] for key in keys]

    def _reranked(self, parts: Parts, queries: Sequence[str], rankings: list[Ranking]) -> list[Ranking]:
        """The rankings with their first `rerank_from` ranks in the reranker's order."""
        if parts.reranker is None:
            return rankings
        heads = [ranking.ids[: self._rerank_from].tolist() for ranking in rankings]
        texts = parts.index.passages
        pairs = [
            (query, full_text(texts[position])) for query, head in zip(queries, heads, strict=True) for position in head
        ]
        scores = iter(np.rint(parts.reranker.score(pairs) * SCALE).astype(np.int64).tolist())
        results = []
        for ranking, head in zip(rankings, heads, strict=True):
            own = np.asarray([next(scores) for _ in head], dtype=np.int64)
            best = np.argsort(-own, kind="stable")
            ids = np.concatenate([np.asarray(head, dtype=np.int64)[best], ranking.ids[len(head) :]])
            results.append(Ranking(ids, np.concatenate([own[best], ranking.scores[len(head) :]])))
        return results

    def _documents(self, request: SearchRequest, ranking: Ranking, order: Sequence[int]) -> tuple[Document, ...]:
        parts, top_k = self._open(), request.top_k
        useful = list(zip(ranking.ids[:top_k].tolist(), ranking.scores[:top_k].tolist(), strict=True))
        if not request.noisy or not any(request.noise_mask):
            chosen = tuple(useful)
        else:
            ranked = RankedToTheEnd(parts, ranking)
            noisy = sample_negatives(ranked, request, ranking, order, skip=top_k, count=top_k)
            chosen = mix_slots(request.noise_mask, useful, noisy)
        seen = None if parts.reranker is None else set(ranking.ids[: self._rerank_from].tolist())
        documents = []
        for position, score in chosen:
            passage = parts.index.passages[position]
            shown = score / SCALE if seen is None or position in seen else None
            documents.append(Document(passage.title, passage.text, passage.source, shown))
        return tuple(documents)


def dense_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    index: str | None = None,
    encoder: str | None = None,
    reranker: str | None = None,
    rerank_from: int = 50,
    pool: int = 40,
    device: str | None = None,
    ef_search: int = 128,
    nprobe: int | None = None,
) -> DenseEngine:
    """The engine of `"dense:INDEX"`. Engines over the same index share what they load.

    Args:
        argument: the folder of the index.
        dataset: not used: the index has passages of its own.
        index: the folder, for those who prefer a named option over `argument`.
        encoder: as in `DenseEngine`.
        reranker: as in `DenseEngine`.
        rerank_from: as in `DenseEngine`.
        pool: as in `DenseEngine`.
        device: as in `DenseEngine`.
        ef_search: as in `DenseEngine`.
        nprobe: as in `DenseEngine`.

    Raises:
        ConfigError: no index is named, or an option cannot be used.
        DataError: there is no index, or a damaged one.
    """
    if argument and index:
        raise ConfigError(f"the index was given twice: {argument!r} and index={index!r}")
    folder = argument or index
    if not folder:
        raise ConfigError(
            'the engine "dense" needs an index: "dense:FOLDER". `zerosearch index build --corpus FILE --encoder MODEL '
            "--output FOLDER` makes one."
        )
    return DenseEngine(
        folder,
        encoder=encoder,
        reranker=reranker,
        rerank_from=rerank_from,
        pool=pool,
        device=device,
        ef_search=ef_search,
        nprobe=nprobe,
    )
