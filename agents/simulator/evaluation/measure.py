"""Figures of one noise level: send searches to an engine and summarise its answers.

requests -> `ask` -> Answers -> `level_report`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from zerosearch_env.engines import engine_parts
from zerosearch_env.engines.run import run_searches
from zerosearch_env.engines.simulated.stats import SimulatorStats
from zerosearch_env.types import SearchRequest, SearchResult

from ...evaluation.statistics import Interval, wilson
from ..pairs.records import holds_answer
from .probes import Probe
from .style import distinctness, length, ratio

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine


@dataclass(frozen=True, slots=True)
class Answer:
    """A search with its result."""

    probe: Probe
    request: SearchRequest
    result: SearchResult

    @property
    def noisy(self) -> bool:
        """Whether the search was drawn noisy."""
        return bool(self.request.noisy)

    def holds(self, answers: Sequence[str]) -> bool:
        """Whether a document contains one of the answers."""
        return holds_answer(self.result.documents, answers)

    @property
    def leaks(self) -> bool:
        """Whether a document contains an answer to the question."""
        return self.holds(self.request.answers)


@dataclass(frozen=True, slots=True)
class Answers:
    """The searches of a level with their results, and the engine's counters."""

    answered: list[Answer]
    """The searches that did not fail."""
    failures: list[str]
    """What the others failed with."""
    stats: dict[str, int] | None
    """Increase of the engine's counters; None if the engine has no counters."""
    documents: list[int]
    """Number of documents in each batch."""
    seconds: list[float]
    """Wall-clock time of each batch."""


def ask(
    engine: SearchEngine,
    searches: Sequence[tuple[Probe, SearchRequest]],
    *,
    batch: int,
    advance: Callable[[int], None],
) -> Answers:
    """Send searches to an engine in batches.

    Args:
        engine: the engine.
        searches: probes with their requests.
        batch: requests per call, at least 1.
        advance: called after each batch with its number of searches.
    """
    before = _stats(engine)
    answered, failures, documents, seconds = [], [], [], []
    for start in range(0, len(searches), batch):
        some = searches[start : start + batch]
        began = time.perf_counter()
        results = run_searches(engine, [request for _, request in some])
        seconds.append(time.perf_counter() - began)
        documents.append(sum(len(result.documents) for result in results))
        for (probe, request), result in zip(some, results, strict=True):
            if result.failure is None:
                answered.append(Answer(probe, request, result))
            else:
                failures.append(result.failure)
        advance(len(some))
    after = _stats(engine)
    stats = None
    if before is not None and after is not None:
        names = [f.name for f in fields(SimulatorStats)]
        stats = {name: getattr(after, name) - getattr(before, name) for name in names}
    return Answers(answered, failures, stats, documents, seconds)


def _stats(engine: Any) -> SimulatorStats | None:
    stats = engine_parts(engine).stats()
    return stats if isinstance(stats, SimulatorStats) else None


def level_report(level: float, answers: Answers) -> dict[str, Any]:
    """The figures of one noise level; shares have Wilson intervals, with None if there is nothing to count."""
    useful = [answer for answer in answers.answered if not answer.noisy]
    noisy = [answer for answer in answers.answered if answer.noisy]
    hops = all(answer.probe.hop_answers is not None for answer in answers.answered)
    report: dict[str, Any] = {
        "noise_level": level,
        "searches": len(answers.answered) + len(answers.failures),
        "failed": len(answers.failures),
        "first_failure": next(iter(answers.failures), None),
        "realised_noise": share(answer.noisy for answer in answers.answered),
        "useful_with_answer": share(answer.holds(answer.probe.answers) for answer in useful),
        "useful_with_hop_answer": share(answer.holds(answer.probe.hop_answers or ()) for answer in useful if hops),
        "useful_too_early": share(answer.holds(answer.probe.answers) for answer in useful if answer.probe.on_the_way),
        "noisy_with_answer": share(answer.leaks for answer in noisy),
        "noisy_with_hop_answer": share(answer.holds(answer.probe.hop_answers or ()) for answer in noisy if hops),
    }
    if (stats := answers.stats) is not None:
        report["useful_with_sought_before"] = wilson(stats["useful_sets"] - stats["misses"], stats["useful_sets"])
        report["noisy_with_answer_before"] = wilson(stats["leaks"], stats["noisy_sets"])
        report |= {name: stats[name] for name in ("completions", "resamples", "redactions", "unusable", "cache_hits")}
    sets = [answer.result.documents for answer in answers.answered]
    report["documents_per_second"] = ratio(answers.documents, answers.seconds)
    report["words"] = length([document for documents in sets for document in documents])
    report["distinct"] = distinctness(sets)
    return plain(report)


def share(values: Iterable[object]) -> Interval:
    """The share of true values, with a Wilson interval."""
    flags = [bool(value) for value in values]
    return wilson(sum(flags), len(flags))


def plain(value: Any) -> Any:
    """Convert intervals, also nested ones, to JSON values."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list) else value
