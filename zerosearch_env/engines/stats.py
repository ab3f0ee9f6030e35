"""Counters shared by the engines that call a server or a model."""

from __future__ import annotations

from dataclasses import dataclass


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
