"""Counters of the engines that call a server or a model, and immutable snapshots of them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """Counts since an engine was created, in this process. Subclasses define the unit of caching: sets or pages."""

    searches: int = 0
    failed_searches: int = 0
    documents: int = 0
    """Documents returned, cached ones included."""
    noisy_documents: int = 0
    """Noisy documents among the returned ones."""
    cache_hits: int = 0
    cache_misses: int = 0
    cache_errors: int = 0
    """Look-ups and writes that failed because the file was locked or broken; the engine continued without them."""

    @property
    def realised_noise(self) -> float:
        """Fraction of returned documents that are noisy; 0 before the first document."""
        return self.noisy_documents / self.documents if self.documents else 0.0

    @property
    def hit_rate(self) -> float:
        """Fraction of cache look-ups that were hits; 0 without a cache."""
        lookups = self.cache_hits + self.cache_misses
        return self.cache_hits / lookups if lookups else 0.0


Stats = TypeVar("Stats", bound=SearchCounts)


class Counters:
    """Thread-safe counters with the names of the fields of a `SearchCounts`. A copy starts at zero."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple[type[Counters], tuple[()]]:
        return type(self), ()

    def add(self, **counts: int) -> None:
        """Add to the named counters."""
        with self._lock:
            self._counts.update(counts)

    def snapshot(self, kind: type[Stats], **more: int) -> Stats:
        """The current counts; `more` gives the values of counters kept elsewhere."""
        with self._lock:
            return kind(**self._counts, **more)
