"""Skeleton."""
from __future__ import annotations
from collections.abc import Sequence
from ..types import Dataset, Document, SearchRequest, SearchResult
from ..errors import ConfigError
from .base import BatchedEngine

class CorpusEngine(BatchedEngine):
    """BM25 over passages (being written)."""
    def __init__(self, passages: Sequence[Document]) -> None:
        super().__init__()
        self._passages = passages
    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Placeholder ranking until the index is in: the first passages."""
        self._check_open()
        return [SearchResult(tuple(self._passages[:r.top_k]), engine="corpus") for r in requests]

def corpus_engine(argument: str, dataset: Dataset | None) -> CorpusEngine:
    """Factory of the kind "corpus"."""
    if dataset is None or dataset.passages is None:
        raise ConfigError("no passages")
    return CorpusEngine(dataset.passages)
