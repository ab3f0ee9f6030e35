"""What a simulated engine counts: an immutable snapshot, and the counters behind it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, fields

from ..stats import SearchCounts
from .sets import DocumentSet


@dataclass(frozen=True, slots=True)
class SimulatorStats(SearchCounts):
    """Counts since an engine was made. A *set* is what one prompt asks for: `top_k` documents, useful or noisy.

    What is cached are sets.
    """

    useful_sets: int = 0
    """Useful sets generated without a failure; cached ones are not counted, here and below."""
    noisy_sets: int = 0
    misses: int = 0
    """Useful sets whose first sample held no gold answer. At a first hop that is no fault."""
    accepted_misses: int = 0
    """Those that still held none after resampling, and were returned so."""
    leaks: int = 0
    """Noisy sets whose first sample held a gold answer. None is ever returned."""
    redactions: int = 0
    """Noisy documents from which an answer was cut out, after resampling had not helped."""
    resamples: int = 0
    """Completions asked for beyond the first one of each set."""
    completions: int = 0
    unusable: int = 0
    """Completions that held too few documents: empty, refusing, looping or badly numbered ones."""

    @property
    def leak_rate(self) -> float:
        """Share of noisy sets that stated a gold answer before the guard; 0 without noisy sets."""
        return self.leaks / self.noisy_sets if self.noisy_sets else 0.0

    @property
    def miss_rate(self) -> float:
        """Share of useful sets without a gold answer in the first sample; 0 without useful sets."""
        return self.misses / self.useful_sets if self.useful_sets else 0.0


class Counters:
    """Thread-safe counters with the names of `SimulatorStats`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Add to some counters."""
        with self._lock:
            self._counts.update(counts)

    def add_set(self, made: DocumentSet) -> None:
        """Count one generated set, failed ones included."""
        counts = {"completions": made.completions, "unusable": made.unusable}
        counts["resamples"] = max(made.completions - 1, 0)
        if made.failure is None:
            counts |= {"noisy_sets": 1, "leaks": int(made.leaked)} if made.noisy else {"useful_sets": 1}
            counts |= {"misses": int(made.missed), "accepted_misses": int(made.accepted_miss)}
            counts["redactions"] = made.redactions
        self.add(**counts)

    def snapshot(self, **more: int) -> SimulatorStats:
        """The counts as they are now, and some that are kept elsewhere."""
        with self._lock:
            return SimulatorStats(**{field.name: self._counts[field.name] for field in fields(SimulatorStats)} | more)
