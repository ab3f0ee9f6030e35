"""Passages with a search index. The index is built at first use and shared by all engines of a process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...bounded_cache import BoundedCache
from ...checks import check_number
from ...datasets import Columns, OnBadRow, corpus_files, load_corpus
from ...errors import ConfigError
from ...identity import documents_hash, file_hashes
from ...types import Dataset, Document, full_text
from ..ranking import Ranking
from .bm25 import Bm25Index, build_index

CACHED_QUERIES = 8192
"""Number of rankings that an index caches: searches repeat in a group of episodes with the same question."""


class PassageIndex:
    """Passages, their BM25 index, and the rankings of the latest queries.

    Args:
        passages: the passages to search; title and text have the same weight.
        k1: saturation of repeated words.
        b: penalty on long passages, in [0, 1].
        cached_queries: number of queries for which the ranking is cached; 0 turns the cache off.
        files: the files that the passages come from, if they come from files.

    Raises:
        ConfigError: `k1` is negative, or `b` is not in [0, 1].
    """

    def __init__(
        self,
        passages: Sequence[Document],
        *,
        k1: float = 1.5,
        b: float = 0.75,
        cached_queries: int = CACHED_QUERIES,
        files: Sequence[Path] = (),
    ) -> None:
        self.passages = passages
        self._files = tuple(files)
        self.cached_queries = cached_queries
        self._k1, self._b = check_number("k1", k1, least=0), check_number("b", b, least=0, most=1)
        self._index: Bm25Index | None = None
        self._lock = threading.Lock()
        self._rankings: BoundedCache[str, tuple[int, Ranking]] = BoundedCache(cached_queries)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock; the index is copied if it has been built."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the lock."""
        self.__dict__ |= state
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.passages)

    def identity(self) -> dict[str, str]:
        """Names and hashes of the files of the passages, or of the passages themselves."""
        if self._files:
            hashes = zip(self._files, file_hashes(self._files), strict=True)
            return {f"the corpus file {file.name}": value for file, value in hashes}
        return {"the corpus of passages": documents_hash(self.passages)}

    @property
    def bm25(self) -> Bm25Index:
        """The index; built once, at first use."""
        with self._lock:
            if self._index is None:
                texts = [full_text(passage) for passage in self.passages]
                self._index = build_index(texts, k1=self._k1, b=self._b)
            return self._index

    def rank(self, queries: Sequence[str], depths: Sequence[int]) -> list[Ranking]:
        """At least the `depths[i]` best passages for `queries[i]`, best first; each query is ranked once.

        A ranking may be deeper than requested; its first ranks do not depend on the depth.
        """
        depth_of: dict[str, int] = {}
        for query, depth in zip(queries, depths, strict=True):
            if depth_of.get(query, 0) < depth:
                depth_of[query] = depth
        rankings: dict[str, Ranking] = {}
        missing: dict[int, list[str]] = {}
        for query, depth in depth_of.items():
            known = self._rankings.get(query)
            if known is not None and known[0] >= depth:
                rankings[query] = known[1]
            else:
                missing.setdefault(depth, []).append(query)
        for depth, texts in missing.items():
            for query, ranking in zip(texts, self.bm25.rank(texts, depth), strict=True):
                rankings[query] = ranking
                self._rankings.put(query, (depth, ranking))
        return [rankings[query] for query in queries]

    def rank_all(self, query: str) -> Ranking:
        """All passages that share a word with the query, best first; not cached."""
        return self.bm25.rank([query], len(self.passages))[0]


_OF_FILES: dict[tuple[object, ...], PassageIndex] = {}
_SHARED_LOCK = threading.Lock()


def dataset_index(dataset: Dataset, *, k1: float, b: float) -> PassageIndex:
    """The index over a dataset's passages; without passages, over all distinct paragraphs of its questions.

    All engines of this process share one index, as long as the dataset object exists.

    Raises:
        ConfigError: the dataset has neither passages nor paragraphs.
    """
    key = (PassageIndex, k1, b)
    with _SHARED_LOCK:
        if key not in dataset.derived:
            dataset.derived[key] = PassageIndex(dataset.passages or _paragraphs_of(dataset), k1=k1, b=b)
        index: PassageIndex = dataset.derived[key]
        return index


def file_index(
    path: str, *, k1: float, b: float, on_bad_row: OnBadRow = "raise", columns: Columns | None = None
) -> PassageIndex:
    """The index over a corpus file. All engines of this process share one index, until the file changes.

    Args:
        path: the file, or a folder of shards; as in `load_corpus`.
        k1: as in `PassageIndex`.
        b: as in `PassageIndex`.
        on_bad_row: as in `load_corpus`.
        columns: as in `load_corpus`.

    Raises:
        ConfigError: an option is invalid.
        DataError: the file is missing or broken.
    """
    files = corpus_files(Path(path).expanduser().resolve())
    state = tuple((stat.st_mtime_ns, stat.st_size) for stat in map(Path.stat, files))
    key = (tuple(map(str, files)), state, on_bad_row, repr(columns), k1, b)
    with _SHARED_LOCK:
        index = _OF_FILES.get(key)
        if index is None:
            for old in [other for other in _OF_FILES if other[0] == key[0] and other[1] != state]:
                del _OF_FILES[old]
            passages = load_corpus(path, on_bad_row=on_bad_row, columns=columns)
            index = _OF_FILES[key] = PassageIndex(passages, k1=k1, b=b, files=files)
        return index


def _paragraphs_of(dataset: Dataset) -> Sequence[Document]:
    unique = dict.fromkeys((p.title, p.text) for question in dataset.questions for p in question.paragraphs or ())
    if not unique:
        raise ConfigError(
            f"the dataset {dataset.name!r} has no passages to search: give a corpus file with "
            'search_engine="corpus:FILE" (jsonl or parquet with `id` and `contents`, or with `title` and `text`)'
        )
    return [Document(title, text, f"paragraph-{number}") for number, (title, text) in enumerate(unique)]
