"""Results of an evaluation: one record per episode, one cell per (agent, engine, noise kind and level), one file.

    EpisodeResult -> Cell -> Evaluation -> results.json

The file stores the scores of every episode, not only means, so that any later comparison on the same questions can be
paired. It is rewritten after each cell by an atomic replace: an interrupted run loses at most the episodes that were
still being played.

This stays one file although it is long: the records, their summaries and the file's format change together.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from zerosearch_env.errors import DataError
from zerosearch_env.files import write_text
from zerosearch_env.game.noise_kinds import DISTRACTOR
from zerosearch_env.types import JsonObject, StopReason

from ..runs.output import RESULTS_FILE
from .samples import SampleScores, majority, pass_at, pass_sizes
from .statistics import EMPTY, Interval, Kind, mean_interval, paired_difference

SCHEMA_VERSION = 2
JUDGE = "judge"
"""Name of the judge's verdict among the additional scores."""
METRICS = ("em", "f1", "subem", "em_unicode", "f1_unicode")
OUTCOMES = ("misled", "abstained", "hallucinated")
"""What an episode without a right answer came to; see `Scores`. Episodes of earlier versions have no value."""
METRIC_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("em", "subem", "em_unicode"), "binary"),
    **dict.fromkeys(("f1", "f1_unicode"), "graded"),
    "searches": "count",
    **dict.fromkeys(OUTCOMES, "binary"),
    "truthfulness": "signed",
}
"""The kind of each metric, which chooses its interval."""
_EXTRA_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("zerosearch_em", "r1_searcher_em", "r1_searcher_cover_em", "deepresearcher_em", JUDGE), "binary"),
    **dict.fromkeys(("research_f1", "r1_searcher_f1", "deepresearcher_f1"), "graded"),
}
"""The kind of additional scores; one that is not listed may have any range."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One finished episode, reduced to the figures that the tables need."""

    index: int
    """Position of the question in its dataset. Together with the evaluation's seed it determines every random draw."""
    question_id: str
    group: str
    """`"1-hop"`, `"2-hop"`, ..., or `""` if the question has no such metadata."""
    em: float
    f1: float
    subem: float
    em_unicode: float
    f1_unicode: float
    searches: int
    turns: int
    invalid: int
    """Turns without a well-formed action."""
    noisy: int
    """Number of noise draws that came out noisy. A draw is per search or per document (`noise_unit` of the rules)."""
    draws: int
    """Number of noise draws."""
    stop_reason: str
    prediction: str | None = None
    error: str | None = None
    """The failure of the engine or of the agent's code, if any. Such an episode is counted but excluded from every
    mean, and played again when the evaluation is continued."""
    data_source: str = ""
    """The data set that the question comes from (`Question.dataset`)."""
    extra: Mapping[str, float | None] = field(default_factory=dict)
    """Additional scores by name; None if one has no value."""
    sample: int = 0
    """Number of the sample of its question, from 0."""
    tokens_read: int | None = None
    """Tokens that the agent's model read, over all turns; None if they are not counted."""
    tokens_written: int | None = None
    """Tokens that the agent's model wrote, thoughts included; None if they are not counted."""
    misled: float | None = None
    """1 if the answer is a wrong one that documents of this episode stated, else 0."""
    abstained: float | None = None
    """1 if the agent declined to answer, with one of the rules' phrases, else 0."""
    hallucinated: float | None = None
    """1 if there is an answer that is wrong and no abstention, else 0."""

    @property
    def truthfulness(self) -> float | None:
        """1 for a right answer, 0 for an abstention or none, -1 for a wrong answer: `em - hallucinated`."""
        return None if self.hallucinated is None else self.em - self.hallucinated

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the episode within its cell: the question's index, and the sample."""
        return self.index, self.sample

    @property
    def failed(self) -> bool:
        """True when a failure of the engine or of the agent's code ended the episode."""
        return StopReason(self.stop_reason).failed

    def score(self, metric: str) -> float | None:
        """One of `METRIC_KINDS`, or an additional score; None if it has no value."""
        return getattr(self, metric) if metric in METRIC_KINDS else self.extra.get(metric)  # type: ignore[no-any-return]


