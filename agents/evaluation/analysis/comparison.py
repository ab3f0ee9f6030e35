"""Every agent against every other, on the same questions and the same noise draws.

Each comparison has the paired difference with its 95 % interval, the p-value of an exact test, and the p-value that is
corrected for all comparisons of the list. The intervals are not corrected: they say how large a difference may be, the
corrected p-values which differences to believe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zerosearch_env.errors import ConfigError, unknown_name
from zerosearch_env.game.noise_kinds import DISTRACTOR

from ..episodes import METRIC_KINDS, metric_kind
from ..results import Cell, Evaluation
from ..statistics import Interval, Kind, paired_difference
from .robustness import area_kind, area_scores, levels_of
from .significance import holm, mcnemar, sign_flip

Breakdown = Literal["hops", "data_source", "relation"]
"""What questions are told apart by: their group, their data set, or what they ask for."""


@dataclass(frozen=True)
class Comparison:
    """The first agent minus the second, on the questions that both finished."""

    first: str
    second: str
    engine: str
    noise_kind: str
    """The mixture of kinds of noise, as text. Level 0 is the same for all kinds and has `"distractor"`."""
    noise_level: float | None
    """None: the area under the curve (`area_scores`)."""
    metric: str
    by: Breakdown | None
    """What the questions are told apart by; None: all questions."""
    subset: str
    """The hops, data set or relation of the questions; "" if they are not told apart."""
    first_mean: float
    """Mean score of the first agent over the questions that both finished."""
    second_mean: float
    difference: Interval
    """The mean of `first - second`, paired, not corrected."""
    p_value: float
    """Two-sided: exact McNemar for scores of 0 and 1, else a sign-flip test; see `significance.py`."""
    p_holm: float = math.nan
    """`p_value`, corrected for all comparisons of the list (Holm, 1979)."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("first", "second", "engine", "noise_kind", "noise_level", "metric", "by", "subset")
        figures = ("first_mean", "second_mean", "p_value", "p_holm")
        return {
            **{name: getattr(self, name) for name in (*names, *figures)},
            "difference": self.difference.as_dict(),
        }


def comparisons(
    evaluation: Evaluation,
    metric: str = "em",
    agents: Sequence[str] | None = None,
    *,
    engine: str | None = None,
    by: Breakdown | None = None,
) -> list[Comparison]:
    """Compare all pairs of agents, on each engine, with each kind of noise, at each level and in the area.

    The list is the family of the Holm correction. So a list by relation corrects for many more comparisons than one
    over all questions.

    Args:
        evaluation: the results; `join` brings those of several folders together.
        metric: one of `METRIC_KINDS`, or an additional score.
        agents: the agents to compare, in this order; None takes all.
        engine: an engine's name; None takes all engines.
        by: compare within each group of questions: by `"hops"`, `"data_source"` or `"relation"`. None: all questions
            together.

    Returns:
        The comparisons, those of a pair together; without those that have no common question.

    Raises:
        ConfigError: an agent, the engine or the metric is unknown.
    """
    known = evaluation.agents
    chosen = list(dict.fromkeys(known if agents is None else agents))
    for agent in chosen:
        if agent not in known:
            raise unknown_name("agent", agent, known)
    if engine is not None and engine not in evaluation.engines:
        raise unknown_name("engine", engine, evaluation.engines)
    if metric not in METRIC_KINDS and metric not in evaluation.additional_scores:
        raise unknown_name("metric", metric, [*METRIC_KINDS, *evaluation.additional_scores])
    if by not in (None, "hops", "data_source", "relation"):
        raise ConfigError(f"by: expected hops, data_source or relation, got {by!r}")
    engines = [name for name in evaluation.engines if engine in (None, name)]
    made = [
        comparison
        for pair in itertools.combinations(chosen, 2)
        for name in engines
        for comparison in _compare(evaluation, *pair, name, metric, by)
    ]
    adjusted = holm([comparison.p_value for comparison in made])
    return [replace(comparison, p_holm=p) for comparison, p in zip(made, adjusted, strict=True)]


def _compare(
    evaluation: Evaluation, first: str, second: str, engine: str, metric: str, by: Breakdown | None
) -> Iterator[Comparison]:
    kinds = evaluation.noise_kinds
    for place, noise_kind in enumerate(kinds):
        sides = [levels_of(evaluation, agent, engine, noise_kind) for agent in (first, second)]
        common = [level for level in sides[0] if level in sides[1]]
        # Level 0 is compared once. Of several kinds only the first has it.
        levels: list[float | None] = [level for level in common if level or not place]
        levels += [None] if any(common) else []
        subsets = _subsets(sides[0].values(), by)
        for level, (subset, selection) in itertools.product(levels, subsets.items()):
            made = _comparison(sides, level, metric, selection)
            if made is not None:
                kind = str(DISTRACTOR) if level == 0 else noise_kind
                yield Comparison(first, second, engine, kind, level, metric, by, subset, *made)


def _subsets(cells: Iterable[Cell], by: Breakdown | None) -> dict[str, dict[str, str]]:
    """The subsets of the questions by name, each with its arguments for `Cell.scores`."""
    if by is None:
        return {"": {}}
    argument = "group" if by == "hops" else by
    names = {getattr(result, argument) for cell in cells for result in cell.episodes}
    return {name: {argument: name} for name in sorted(names) if name}


def _comparison(
    sides: Sequence[Mapping[float, Cell]], level: float | None, metric: str, subset: Mapping[str, str]
) -> tuple[float, float, Interval, float] | None:
    """Both means, their difference and its p-value; None without a common question."""
    samples = max(cell.samples for side in sides for cell in side.values())
    kind = metric_kind(metric, samples)
    if level is None:
        kind = area_kind(kind)
        left, right = (area_scores(side, metric, **subset) for side in sides)
    else:
        left, right = (side[level].scores(metric, **subset) for side in sides)
    common = sorted(left.keys() & right.keys())
    if not common:
        return None
    first, second = [left[index] for index in common], [right[index] for index in common]
    means = (sum(first) / len(common), sum(second) / len(common))
    return (*means, paired_difference(first, second, kind), p_value(first, second, kind))


def p_value(first: Sequence[float], second: Sequence[float], kind: Kind) -> float:
    """The two-sided p-value that two agents score equally well: McNemar's for binary scores, else the sign-flip test.

    Args:
        first: one score per question, shape `(n,)`.
        second: the other agent's scores on the same questions in the same order.
        kind: what the scores are.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if kind == "binary":
        return mcnemar(sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    return sign_flip(differences)
