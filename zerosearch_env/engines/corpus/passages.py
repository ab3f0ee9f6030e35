"""Passages with a search index: in memory, opened from a folder, or built once and kept in the cache folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...bounded_cache import BoundedCache
from ...checks import check_number
from ...datasets import Columns, OnBadRow, corpus_files, load_corpus
from ...datasets.files.passages import iter_corpus
from ...errors import ConfigError, DataError
from ...identity import documents_hash, file_hash, file_hashes, package_version, text_hash
from ...types import Dataset, Document, full_text
from ..indexes.cache import cached_index, show_progress
from ..indexes.folder import MANIFEST_FILE, building_folder, read_manifest
from ..indexes.passage_store import PassageStore
from ..ranking import Ranking
from .bm25 import Bm25Index, open_postings
from .build import K1, B, Bm25Manifest, build_folder, build_index

CACHED_QUERIES = 8192
"""Number of rankings that an index caches: searches repeat in a group of episodes with the same question."""
_CACHED_PASSAGES = 20_000
"""From this number of passages on, their index is kept in the cache folder; a smaller one is built in two seconds."""
_CACHED_BYTES = 10_000_000
"""The same for corpus files, by their size."""


class PassageIndex:
    """Passages, their BM25 index, and the rankings of the latest queries.

    Args:
        passages: the passages to search; title and text have the same weight.
        k1: saturation of repeated words.
        b: penalty on long passages, in [0, 1].
        cached_queries: number of queries for which the ranking is cached; 0 turns the cache off.
        files: the files that the passages come from, if they come from files.
        index: the index of the passages, if it exists already; otherwise it is built at the first search.

    Raises:
        ConfigError: `k1` is negative, or `b` is not in [0, 1].
    """

    def __init__(
        self,
        passages: Sequence[Document],
        *,
        k1: float = K1,
        b: float = B,
        cached_queries: int = CACHED_QUERIES,
        files: Sequence[Path] = (),
        index: Bm25Index | None = None,
    ) -> None:
        self.passages = passages
        self._files = tuple(files)
        self.cached_queries = cached_queries
        self._k1, self._b = check_number("k1", k1, least=0), check_number("b", b, least=0, most=1)
        self._index = index
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
        """Names and hashes of the files of the passages or of the opened index, or of the passages themselves."""
        if [file.name for file in self._files] == [MANIFEST_FILE]:  # it holds the hashes of the other files
            return {f"the index {self._files[0].parent.name}": file_hash(self._files[0])}
        if self._files:
            hashes = zip(self._files, file_hashes(self._files), strict=True)
            return {f"the corpus file {file.name}": value for file, value in hashes}
        return {"the corpus of passages": documents_hash(self.passages)}

    @property
    def bm25(self) -> Bm25Index:
        """The index; built once, at first use, with a progress bar if that takes more than a moment."""
        with self._lock:
            if self._index is None:
                self._index = self._build()
            return self._index

    @property
    def is_built(self) -> bool:
        """Whether the index exists already, so that a search does not build it."""
        return self._index is not None

    def _build(self) -> Bm25Index:
        size = len(self.passages)
        if size < _CACHED_PASSAGES:
            return build_index(map(full_text, self.passages), k1=self._k1, b=self._b)
        if not self._files:  # otherwise `file_index` has tried it
            folder = _cached(documents_hash(self.passages), lambda: self.passages, self._k1, self._b)
            if folder is not None:
                return open_postings(folder, size)
        with show_progress("building the search index in memory") as progress:

            def texts() -> Iterator[str]:
                for number, passage in enumerate(self.passages, 1):
                    yield full_text(passage)
                    if number % 2048 == 0 or number == size:
                        progress("indexing", number, size)

            return build_index(texts(), k1=self._k1, b=self._b)

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

    def rank_to(self, query: str, depth: int) -> Ranking:
        """The `depth` best passages that share a word with the query, best first; not cached."""
        return self.bm25.rank([query], min(depth, len(self.passages)))[0]


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
    path: str,
    *,
    k1: float | None = None,
    b: float | None = None,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
) -> PassageIndex:
    """The index over a corpus file, or an index folder. All engines of this process share one, until the file changes.

    The index of a large file is built in the cache folder, unless it is there already, and opened from it.

    Args:
        path: the file, a folder of shards as in `load_corpus`, or a folder written by `zerosearch index build bm25`.
        k1: as in `PassageIndex`; None: the index's own, or the default.
        b: as in `PassageIndex`; None: the index's own, or the default.
        on_bad_row: as in `load_corpus`.
        columns: as in `load_corpus`.

    Raises:
        ConfigError: an option is invalid, or is not that of the index folder.
        DataError: the file is missing or broken, or the index is damaged or of another kind.
    """
    place = Path(path).expanduser().resolve()
    is_index = (place / MANIFEST_FILE).is_file() or (not place.exists() and building_folder(place).is_dir())
    files = [place / MANIFEST_FILE] if is_index else corpus_files(place)
    state = tuple((stat.st_mtime_ns, stat.st_size) for stat in map(Path.stat, filter(Path.exists, files)))
    key = (tuple(map(str, files)), state, on_bad_row, repr(columns), k1, b)
    with _SHARED_LOCK:
        index = _OF_FILES.get(key)
        if index is None:
            for old in [other for other in _OF_FILES if other[0] == key[0] and other[1] != state]:
                del _OF_FILES[old]
            if is_index:
                index = _open_folder(place, k1, b, on_bad_row, columns)
            else:
                index = _index_files(files, path, K1 if k1 is None else k1, B if b is None else b, on_bad_row, columns)
            _OF_FILES[key] = index
        return index


def open_index(folder: Path, *, files: Sequence[Path] = ()) -> PassageIndex:
    """Open a folder written by `build_folder`. Passages and posting lists are mapped, and read when they are needed.

    Args:
        folder: the folder of the index.
        files: the files that it was built from, which identify it; by default its own manifest does.

    Raises:
        DataError: the index is missing, damaged or of another kind.
    """
    manifest = read_manifest(folder, Bm25Manifest)
    passages, index = PassageStore(folder), open_postings(folder, manifest.passages)
    found = (len(passages), len(index.words), len(index.passages))
    if found != (manifest.passages, manifest.words, manifest.postings):
        raise DataError(
            f"{folder}: index.json promises {manifest.passages} passages with {manifest.words} words and "
            f"{manifest.postings} postings; found {found[0]}, {found[1]} and {found[2]}. Build the index again."
        )
    return PassageIndex(passages, k1=manifest.k1, b=manifest.b, files=files or [folder / MANIFEST_FILE], index=index)


def _open_folder(
    folder: Path, k1: float | None, b: float | None, on_bad_row: OnBadRow, columns: Columns | None
) -> PassageIndex:
    if (on_bad_row, columns) != ("raise", None):
        raise ConfigError(f"on_bad_row and columns describe a corpus file, and {folder} is an index")
    manifest = read_manifest(folder, Bm25Manifest)
    for name, wanted, built in (("k1", k1, manifest.k1), ("b", b, manifest.b)):
        if wanted not in (None, built):
            raise ConfigError(
                f"the index {folder} was built with {name}={built:g}, so {name}={wanted:g} is not possible: leave it "
                f"out, or build another index with --{name}"
            )
    return open_index(folder)


def _index_files(
    files: list[Path], path: str, k1: float, b: float, on_bad_row: OnBadRow, columns: Columns | None
) -> PassageIndex:
    if sum(file.stat().st_size for file in files) >= _CACHED_BYTES:
        content = text_hash(repr((file_hashes(files), on_bad_row, columns)))
        folder = _cached(content, lambda: iter_corpus(path, on_bad_row=on_bad_row, columns=columns), k1, b)
        if folder is not None:
            return open_index(folder, files=files)
    return PassageIndex(load_corpus(path, on_bad_row=on_bad_row, columns=columns), k1=k1, b=b, files=files)


def _cached(content: str, passages: Callable[[], Iterable[Document]], k1: float, b: float) -> Path | None:
    """The folder of an index in the cache; None if there is no cache."""
    check_number("k1", k1, least=0)
    check_number("b", b, least=0, most=1)

    def build(folder: Path) -> None:
        with show_progress(f"building the search index, which is kept in {folder.parent}") as progress:
            build_folder(passages(), folder, k1=k1, b=b, restart=True, progress=progress)

    key = text_hash(repr((content, k1, b, Bm25Manifest.FORMAT, package_version())))
    return cached_index(key, lambda folder: read_manifest(folder, Bm25Manifest), build)


def _paragraphs_of(dataset: Dataset) -> Sequence[Document]:
    unique = dict.fromkeys((p.title, p.text) for question in dataset.questions for p in question.paragraphs or ())
    if not unique:
        raise ConfigError(
            f"the dataset {dataset.name!r} has no passages to search: give a corpus file with "
            'search_engine="corpus:FILE" (jsonl or parquet with `id` and `contents`, or with `title` and `text`)'
        )
    return [Document(title, text, f"paragraph-{number}") for number, (title, text) in enumerate(unique)]