_RECORDED = frozenset((*METRICS, *OUTCOMES, "searches", "prediction", "reward", "counterfactual"))
"""Entries of a transcript's scores that are not additional scores."""
_TOKENS = ("tokens_read", "tokens_written")
_COLUMNS = tuple(column.name for column in fields(EpisodeResult))


def episode_result(record: JsonObject) -> EpisodeResult:
    """Reduce the transcript of a finished episode to its result.

    Args:
        record: a record of `transcript_record`, with `index` (position of the question in its dataset), `hops` and, if
            it is not 0, `sample` in its `extra`.

    Raises:
        DataError: the episode is not over, or the record lacks an entry.
    """
    try:
        question, turns, scores, extra = (record[name] for name in ("question", "turns", "scores", "extra"))
        draws = [turn["noisy"] for turn in turns if turn["noisy"] is not None]
        flags = [flag for draw in draws for flag in (draw if isinstance(draw, list) else [draw])]
        hops, tokens = extra["hops"], record.get("tokens", {})
        return EpisodeResult(
            index=extra["index"],
            question_id=question["id"],
            group=f"{hops}-hop" if hops else "",
            **{name: scores[name] for name in (*METRICS, "searches", "prediction")},
            turns=len(turns),
            invalid=sum(turn["action"] == "invalid" for turn in turns),
            noisy=sum(flags),
            draws=len(flags),
            stop_reason=record["stop_reason"],
            error=record["error"],
            data_source=question["dataset"],
            extra={name: value for name, value in scores.items() if name not in _RECORDED},
            sample=extra.get("sample", 0),
            tokens_read=tokens.get("read"),
            tokens_written=tokens.get("written"),
            **{name: scores.get(name) for name in OUTCOMES},
        )
    except (KeyError, TypeError) as cause:
        raise DataError(f"not the transcript of a finished episode ({cause!r})") from cause


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


def _kind(metric: str, samples: int = 1) -> Kind:
    """The kind of a metric, or of its means over several samples of a question."""
    kind = METRIC_KINDS.get(metric) or _EXTRA_KINDS.get(metric, "count")
    return "graded" if kind == "binary" and samples > 1 else kind


def _by_question(values: Iterable[tuple[EpisodeResult, float]]) -> dict[int, float]:
    """The mean value of each question's samples, by its index; with one sample, the value."""
    of_question: dict[int, list[float]] = {}
    for result, value in values:
        of_question.setdefault(result.index, []).append(value)
    return {index: sum(values) / len(values) for index, values in of_question.items()}


def _values(results: Iterable[EpisodeResult], metric: str) -> Iterator[tuple[EpisodeResult, float]]:
    """The episodes in which a metric has a value, each with it."""
    return ((result, value) for result in results if (value := result.score(metric)) is not None)


def _interval(values: Iterable[tuple[EpisodeResult, float]], kind: Kind) -> Interval:
    return mean_interval(list(_by_question(values).values()), kind)


