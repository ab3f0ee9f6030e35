"""`CorpusEngine`: the embedded search engine. It searches passages with BM25 and uses hard negatives as noise.

It works offline and without a model. It is deterministic: a result depends on the passages and the request, never on
the rest of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from ...bounded_cache import BoundedCache
from ...checks import check_whole_number
from ...datasets import Columns, OnBadRow
from ...errors import ConfigError
from ...types import Dataset, Document, SearchRequest, SearchResult
from ..base import BatchedEngine, check_mask, check_size, results_of
from ..noise import check_drawn, mix_slots, sample_negatives, seeded_orders, unrelated
from ..ranking import SCALE, Ranking
from .build import K1, B
from .paragraphs import ParagraphSearch
from .passages import PassageIndex, dataset_index, file_index

_FIXED_COST = 50_000
"""What a search costs in any corpus, in passages: one in 50,000 passages takes twice as long as one in very few."""
_QUICK = 1_000_000
"""Searches times passages, with the fixed cost, up to which a call is quick: about 5 ms."""


class CorpusEngine(BatchedEngine):
    """BM25 search over passages.

    - Useful documents are the `top_k` best matches of the query. If there are fewer matches (or the query has no known
      word), the result is filled up with unrelated passages, drawn by the request's seed, with score 0.
    - Noisy documents are drawn by the request's seed from the `pool` ranks below `top_k`. They are on topic, are not
      among the useful documents, have no gold answer in title or text, and are sorted by score. If the pool holds too
      few, they come from lower ranks, and finally from unrelated passages. The result is shorter than `top_k` only if
      the whole corpus has too few passages without an answer; if it has none, the search fails.
    - With one noise flag per document, slot j holds the j-th useful or the j-th noisy document.
    - If a request comes with the paragraphs of its question, these are searched instead. Useful documents are the
      supporting paragraphs, then the best distractors. Noisy documents are distractors without a gold answer; if there
      are too few, the rest comes from the passages.

    Args:
        passages: the passages to search, or an index shared with other engines. Indexed at the first search.
        pool: number of ranks below `top_k` from which noisy documents are drawn; at least 1.
        paragraphs: whether to search a request's own paragraphs instead of the passages.
        k1: BM25's saturation of repeated words, at least 0.
        b: BM25's penalty on long passages, in [0, 1].

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        passages: Sequence[Document] | PassageIndex,
        *,
        pool: int = 40,
        paragraphs: bool = True,
        k1: float = K1,
        b: float = B,
    ) -> None:
        super().__init__()
        self._index = passages if isinstance(passages, PassageIndex) else PassageIndex(passages, k1=k1, b=b)
        if not len(self._index) and not paragraphs:
            raise ConfigError("there are no passages to search: the corpus is empty")
        self._pool = check_whole_number("pool", pool)
        self._cached: BoundedCache[tuple[str, int], tuple[Document, ...]] = BoundedCache(self._index.cached_queries)
        self._paragraphs = ParagraphSearch() if paragraphs else None

    @property
    def passages(self) -> Sequence[Document]:
        """The passages that are searched."""
        return self._index.passages

    def check_top_k(self, top_k: int, *, noise: bool = False) -> None:
        """Check that the corpus is large enough; see `EngineParts`."""
        check_size(len(self._index), top_k, noise=noise)

    def is_quick(self, requests: Sequence[SearchRequest]) -> bool:
        """Whether the requests are few and the corpus is small; see `EngineParts`."""
        if type(self).search is not CorpusEngine.search or not self._index.is_built:
            return False
        if self._paragraphs is not None and any(request.paragraphs for request in requests):
            return False  # their index may have to be built
        return len(requests) * (_FIXED_COST + len(self._index)) <= _QUICK

    def identity(self) -> Mapping[str, str]:
        """The passages by content; see `EngineParts`."""
        return self._index.identity()

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order.

        `latency_s` is the time of the whole batch, in seconds.

        Raises:
            EngineError: the engine is closed.
            ConfigError: the corpus is too small for a request's `top_k`, or the length of a noise mask is not `top_k`.
        """
        self._check_open()
        began = time.perf_counter()
        depths: list[int] = []
        from_corpus: list[SearchRequest] = []
        for request in requests:
            check_mask(request)
            if self._paragraphs is None or not request.paragraphs:
                noise = request.noisy if isinstance(request.noisy, bool) else any(request.noisy)
                self.check_top_k(request.top_k, noise=noise)
                from_corpus.append(request)
                depths.append(request.top_k + self._pool * noise)
        rankings = iter(self._index.rank([request.query for request in from_corpus], depths))
        seeds = [request.seed for request in requests if request.noisy]
        orders = iter(seeded_orders(seeds, self._pool) if seeds else ())

        def find(request: SearchRequest) -> tuple[Document, ...]:
            order = next(orders) if request.noisy else ()
            if self._paragraphs is None or not request.paragraphs:
                return self._from_passages(request, next(rankings), order)
            return self._from_paragraphs(self._paragraphs, request)

        return results_of("corpus", requests, find, began=began)

    def _from_passages(self, request: SearchRequest, ranking: Ranking, order: Sequence[int]) -> tuple[Document, ...]:
        noisy = request.noisy
        if noisy is True:
            return self._negatives(request, ranking, order)
        useful = self._useful(request, ranking)
        if not noisy or not any(noisy):
            return useful
        return mix_slots(noisy, useful, self._negatives(request, ranking, order))

    def _useful(self, request: SearchRequest, ranking: Ranking) -> tuple[Document, ...]:
        top_k = request.top_k
        documents = self._cached.get((request.query, top_k))
        if documents is None:
            best = zip(ranking.ids[:top_k].tolist(), ranking.scores[:top_k].tolist(), strict=True)
            documents = self._documents(best)
            self._cached.put((request.query, top_k), documents)
        if len(documents) < top_k:
            fill = unrelated(len(self._index), request.seed, ranking.ids, top_k - len(documents))
            documents += self._documents((position, 0) for position in fill)
        return documents

    def _negatives(self, request: SearchRequest, ranking: Ranking, order: Sequence[int]) -> tuple[Document, ...]:
        # Passages that fill up a short ranking count as useful, so they must not be drawn as noise.
        top_k, matched = request.top_k, len(ranking.ids)
        excluded = unrelated(len(self._index), request.seed, ranking.ids, top_k - matched) if matched < top_k else ()
        drawn = sample_negatives(
            self._index, request, ranking, order, skip=min(top_k, matched), count=top_k, excluded=excluded
        )
        check_drawn(drawn, request)
        return self._documents(drawn)

    def _from_paragraphs(self, search: ParagraphSearch, request: SearchRequest) -> tuple[Document, ...]:
        mask = request.noise_mask
        useful, noisy = search.search(request)
        if (few := sum(mask) - len(noisy)) and len(self._index):
            noisy += self._around(request, few)
        if any(mask):
            check_drawn(noisy, request)
        kinds = iter(useful), iter(noisy)
        slots = [next(kinds[noise], None) for noise in mask]
        return tuple(document for document in slots if document is not None)

    def _around(self, request: SearchRequest, count: int) -> tuple[Document, ...]:
        """Draw passages without a gold answer, for a question that has too few distractors."""
        ranking = self._index.rank([request.query], [request.top_k + self._pool])[0]
        titles = {paragraph.title for paragraph in request.paragraphs or ()}
        order = seeded_orders([request.seed], self._pool)[0]
        skip = min(request.top_k, len(ranking.ids))
        return self._documents(
            sample_negatives(self._index, request, ranking, order, skip=skip, count=count, titles=titles)
        )

    def _documents(self, scored: Iterable[tuple[int, int]]) -> tuple[Document, ...]:
        passages = self._index.passages
        documents = []
        for position, score in scored:
            passage = passages[position]
            documents.append(Document(passage.title, passage.text, passage.source, score / SCALE))
        return tuple(documents)


def corpus_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    path: str | None = None,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
    pool: int = 40,
    paragraphs: bool | None = None,
    k1: float | None = None,
    b: float | None = None,
) -> CorpusEngine:
    """Build the engine for `"corpus"` or `"corpus:FILE"`. Engines over the same dataset or file share an index.

    Args:
        argument: a corpus file, an index folder, or "" for the dataset's passages. If the dataset has no passages, the
            paragraphs of its questions are used.
        dataset: the dataset of the environment.
        path: a corpus file or index folder; a named alternative to `argument`.
        on_bad_row: `"raise"` an error for a bad row of the file, or `"skip"` such rows and log their number.
        columns: `id`, `title` or `text` -> the column of the file that holds it.
        pool: as in `CorpusEngine`.
        paragraphs: as in `CorpusEngine`; by default True without a file, False with a file.
        k1: as in `CorpusEngine`; None: that of the index folder, or the default.
        b: as in `CorpusEngine`; None: that of the index folder, or the default.

    Raises:
        ConfigError: there is nothing to search, or an option is invalid.
        DataError: the file is missing or broken.
    """
    if argument and path:
        raise ConfigError(f"the corpus file was given twice: {argument!r} and path={path!r}")
    file = argument or path
    if file:
        index = file_index(file, k1=k1, b=b, on_bad_row=on_bad_row, columns=columns)
    elif (on_bad_row, columns) != ("raise", None):
        raise ConfigError('on_bad_row and columns describe a corpus file, and none was given: use "corpus:FILE"')
    elif dataset is not None:
        index = dataset_index(dataset, k1=K1 if k1 is None else k1, b=B if b is None else b)
    else:
        raise ConfigError('the engine "corpus" needs a dataset with passages, or a file: "corpus:FILE"')
    return CorpusEngine(index, pool=pool, paragraphs=not file if paragraphs is None else paragraphs)
