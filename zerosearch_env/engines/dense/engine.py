"""`DenseEngine`: search by embedding similarity, with hard negatives as noise.

The index is built by `zerosearch index build dense`. faiss and sentence-transformers (extra `dense`) are imported when
an engine is built.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...bounded_cache import BoundedCache
from ...checks import check_whole_number
from ...errors import ConfigError
from ...llm.backend import model_identity
from ...types import Dataset, Document, SearchRequest, SearchResult, full_text
from ..base import BatchedEngine, check_mask, check_size, results_of
from ..corpus.passages import CACHED_QUERIES
from ..noise import check_drawn, mix_slots, sample_negatives, seeded_orders
from ..ranking import SCALE, Ranking
from ..registry import forwards
from .encoders import Encoder, Reranker
from .index import embed_queries
from .parts import Parts, RankedToTheEnd, open_parts
from .source import find_source


class DenseEngine(BatchedEngine):
    """Search in a dense index.

    - Useful documents are the `top_k` passages nearest to the query. With a reranker, they are the `top_k` passages
      with the best reranker scores among the `rerank_from` nearest.
    - Noisy documents are drawn by the request's seed from the `pool` ranks below `top_k`, as in `CorpusEngine`. They
      are not among the useful documents and have no gold answer in title or text. If the pool holds too few, they come
      from lower ranks.
    - With one noise flag per document, slot j holds the j-th useful or the j-th noisy document.

    `Document.score` is the cosine or the inner product. With a reranker it is the reranker's score, or None for a
    passage below rank `rerank_from`, which the reranker did not score.

    Args:
        index: the folder of the index; or Search-R1's `e5_Flat.index`, or a folder that holds it and its corpus.
        corpus: Search-R1's corpus, if `index` is its index file: JSON lines with `id` and `contents`, unpacked.
        encoder: an encoder, its path or its name; None loads the one named in the index (E5 for that of Search-R1). It
            must be the encoder that the index was built with.
        reranker: a reranker, or the path or name of a cross-encoder; None means no reranking.
        rerank_from: number of top ranks that are reranked, at least `top_k`.
        pool: number of ranks below `top_k` from which noisy documents are drawn; at least 1.
        device: device of encoder and reranker, `"cpu"`, `"cuda"`, ...; None lets sentence-transformers choose.
        ef_search: as in `DenseIndex`.
        nprobe: as in `DenseIndex`.
        cached_queries: number of queries for which the ranking is cached; 0 turns the cache off.

    Raises:
        ConfigError: an option is invalid, the encoder is not the one that the index was built with, or Search-R1's two
            files do not belong together.
        DataError: the index is missing or damaged.
        MissingExtraError: faiss or sentence-transformers is not installed.
    """

    def __init__(
        self,
        index: str | Path,
        *,
        corpus: str | Path | None = None,
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
            check_whole_number(name, value)
        self._source = find_source(index, corpus)
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
        """The passages that are searched; each is read from disk on access."""
        return self._open().index.passages

    def check_top_k(self, top_k: int, *, noise: bool = False) -> None:
        """Check that the index is large enough, and that `rerank_from` is at least `top_k`; see `EngineParts`."""
        check_size(len(self._open().index), top_k, noise=noise)
        if self._reranker is not None and self._rerank_from < top_k:
            raise ConfigError(f"rerank_from={self._rerank_from} must be at least top_k={top_k}")

    def identity(self) -> Mapping[str, str]:
        """The index by its content, and models by name; see `EngineParts`."""
        models = [part for part in (self._encoder, self._reranker) if isinstance(part, str)]
        named = {f"the model {model}": model_identity(model) for model in models}
        return self._source.identity(self._open().index) | named

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order.

        `latency_s` is the time of the whole batch, in seconds.

        Raises:
            EngineError: the engine is closed, or the encoder or reranker failed.
            ConfigError: the index is too small for a request's `top_k`, or the length of a noise mask is not `top_k`.
        """
        self._check_open()
        began = time.perf_counter()
        for request in requests:
            check_mask(request)
            self.check_top_k(request.top_k, noise=any(request.noise_mask))
        rankings = iter(self._rank(requests))
        seeds = [request.seed for request in requests if request.noisy]
        orders = iter(seeded_orders(seeds, self._pool) if seeds else ())

        def find(request: SearchRequest) -> tuple[Document, ...]:
            return self._documents(request, next(rankings), next(orders) if request.noisy else ())

        return results_of("dense", requests, find, began=began)

    def close(self) -> None:
        """Release the index and the models. Calling it twice is fine; searching afterwards raises EngineError."""
        super().close()
        self._parts = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out index and models: a copy loads them again at its first search."""
        return {**super().__getstate__(), "_parts": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the locks."""
        super().__setstate__(state)
        self._opening = threading.Lock()

    def _open(self) -> Parts:
        """Index, encoder and reranker, loaded once."""
        with self._opening:
            if self._parts is None:
                self._check_open()
                self._parts = open_parts(self._source, self._encoder, self._reranker, self._device, self._tuning)
            return self._parts

    def _rank(self, requests: Sequence[SearchRequest]) -> list[Ranking]:
        """One ranking per request, `top_k + pool` deep; a query is ranked once per depth.

        The depth is the same with and without noise, since an approximate index may find other passages at another
        depth.
        """
        parts = self._open()
        keys = [(request.query, request.top_k + self._pool) for request in requests]
        ranking_of = {key: ranking for key in dict.fromkeys(keys) if (ranking := self._rankings.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in ranking_of]
        by_depth: dict[int, list[str]] = {}
        for query, depth in missing:
            by_depth.setdefault(depth, []).append(query)
        for depth, queries in by_depth.items():
            vectors = embed_queries(parts.index.manifest, parts.encoder, queries)
            deepest = depth if parts.reranker is None else max(depth, self._rerank_from)
            rankings = parts.index.rank(vectors, deepest)
            for query, ranking in zip(queries, self._reranked(parts, queries, rankings), strict=True):
                ranking_of[query, depth] = ranking
                self._rankings.put((query, depth), ranking)
        return [ranking_of[key] for key in keys]

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
            new_scores = np.asarray([next(scores) for _ in head], dtype=np.int64)
            best = np.argsort(-new_scores, kind="stable")
            ids = np.concatenate([np.asarray(head, dtype=np.int64)[best], ranking.ids[len(head) :]])
            results.append(Ranking(ids, np.concatenate([new_scores[best], ranking.scores[len(head) :]])))
        return results

    def _documents(self, request: SearchRequest, ranking: Ranking, order: Sequence[int]) -> tuple[Document, ...]:
        parts, top_k = self._open(), request.top_k
        useful = list(zip(ranking.ids[:top_k].tolist(), ranking.scores[:top_k].tolist(), strict=True))
        if not request.noisy or not any(request.noise_mask):
            chosen = tuple(useful)
        else:
            ranked = RankedToTheEnd(parts, ranking)
            noisy = sample_negatives(ranked, request, ranking, order, skip=top_k, count=top_k)
            check_drawn(noisy, request)
            chosen = mix_slots(request.noise_mask, useful, noisy)
        seen = None if parts.reranker is None else set(ranking.ids[: self._rerank_from].tolist())
        documents = []
        for position, score in chosen:
            passage = parts.index.passages[position]
            shown = score / SCALE if seen is None or position in seen else None
            documents.append(Document(passage.title, passage.text, passage.source, shown))
        return tuple(documents)


# Any: the signature that `forwards` sets gives each option its type
@forwards(DenseEngine)
def dense_engine(argument: str, dataset: Dataset | None, *, index: str | None = None, **options: Any) -> DenseEngine:
    """Build the engine for `"dense:INDEX"`. Engines over the same index share the index and the models.

    Args:
        argument: as `index` of `DenseEngine`.
        dataset: not used; the index holds its own passages.
        index: a named alternative to `argument`.
        **options: the options of `DenseEngine`.

    Raises:
        ConfigError: no index is given, or an option is invalid.
        DataError: the index is missing or damaged.
    """
    if argument and index:
        raise ConfigError(f"the index was given twice: {argument!r} and index={index!r}")
    place = argument or index
    if not place:
        raise ConfigError(
            'the engine "dense" needs an index: "dense:FOLDER". `zerosearch index build dense --corpus FILE '
            "--encoder MODEL --output FOLDER` makes one."
        )
    return DenseEngine(place, **options)