def _agreement(episodes: Iterable[EpisodeResult], samples: int) -> Agreement:
    pairs = [(episode, verdict) for episode in episodes if (verdict := episode.score(JUDGE)) is not None]
    return Agreement(
        _interval([(episode, float(verdict == episode.em)) for episode, verdict in pairs], _kind(JUDGE, samples)),
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


def _row(result: EpisodeResult) -> dict[str, Any]:
    """Plain JSON values, without entries that few evaluations have: the number of the first sample is one."""
    row = {name: getattr(result, name) for name in _COLUMNS} | {"extra": dict(result.extra)}
    unknown = {name for name in OUTCOMES if row[name] is None}
    return {n: value for n, value in row.items() if value or n not in {"extra", "sample", *_TOKENS, *unknown}}


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum of those that are known; None if none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


class CellKey(NamedTuple):
    """The place of a cell in its evaluation."""

    agent: str
    engine: str
    noise_level: float
    noise_kind: str = str(DISTRACTOR)
    """The mixture of kinds of noise, as text."""

    def __str__(self) -> str:
        kind = "" if self.noise_kind == str(DISTRACTOR) else f" {self.noise_kind}"
        return f"{self.agent}, {self.engine}, noise {self.noise_level:g}{kind}"

    @property
    def played(self) -> CellKey:
        """The cell whose episodes this one has: without noise, all kinds have those of `distractor`."""
        return self if self.noise_level else self._replace(noise_kind=str(DISTRACTOR))


@dataclass(frozen=True)
class Cell:
    """One agent on one engine with one kind of noise at one level."""

    agent: str
    engine: str
    noise_level: float
    planned: int
    """Episodes that the cell should hold; fewer are there when the run was interrupted."""
    episodes: tuple[EpisodeResult, ...] = field(repr=False)
    seconds: float = 0.0
    """Wall time of playing the cell."""
    samples: int = 1
    """Episodes per question."""
    noise_kind: str = str(DISTRACTOR)
    """The mixture of kinds of noise, as text."""

    @property
    def key(self) -> CellKey:
        """Identifies the cell within its evaluation."""
        return CellKey(self.agent, self.engine, self.noise_level, self.noise_kind)

    @property
    def complete(self) -> bool:
        """True when every planned episode was played to its end, without a failure of the engine or the agent."""
        return len(self.finished) == self.planned

    @property
    def shortfall(self) -> str:
        """What an incomplete cell lacks: `5 of 8 episodes finished; the agent failed in 3`."""
        reasons = self.summary().stop_reasons
        counts = {"engine": reasons.get(StopReason.ENGINE_ERROR), "agent": reasons.get(StopReason.AGENT_ERROR)}
        failed = "".join(f"; the {who} failed in {count}" for who, count in counts.items() if count)
        return f"{len(self.finished)} of {self.planned} episodes finished{failed}"

    @property
    def finished(self) -> tuple[EpisodeResult, ...]:
        """The episodes that count; the others failed."""
        return tuple(result for result in self.episodes if not result.failed)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its questions, sorted; `("",)` if questions have no group."""
        return tuple(sorted({result.group for result in self.episodes}))

    @property
    def data_sources(self) -> tuple[str, ...]:
        """The data sets of its questions, sorted; empty if there is only one, or if they are not known."""
        names = {result.data_source for result in self.episodes if result.data_source}
        return tuple(sorted(names)) if len(names) > 1 else ()

    @cached_property
    def _summaries(self) -> dict[tuple[str | None, str | None], Summary]:
        """Cache of summaries: their bootstrap is the expensive part of saving and printing."""
        return {}

    def summary(self, group: str | None = None, data_source: str | None = None) -> Summary:
        """Means with 95 % intervals.

        Args:
            group: `"1-hop"`, ...; None takes every episode.
            data_source: the name of a data set; None takes every episode.
        """
        key = (group, data_source)
        if key not in self._summaries:
            self._summaries[key] = self._summarise(*key)
        return self._summaries[key]

    def _summarise(self, group: str | None, data_source: str | None) -> Summary:
        chosen = [r for r in self.episodes if group in (None, r.group) and data_source in (None, r.data_source)]
        valid = [r for r in chosen if not r.failed]
        reasons = Counter(r.stop_reason for r in chosen)
        turns, draws = sum(r.turns for r in valid), sum(r.draws for r in valid)
        values: dict[str, list[tuple[EpisodeResult, float]]] = {name: [] for r in chosen for name in r.extra}
        for result in valid:
            for name, value in result.extra.items():
                values[name] += [] if value is None else [(result, value)]
        n = self.samples
        return Summary(
            **{name: _interval(_values(valid, name), _kind(name, n)) for name in METRIC_KINDS},
            invalid_rate=sum(r.invalid for r in valid) / turns if turns else math.nan,
            realised_noise=sum(r.noisy for r in valid) / draws if draws else math.nan,
            stop_reasons=dict(sorted(reasons.items())),
            engine_failures=reasons[StopReason.ENGINE_ERROR],
            agent_failures=reasons[StopReason.AGENT_ERROR],
            extra={name: _interval(pairs, _kind(name, n)) for name, pairs in values.items()},
            without_value={name: len(valid) - len(pairs) for name, pairs in values.items()},
            agreement=_agreement(valid, n) if JUDGE in values else None,
            samples=_sample_scores(valid, n) if n > 1 else None,
            tokens_read=_total([r.tokens_read for r in chosen]),
            tokens_written=_total([r.tokens_written for r in chosen]),
        )

    @cached_property
    def record(self) -> dict[str, Any]:
        """Plain JSON values: the summary for human readers, the episodes for later comparisons.

        Cached, because the results file is rewritten after every cell.
        """
        groups = [group for group in self.groups if group]
        return {
            "agent": self.agent,
            "engine": self.engine,
            "noise_level": self.noise_level,
            "noise_kind": self.noise_kind,
            "planned": self.planned,
            **({"samples": self.samples} if self.samples > 1 else {}),
            "complete": self.complete,
            "seconds": self.seconds,
            "summary": {"all": self.summary().as_dict(), **{g: self.summary(g).as_dict() for g in groups}},
            "data_sources": {name: self.summary(data_source=name).as_dict() for name in self.data_sources},
            "episodes": [_row(result) for result in self.episodes],
        }

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Cell:
        """The inverse of `record`; summaries are recomputed from the episodes."""
        names = ("agent", "engine", "noise_level", "planned", "seconds")
        return cls(
            **{name: values[name] for name in names},
            episodes=tuple(EpisodeResult(**row) for row in values["episodes"]),
            samples=values.get("samples", 1),
            noise_kind=values.get("noise_kind", str(DISTRACTOR)),
        )


@dataclass(frozen=True)
class Evaluation:
    """All measured cells, and the settings they were measured with."""

    cells: tuple[Cell, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The information needed to repeat it: seed, dataset, split, protocol, limits, versions, command."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Agent names in the order in which they were first measured."""
        return tuple(dict.fromkeys(cell.agent for cell in self.cells))

    @property
    def engines(self) -> tuple[str, ...]:
        """Engine names in the order in which they were first used."""
        return tuple(dict.fromkeys(cell.engine for cell in self.cells))

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Noise levels, ascending."""
        return tuple(sorted({cell.noise_level for cell in self.cells}))

    @property
    def noise_kinds(self) -> tuple[str, ...]:
        """Mixtures of kinds of noise, as text, in the order in which they were first used."""
        return tuple(dict.fromkeys(cell.noise_kind for cell in self.cells))

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of questions, sorted, without the empty one."""
        return tuple(sorted({group for cell in self.cells for group in cell.groups if group}))

    @property
    def data_sources(self) -> tuple[str, ...]:
        """Data sets of the questions, sorted; empty if there is only one."""
        return tuple(sorted({name for cell in self.cells for name in cell.data_sources}))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What answers that are not right came to (`OUTCOMES`), if it occurs; with truthfulness if some are wrong."""
        summaries = [cell.summary() for cell in self.cells]
        names = [name for name in OUTCOMES if any(getattr(summary, name).mean > 0 for summary in summaries)]
        return (*names, "truthfulness") if "hallucinated" in names else tuple(names)

    @property
    def samples(self) -> int:
        """Episodes per question; of cells that differ, the largest number."""
        return max((cell.samples for cell in self.cells), default=1)

    @property
    def additional_scores(self) -> tuple[str, ...]:
        """Names of the additional scores, in the order in which they were asked for."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.summary().extra))

    def find(
        self, agent: str, noise_level: float, engine: str | None = None, noise_kind: str | None = None
    ) -> Cell | None:
        """The cell of an agent at a noise level, or None. If `engine` or `noise_kind` is None, the first such cell."""
        for cell in self.cells:
            same = cell.agent == agent and cell.noise_level == noise_level
            if same and engine in (None, cell.engine) and noise_kind in (None, cell.noise_kind):
                return cell
        return None

    def difference(
        self,
        first: str,
        second: str,
        noise_level: float,
        *,
        engine: str | None = None,
        noise_kind: str | None = None,
        metric: str = "em",
        group: str | None = None,
    ) -> Interval:
        """The paired difference `first - second` of a metric, over the questions that both agents finished.

        Of several samples of a question, the mean is taken.

        Args:
            first: name of an agent.
            second: name of the agent it is compared with.
            noise_level: the level at which they are compared.
            engine: engine name; None takes the first engine that has the cell.
            noise_kind: the mixture of kinds of noise, as text; None takes the first that has the cell.
            metric: one of `METRIC_KINDS`, or an additional score; episodes in which it has no value are left out.
            group: `"1-hop"`, ...; None takes all questions.
        """
        a, b = (self.find(agent, noise_level, engine, noise_kind) for agent in (first, second))
        return _difference(a, b, metric, group)

    def kind_difference(
        self,
        agent: str,
        first: str,
        second: str,
        noise_level: float,
        *,
        engine: str | None = None,
        metric: str = "em",
        group: str | None = None,
    ) -> Interval:
        """The paired difference `first - second` of a metric between two kinds of noise, for the same agent.

        The same searches of the same episodes are noisy with both kinds, as far as the agent searches equally often.

        Args:
            agent: name of the agent.
            first: a mixture of kinds of noise, as text.
            second: the mixture that it is compared with.
            noise_level: the level at which they are compared.
            engine: see `difference`.
            metric: see `difference`.
            group: see `difference`.
        """
        a, b = (self.find(agent, noise_level, engine, kind) for kind in (first, second))
        return _difference(a, b, metric, group)

    def merged(self, cells: Iterable[Cell], **settings: Any) -> Evaluation:
        """This evaluation with `cells` added; a cell with the same key replaces the old one."""
        table = {cell.key: cell for cell in self.cells} | {cell.key: cell for cell in cells}
        return Evaluation(tuple(table.values()), {**self.settings, **settings})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the schema version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": dict(self.settings),
            "cells": [cell.record for cell in self.cells],
        }


