"""The libraries that `scale.py` compares: this package, bm25s, and Tantivy if it is installed.

Each builds an index of a corpus file in a folder, and opens it. What they return for a query differs: the corpus engine
returns documents for a string; bm25s returns passage numbers for tokens, which are made before and are the same as
ours; Tantivy (a library in Rust, through its Python package) returns addresses of passages for a string. bm25s and we
compute the same scores. Tantivy's are close: it splits words by its own rules, has BM25's other usual constants
(k1=1.2, b=0.75), and rounds the lengths of passages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.datasets.files.passages import iter_corpus
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.engines.corpus.build import build_folder
from zerosearch_env.engines.corpus.passages import PassageIndex, open_index
from zerosearch_env.engines.corpus.tokens import words
from zerosearch_env.errors import require
from zerosearch_env.types import SearchRequest

Search = Callable[[int, int], Any]
"""`search(start, stop)` answers these requests and returns what the library returns."""


class Library(Protocol):
    """A library that searches with BM25."""

    name: str
    """As in the record."""

    def build(self, file: Path, folder: Path, memory: int) -> None:
        """Build an index of a corpus file, with its passages, in a folder; `memory` in megabytes is a wish."""
        ...

    def open(self, folder: Path, requests: Sequence[SearchRequest]) -> Search:
        """Open the index for some requests, memory-mapped."""
        ...


@dataclass(frozen=True)
class Ours:
    """The corpus engine."""

    name = "ours"

    def build(self, file: Path, folder: Path, memory: int) -> None:
        """As `zerosearch index build bm25` does."""
        build_folder(iter_corpus(file), folder, memory=memory, overwrite=True)

    def open(self, folder: Path, requests: Sequence[SearchRequest]) -> Search:
        """The engine without a cache of queries."""
        index = open_index(folder)
        engine = CorpusEngine(PassageIndex(index.passages, cached_queries=0, index=index.bm25), paragraphs=False)
        return lambda start, stop: engine.search(requests[start:stop])


@dataclass(frozen=True)
class Bm25s:
    """bm25s with our tokens, in its variant that has our scores."""

    name = "bm25s"

    def build(self, file: Path, folder: Path, memory: int) -> None:
        """Tokenise, index and save; bm25s has no limit of memory."""
        texts, tokens, vocabulary = [], [], dict[str, int]()
        for title, text in _passages(file):
            texts.append(f"{title}\n{text}")
            tokens.append([vocabulary.setdefault(word, len(vocabulary)) for word in words(f"{title} {text}")])
        library = require("bm25s").BM25(method="lucene")
        library.index((tokens, vocabulary), show_progress=False)
        library.save(folder, corpus=texts, show_progress=False)

    def open(self, folder: Path, requests: Sequence[SearchRequest]) -> Search:
        """The index without its passages: `retrieve` returns their numbers."""
        library = require("bm25s").BM25.load(folder, mmap=True, show_progress=False)
        tokens = [words(request.query) for request in requests]
        top_k = requests[0].top_k
        return lambda start, stop: library.retrieve(tokens[start:stop], k=top_k, show_progress=False, n_threads=0)


@dataclass(frozen=True)
class Tantivy:
    """Tantivy with one writing thread."""

    name = "tantivy"

    def build(self, file: Path, folder: Path, memory: int) -> None:
        """Add the passages one by one, and merge the segments as Tantivy does by itself."""
        tantivy = require("tantivy")
        schema = tantivy.SchemaBuilder()
        schema.add_unsigned_field("number", stored=True)
        schema.add_text_field("contents", stored=True)
        folder.mkdir(exist_ok=True)
        index = tantivy.Index(schema.build(), path=str(folder))
        writer = index.writer(heap_size=memory * 1_000_000, num_threads=1)
        for number, (title, text) in enumerate(_passages(file)):
            writer.add_document(tantivy.Document(number=number, contents=f"{title} {text}"))
        writer.commit()
        writer.wait_merging_threads()

    def open(self, folder: Path, requests: Sequence[SearchRequest]) -> Search:
        """A search for any of the words of a query."""
        index, searcher = self._opened(folder)

        def search(start: int, stop: int) -> list[Any]:
            queries = (index.parse_query_lenient(request.query, ["contents"])[0] for request in requests[start:stop])
            return [searcher.search(query, requests[0].top_k, count=False).hits for query in queries]

        return search

    def numbers(self, folder: Path, requests: Sequence[SearchRequest]) -> list[set[int]]:
        """The numbers of the passages that it finds, per request."""
        _, searcher = self._opened(folder)
        found = self.open(folder, requests)(0, len(requests))
        return [{searcher.doc(address)["number"][0] for _, address in hits} for hits in found]

    @staticmethod
    def _opened(folder: Path) -> tuple[Any, Any]:
        index = require("tantivy").Index.open(str(folder))
        return index, index.searcher()


def _passages(file: Path) -> Iterator[tuple[str, str]]:
    """Titles and texts of a corpus file, read as simply as possible."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            title, _, text = json.loads(line)["contents"].partition("\n")
            yield title, text


def score_gap(results: Sequence[Any], scores: NDArray[np.float32]) -> float:
    """The largest difference between the scores of our results and those of bm25s."""
    ours = np.array([[document.score or 0.0 for document in result.documents] for result in results])
    return float(np.abs(ours - scores).max())


def shared_top(results: Sequence[Any], numbers: Sequence[set[int]]) -> float:
    """The share of our passages that the other library also returns."""
    shares = [
        len(found & {int(document.source) for document in result.documents}) / len(result.documents)
        for result, found in zip(results, numbers, strict=True)
    ]
    return float(np.mean(shares))
