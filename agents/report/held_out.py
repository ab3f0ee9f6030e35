"""The report's section on the evaluations during training: exact match and searches on held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..evaluation.statistics import Interval, wilson
from ..runs.metrics import BEST_METRIC, best_evaluation
from .charts import Chart, Point, Series, fitted_axis, percent, share_axis

_KEYS = ("after", "rag", "direct", "random", "other1", "other2")
"""Colours and markers of the noise levels, see `charts.STYLES`."""
_EM = "held_out_em_"


@dataclass(frozen=True)
class Level:
    """A noise level of the evaluations, as it appears in the report."""

    name: str
    """The level as in the names of the metrics."""
    label: str
    key: str
    """Colour and marker, see `charts.STYLES`."""


class HeldOutSection:
    """The section's figures.

    Args:
        metrics: records of `metrics.jsonl` with at least one evaluation (`has_evaluations`).
    """

    def __init__(self, metrics: Sequence[Mapping[str, float]]) -> None:
        self._records = [record for record in metrics if BEST_METRIC in record]
        names = dict.fromkeys(name.removeprefix(_EM) for record in self._records for name in record if _EM in name)
        self.levels = [
            Level(name, "no noise" if float(name) == 0 else f"noise {name}", _KEYS[number % len(_KEYS)])
            for number, name in enumerate(sorted(names, key=float))
        ]
        self.questions = int(self._records[0].get("held_out_questions", 0))
        best = best_evaluation(self._records)
        assert best is not None
        self.best_step = int(best["step"])
        self.best_em = best[BEST_METRIC]

    def charts(self) -> list[Chart]:
        """Exact match over the steps, then searches per episode; one line per noise level."""
        steps = fitted_axis("training step", [record["step"] for record in self._records])
        em = [self._line(level, self._em_point) for level in self.levels]
        searches = [self._line(level, _searches_point) for level in self.levels]
        highs = [point.y for line in searches for point in line.points]
        return [
            Chart("Exact match on held-out questions", "% of questions", em, steps, share_axis("%")),
            Chart("Searches on held-out questions", "searches per episode, mean", searches, steps,
                  fitted_axis("searches", highs)),
        ]  # fmt: skip

    def _line(self, level: Level, point: Callable[[Mapping[str, float], str], Point]) -> Series:
        records = (record for record in self._records if f"{_EM}{level.name}" in record)
        return Series(level.label, level.key, [point(record, level.name) for record in records])

    def _em_point(self, record: Mapping[str, float], level: str) -> Point:
        em = self._em(record, level)
        return Point(record["step"], em.mean, em.low, em.high, f", n = {em.n}")

    def _em(self, record: Mapping[str, float], level: str) -> Interval:
        n = int(record.get("held_out_questions", 0))
        return wilson(min(record[f"{_EM}{level}"], 1.0) * n, n)

    def tiles(self) -> list[dict[str, str | int]]:
        """Exact match at the first and at the last evaluation, for up to four noise levels."""
        first, last = self._records[0], self._records[-1]
        shown = [level for level in self.levels if f"{_EM}{level.name}" in first and f"{_EM}{level.name}" in last]
        tiles: list[dict[str, str | int]] = []
        for level in shown[:4] if first is not last else ():
            em = self._em(last, level.name)
            tiles.append(
                {
                    "what": f"Exact match, held-out questions, {level.label}",
                    "before": percent(first[f"{_EM}{level.name}"]),
                    "after": percent(em.mean),
                    "low": percent(em.low),
                    "high": percent(em.high),
                    "unit": " %",
                    "n": em.n,
                }
            )
        return tiles


def _searches_point(record: Mapping[str, float], level: str) -> Point:
    return Point(record["step"], record[f"held_out_searches_{level}"])


def has_evaluations(metrics: Sequence[Mapping[str, float]]) -> bool:
    """Whether there was an evaluation during training."""
    return best_evaluation(metrics) is not None
