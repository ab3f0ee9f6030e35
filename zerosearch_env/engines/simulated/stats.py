"""Statistics of a simulated engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..stats import SearchCounts
from .reject import Rejection
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
    refusals: int = 0
    """Texts that refuse in the place of a document. These five counters, up to `echoes`, are over all completions."""
    chat_phrases: int = 0
    """Texts that speak to the user, such as "I hope this helps"."""
    repetitions: int = 0
    """Texts that repeat themselves or an earlier document of the completion."""
    fragments: int = 0
    """Texts of fewer than five words."""
    echoes: int = 0
    """Texts that repeat the prompt or its examples."""
    off_query_sets: int = 0
    """Useful sets in which no document has a word of the query, apart from words such as "the" and "who"."""

    @property
    def leak_rate(self) -> float:
        """Fraction of noisy sets that stated a gold answer in the first sample; 0 without noisy sets."""
        return self.leaks / self.noisy_sets if self.noisy_sets else 0.0

    @property
    def miss_rate(self) -> float:
        """Fraction of useful sets without a gold answer in the first sample; 0 without useful sets."""
        return self.misses / self.useful_sets if self.useful_sets else 0.0


COUNTERS: Mapping[Rejection, str] = {
    "refusal": "refusals",
    "chat": "chat_phrases",
    "looping": "repetitions",
    "fragment": "fragments",
    "echo": "echoes",
}
"""The counter of each reason to reject a text."""


def counts_of(made: DocumentSet) -> dict[str, int]:
    """What one generated set, which may have failed, adds to the counters."""
    counts = {"completions": made.completions, "unusable": made.unusable}
    counts["resamples"] = max(made.completions - 1, 0)
    counts |= {COUNTERS[reason]: made.rejected.count(reason) for reason in set(made.rejected)}
    if made.failure is None:
        counts |= {"noisy_sets": 1, "leaks": int(made.leaked)} if made.noisy else {"useful_sets": 1}
        counts |= {"misses": int(made.missed), "accepted_misses": int(made.accepted_miss)}
        counts |= {"redactions": made.redactions, "off_query_sets": int(made.off_query)}
    return counts
