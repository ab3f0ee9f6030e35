"""Means over the episodes of a cell: `Summary`, with an interval for each metric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zerosearch_env.types import StopReason

from .episodes import JUDGE, METRIC_KINDS, EpisodeResult, by_question, metric_kind, with_values
from .samples import SampleScores, majority, pass_at, pass_sizes
from .statistics import Interval, Kind, mean_interval

_TOKENS = ("tokens_read", "tokens_written")


@dataclass(frozen=True)
class Agreement:
    """How often the judge and EM agree, over the episodes with a verdict."""

    share: Interval
    """Share of the episodes in which both say the same."""
    judge_only: int
    """Episodes that are right only by the judge."""
    em_only: int
    """Episodes that are right only by EM."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"share": self.share.as_dict(), "judge_only": self.judge_only, "em_only": self.em_only}


@dataclass(frozen=True)
class Summary:
    """Means over the episodes of a cell, without those in which the engine or the agent's code failed.

    With several samples per question every mean is over questions, each with the mean of its samples: samples of the
    same question are no independent observations, so the intervals count questions.
    """

    em: Interval
    f1: Interval
    subem: Interval
    em_unicode: Interval
    f1_unicode: Interval
    searches: Interval
    """Searches per episode."""
    misled: Interval
    """Share of answers that are a wrong answer which the documents stated."""
    abstained: Interval
    """Share of answers that decline to answer."""
    hallucinated: Interval
    """Share of answers that are wrong and no abstention."""
    truthfulness: Interval
    """EM minus the share of hallucinated answers, from -1 to 1."""
    recall: Interval
    """Share of the supporting paragraphs that the searches returned, where the dataset names them."""
    invalid_rate: float
    """Turns without a well-formed action / all turns; NaN if there are no turns."""
    realised_noise: float
    """Noisy draws / draws; NaN when the agent never searched."""
    stop_reasons: Mapping[str, int]
    engine_failures: int
    """Episodes left out of the means because the engine failed."""
    agent_failures: int
    """Episodes left out of the means because the agent's code failed."""
    extra: Mapping[str, Interval] = field(default_factory=dict)
    """Additional scores by name, over the episodes in which the score has a value."""
    without_value: Mapping[str, int] = field(default_factory=dict)
    """Episodes left out of the mean of an additional score because it has no value (a judge gave no verdict)."""
    agreement: Agreement | None = None
    """How often the judge and EM agree; None without a judge."""
    samples: SampleScores | None = None
    """What several samples per question show; None with one."""
    tokens_read: int | None = None
    """Tokens that the agent's model read in all episodes, failed ones included; None if they are not counted."""
    tokens_written: int | None = None
    """Tokens that it wrote."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None."""
        rates = {"invalid_rate": self.invalid_rate, "realised_noise": self.realised_noise}
        return {
            **{name: getattr(self, name).as_dict() for name in METRIC_KINDS},
            **{name: None if math.isnan(rate) else rate for name, rate in rates.items()},
            "stop_reasons": dict(self.stop_reasons),
            "engine_failures": self.engine_failures,
            "agent_failures": self.agent_failures,
            **({"extra": {name: interval.as_dict() for name, interval in self.extra.items()}} if self.extra else {}),
            **({"without_value": dict(self.without_value)} if self.extra else {}),
            **({"judge_agreement": self.agreement.as_dict()} if self.agreement else {}),
            **({"samples": self.samples.as_dict()} if self.samples else {}),
            **{name: getattr(self, name) for name in _TOKENS if getattr(self, name) is not None},
        }


def summarise(chosen: Sequence[EpisodeResult], samples: int = 1) -> Summary:
    """Means with 95 % intervals.

    Args:
        chosen: the episodes, failed ones included.
        samples: episodes per question.
    """
    valid = [r for r in chosen if not r.failed]
    reasons = Counter(r.stop_reason for r in chosen)
    turns, draws = sum(r.turns for r in valid), sum(r.draws for r in valid)
    values: dict[str, list[tuple[EpisodeResult, float]]] = {name: [] for r in chosen for name in r.extra}
    for result in valid:
        for name, value in result.extra.items():
            values[name] += [] if value is None else [(result, value)]
    return Summary(
        **{name: _interval(with_values(valid, name), metric_kind(name, samples)) for name in METRIC_KINDS},
        invalid_rate=sum(r.invalid for r in valid) / turns if turns else math.nan,
        realised_noise=sum(r.noisy for r in valid) / draws if draws else math.nan,
        stop_reasons=dict(sorted(reasons.items())),
        engine_failures=reasons[StopReason.ENGINE_ERROR],
        agent_failures=reasons[StopReason.AGENT_ERROR],
        extra={name: _interval(pairs, metric_kind(name, samples)) for name, pairs in values.items()},
        without_value={name: len(valid) - len(pairs) for name, pairs in values.items()},
        agreement=_agreement(valid, samples) if JUDGE in values else None,
        samples=_sample_scores(valid, samples) if samples > 1 else None,
        tokens_read=_total([r.tokens_read for r in chosen]),
        tokens_written=_total([r.tokens_written for r in chosen]),
    )


def _interval(values: Iterable[tuple[EpisodeResult, float]], kind: Kind) -> Interval:
    return mean_interval(list(by_question(values).values()), kind)


def _agreement(episodes: Iterable[EpisodeResult], samples: int) -> Agreement:
    pairs = [(episode, verdict) for episode in episodes if (verdict := episode.score(JUDGE)) is not None]
    return Agreement(
        _interval([(episode, float(verdict == episode.em)) for episode, verdict in pairs], metric_kind(JUDGE, samples)),
        sum(verdict > episode.em for episode, verdict in pairs),
        sum(verdict < episode.em for episode, verdict in pairs),
    )


def _sample_scores(episodes: Iterable[EpisodeResult], samples: int) -> SampleScores:
    of_question: dict[int, list[EpisodeResult]] = {}
    for episode in episodes:
        of_question.setdefault(episode.index, []).append(episode)
    whole = [row for row in of_question.values() if len(row) == samples]
    right = [round(sum(episode.em for episode in row)) for row in whole]
    return SampleScores(
        mean_interval([count / samples for count in right], "graded"),
        {k: mean_interval([pass_at(samples, count, k) for count in right], "graded") for k in pass_sizes(samples)},
        mean_interval([majority((episode.prediction, episode.em) for episode in row) for row in whole], "graded"),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum of those that are known; None if none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
