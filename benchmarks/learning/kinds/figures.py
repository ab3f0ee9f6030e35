"""From the evaluations of all seeds to figures: means over seeds, with intervals over questions.

Each question has one value per seed. Their mean is the question's figure, and the intervals are over questions: they do
not hold how much another seed would differ, which is why every seed's mean is in the record, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zerosearch_agents.evaluation.episodes import METRIC_KINDS
from zerosearch_agents.evaluation.results import Cell, CellKey, Evaluation
from zerosearch_agents.evaluation.statistics import Kind, mean_interval, paired_difference
from zerosearch_env.types import StopReason

METRICS = ("em", "misled", "abstained", "hallucinated", "truthfulness", "searches")
COMPARED = (("mixture", "distractors", "em"), ("ternary", "em", "em"), ("ternary", "em", "truthfulness"))
"""Paired differences: the first policy minus the second, and the metric."""

Values = Mapping[int, Sequence[float]]
"""The value of a metric for each question, by the question's index: one per seed."""


def figures(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """One row per policy, kind of noise, level and group of questions, with every metric.

    `out_of_context` is the share of episodes that ended because the policy's context was full.
    """
    rows = []
    for key, cells in _cells(evaluations).items():
        for group in (None, *(group for group in cells[0].groups if group)):
            row: dict[str, Any] = {"policy": key.agent, "kind": key.noise_kind, "noise": key.noise_level}
            row |= {"questions": group or "all"}
            for metric in METRICS:
                values = _values(cells, metric, group)
                interval = mean_interval([statistics.mean(each) for each in values.values()], _kind(metric, len(cells)))
                seeds = [statistics.mean(each) for each in zip(*values.values(), strict=True)]
                row[metric] = interval.as_dict() | {"seeds": seeds}
            ends = [result.stop_reason for cell in cells for result in cell.finished if group in (None, result.group)]
            row["out_of_context"] = ends.count(StopReason.CONTEXT_LIMIT) / max(1, len(ends))
            rows.append(row)
    return rows


def differences(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """One row per entry of `COMPARED`, kind of noise and level, over all questions."""
    table = _cells(evaluations)
    rows = []
    for key, cells in table.items():
        for first, second, metric in COMPARED:
            other = table.get(key._replace(agent=second))
            if key.agent != first or other is None:
                continue
            pair = [_values(side, metric, None) for side in (cells, other)]
            means = [[statistics.mean(side[index]) for index in sorted(side)] for side in pair]
            interval = paired_difference(means[0], means[1], _kind(metric, len(cells)))
            row = {"first": first, "second": second, "metric": metric}
            rows.append(row | {"kind": key.noise_kind, "noise": key.noise_level} | interval.as_dict())
    return rows


def _cells(evaluations: Sequence[Evaluation]) -> dict[CellKey, list[Cell]]:
    """The cells with the same key, one per seed. Without noise all kinds are the same, and the first stands for all."""
    table: dict[CellKey, list[Cell]] = {}
    first = evaluations[0].cells[0].key.noise_kind
    for cell in _each(evaluations):
        if cell.key.noise_level or cell.key.noise_kind == first:
            table.setdefault(cell.key, []).append(cell)
    return table


def _each(evaluations: Sequence[Evaluation]) -> Iterator[Cell]:
    for evaluation in evaluations:
        yield from evaluation.cells


def _values(cells: Sequence[Cell], metric: str, group: str | None) -> Values:
    """The values of the questions that every seed has finished."""
    sides = []
    for cell in cells:
        scores = {result.index: result.score(metric) for result in cell.finished if group in (None, result.group)}
        sides.append({index: value for index, value in scores.items() if value is not None})
    common = sorted(set(sides[0]).intersection(*sides[1:]))
    return {index: [side[index] for side in sides] for index in common}


def _kind(metric: str, seeds: int) -> Kind:
    """The kind of a metric's means over seeds."""
    kind = METRIC_KINDS[metric]
    return "graded" if kind == "binary" and seeds > 1 else kind