def _difference(first: Cell | None, second: Cell | None, metric: str, group: str | None) -> Interval:
    """The paired difference of a metric, over the questions that both cells have finished."""
    if first is None or second is None:
        return EMPTY
    left, right = (_scores(cell, metric, group) for cell in (first, second))
    common = sorted(left.keys() & right.keys())
    kind = _kind(metric, max(first.samples, second.samples))
    return paired_difference([left[i] for i in common], [right[i] for i in common], kind)


def _scores(cell: Cell, metric: str, group: str | None) -> dict[int, float]:
    """The value of a metric by the question's index, of the questions that have one."""
    return _by_question(_values((r for r in cell.finished if group in (None, r.group)), metric))


def save_evaluation(evaluation: Evaluation, folder: str | os.PathLike[str]) -> Path:
    """Write `results.json` into `folder` (created if missing) by an atomic replace; returns its path."""
    path = Path(folder) / RESULTS_FILE
    write_text(path, json.dumps(evaluation.as_dict(), ensure_ascii=False))
    return path


def load_evaluation(path: str | os.PathLike[str]) -> Evaluation:
    """Read an evaluation from a `results.json` or from the folder that holds one.

    Raises:
        DataError: the file is missing, is not a results file, or has another schema version.
    """
    file = Path(path)
    file = file / RESULTS_FILE if file.is_dir() else file
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise DataError(f"{file}: no such file; expected the output folder of `zerosearch eval`") from cause
    except (UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise DataError(f"{file}: not a results file ({cause})") from cause
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{file}: expected schema version {SCHEMA_VERSION}, got {version!r}")
    try:
        return Evaluation(tuple(Cell.from_record(cell) for cell in values["cells"]), values["settings"])
    except (KeyError, TypeError, ValueError) as cause:
        raise DataError(f"{file}: a cell is incomplete ({cause!r})") from cause
