"""What engines that ask a server or a model count alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """Counts since an engine was made, in this process. What is cached, sets or pages, its subclasses say."""

    searches: int = 0
    failed_searches: int = 0
    documents: int = 0
    """Documents returned, cached ones included."""
    noisy_documents: int = 0
    """Noisy ones among them."""
    cache_hits: int = 0
    cache_misses: int = 0
    cache_errors: int = 0
    """Look-ups and writes that failed because the file was locked or broken; the engine went on without."""

    @property
    def realised_noise(self) -> float:
        """Share of noisy documents among those returned; 0 before the first."""
        return self.noisy_documents / self.documents if self.documents else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of what was asked for that came from the cache; 0 without a cache."""
        asked = self.cache_hits + self.cache_misses
        return self.cache_hits / asked if asked else 0.0
