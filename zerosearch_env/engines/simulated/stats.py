"""Statistics of a simulated engine: the counters, and an immutable snapshot of them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, fields

from ..stats import SearchCounts
from .sets import DocumentSet


@dataclass(frozen=True, slots=True)
class SimulatorStats(SearchCounts):
    """Counts since an engine was created. A *set* is the result of one prompt: `top_k` documents, useful or noisy.

    The cache counts refer to sets.
    """

    useful_sets: int = 0
    """Useful sets generated without a failure; cached sets are not counted, here and below."""
    noisy_sets: int = 0
    misses: int = 0
    """Useful sets with no gold answer in the first sample. At the first hop of a question this is not an error."""
    accepted_misses: int = 0
    """Misses that still had no gold answer after resampling, and were returned as they were."""
    leaks: int = 0
    """Noisy sets with a gold answer in the first sample. Such a sample is never returned."""
    redactions: int = 0
    """Noisy documents from which an answer was removed, because resampling did not help."""
    resamples: int = 0
    """Completions requested beyond the first one of each set."""
    completions: int = 0
    unusable: int = 0
    """Completions with too few documents: empty, refusing, looping or badly numbered."""

    @property
    def leak_rate(self) -> float:
        """Fraction of noisy sets that stated a gold answer in the first sample; 0 without noisy sets."""
        return self.leaks / self.noisy_sets if self.noisy_sets else 0.0

    @property
    def miss_rate(self) -> float:
        """Fraction of useful sets without a gold answer in the first sample; 0 without useful sets."""
        return self.misses / self.useful_sets if self.useful_sets else 0.0


class Counters:
    """Thread-safe counters with the names of `SimulatorStats`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple[type[Counters], tuple[()]]:
        """A copy starts at zero."""
        return type(self), ()

    def add(self, **counts: int) -> None:
        """Add to the named counters."""
        with self._lock:
            self._counts.update(counts)

    def add_set(self, made: DocumentSet) -> None:
        """Count one generated set, which may have failed."""
        counts = {"completions": made.completions, "unusable": made.unusable}
        counts["resamples"] = max(made.completions - 1, 0)
        if made.failure is None:
            counts |= {"noisy_sets": 1, "leaks": int(made.leaked)} if made.noisy else {"useful_sets": 1}
            counts |= {"misses": int(made.missed), "accepted_misses": int(made.accepted_miss)}
            counts["redactions"] = made.redactions
        self.add(**counts)

    def snapshot(self, **more: int) -> SimulatorStats:
        """The current counts; `more` gives the values of counters kept elsewhere."""
        with self._lock:
            return SimulatorStats(**{field.name: self._counts[field.name] for field in fields(SimulatorStats)} | more)
