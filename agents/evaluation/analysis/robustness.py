"""The robustness curve of an agent: a score over the noise level, and the figures that sum it up.

    area            the mean score over p = 0, 0.25, 0.5 and 0.75, in equal parts
    kept            the share of the clean score that is left at p = 0.5
    half_lost_at    the smallest p at which half of the clean score is lost

At p = 1 every search is noisy, and with most kinds only abstaining is right. So that level is not part of the area; how
often the agent abstains there, and its truthfulness, are figures of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.game.noise_kinds import DISTRACTOR

from ..episodes import metric_kind
from ..results import Cell, Evaluation
from ..statistics import EMPTY, Interval, Kind, mean_interval, paired_difference

AREA_LEVELS = (0.0, 0.25, 0.5, 0.75)
KEPT_LEVEL = 0.5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """The score of an agent on one engine with one kind of noise, over the noise level."""

    agent: str
    engine: str
    noise_kind: str
    """The mixture of kinds of noise, as text."""
    metric: str
    group: str | None
    """`"1-hop"`, ...; None: all questions."""
    points: Mapping[float, Interval] = field(repr=False)
    """Noise level -> mean score, ascending."""
    area: Interval
    """See `area_scores`; `EMPTY` unless all of `AREA_LEVELS` are measured."""
    kept: Interval
    """See `share_kept`; `EMPTY` if 0 or 0.5 is not measured, or nothing is right without noise."""
    half_lost_at: float | None
    """See `half_lost`; None if half of the clean score is never lost, or 0 is not measured."""
    abstained: Interval
    """Share of the episodes with an abstention at p = 1; `EMPTY` if 1 is not measured."""
    truthfulness: Interval
    """EM minus the share of hallucinated answers at p = 1, from -1 to 1; `EMPTY` if 1 is not measured."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None, and the points are a list."""
        return {
            **{name: getattr(self, name) for name in ("agent", "engine", "noise_kind", "metric", "group")},
            "points": [{"noise_level": level, **point.as_dict()} for level, point in self.points.items()],
            "area": self.area.as_dict(),
            "kept": self.kept.as_dict(),
            "half_lost_at": self.half_lost_at,
            "at_1": {"abstained": self.abstained.as_dict(), "truthfulness": self.truthfulness.as_dict()},
        }


def curves(
    evaluation: Evaluation, engine: str | None = None, group: str | None = None, metric: str = "em"
) -> list[Curve]:
    """One curve per agent, engine and kind of noise.

    Level 0 is the same for all kinds, and a kind that has no such cell takes that of another kind.

    Args:
        evaluation: the results.
        engine: an engine's name; None takes all engines.
        group: `"1-hop"`, ...; None takes all questions.
        metric: one of `METRIC_KINDS`, or an additional score.

    Returns:
        The curves by agent, engine and kind, in the order of the evaluation; those with a level above 0 if there are
        any, since an evaluation without noise has one point per agent.
    """
    noisy = dict.fromkeys(
        (cell.agent, cell.engine, cell.noise_kind) for cell in evaluation.cells if cell.noise_level > 0
    )
    places = noisy or dict.fromkeys((cell.agent, cell.engine, str(DISTRACTOR)) for cell in evaluation.cells)
    return [
        _curve(levels_of(evaluation, agent, name, kind), agent, name, kind, metric, group)
        for agent, name, kind in places
        if engine in (None, name)
    ]


def levels_of(evaluation: Evaluation, agent: str, engine: str, noise_kind: str) -> dict[float, Cell]:
    """The cells of an agent under one kind of noise by their level, ascending; level 0 may be that of another kind."""
    cells: dict[float, Cell] = {}
    for cell in evaluation.cells:
        if (cell.agent, cell.engine) != (agent, engine):
            continue
        if cell.noise_kind == noise_kind or (cell.noise_level == 0 and 0.0 not in cells):
            cells[cell.noise_level] = cell
    return dict(sorted(cells.items()))


def _curve(
    cells: Mapping[float, Cell], agent: str, engine: str, noise_kind: str, metric: str, group: str | None
) -> Curve:
    samples = max((cell.samples for cell in cells.values()), default=1)
    kind = metric_kind(metric, samples)
    scores = {level: cell.scores(metric, group) for level, cell in cells.items()}
    points = {level: mean_interval(list(each.values()), kind) for level, each in scores.items()}
    last = cells[1.0].summary(group) if 1.0 in cells else None
    return Curve(
        agent,
        engine,
        noise_kind,
        metric,
        group,
        points,
        area=mean_interval(list(area_scores(cells, metric, group).values()), area_kind(kind)),
        kept=_kept(scores, kind),
        half_lost_at=half_lost({level: point.mean for level, point in points.items() if point.n}),
        abstained=EMPTY if last is None else last.abstained,
        truthfulness=EMPTY if last is None else last.truthfulness,
    )


def area_kind(kind: Kind) -> Kind:
    """The kind of a mean over several levels of a metric of this kind."""
    return "graded" if kind == "binary" else kind


def area_scores(
    cells: Mapping[float, Cell],
    metric: str = "em",
    group: str | None = None,
    data_source: str | None = None,
    relation: str | None = None,
) -> dict[int, float]:
    """The area under the curve for each question: its mean score over `AREA_LEVELS`, by the question's index.

    Questions that are not finished at one of these levels are left out; if a level is missing, there are none.

    Args:
        cells: the cells of an agent by their level (`levels_of`).
        metric: one of `METRIC_KINDS`, or an additional score.
        group: see `Cell.select`.
        data_source: see `Cell.select`.
        relation: see `Cell.select`.
    """
    if not cells.keys() >= set(AREA_LEVELS):
        return {}
    parts = [cells[level].scores(metric, group, data_source, relation) for level in AREA_LEVELS]
    common = set.intersection(*map(set, parts))
    return {index: sum(part[index] for part in parts) / len(parts) for index in sorted(common)}


def _kept(scores: Mapping[float, Mapping[int, float]], kind: Kind) -> Interval:
    clean, noisy = scores.get(0.0, {}), scores.get(KEPT_LEVEL, {})
    common = sorted(clean.keys() & noisy.keys())
    return share_kept([clean[index] for index in common], [noisy[index] for index in common], kind)


def share_kept(clean: Sequence[float], noisy: Sequence[float], kind: Kind = "binary", *, seed: int = 0) -> Interval:
    """The share of the clean score that is left under noise: the mean of `noisy` / the mean of `clean`.

    The interval is a percentile bootstrap over questions, which keeps the two scores of a question together (Efron,
    1979). Samples of questions that have no clean score above 0 have no ratio, and are left out. If all samples have
    the same ratio, the bootstrap has no width; the interval is then 1 + d / mean(clean) for the bounds d of the paired
    difference `noisy - clean` (`paired_difference`), and never below 0.

    Args:
        clean: one score per question without noise, shape `(n,)`.
        noisy: the scores of the same questions with noise, shape `(n,)`.
        kind: what the scores are.
        seed: random seed of the resampling.

    Returns:
        The ratio with its interval; `EMPTY` if there is no question, or the mean of `clean` is not above 0.

    Raises:
        ValueError: the lengths differ, or a score does not fit the kind.
    """
    difference = paired_difference(noisy, clean, kind)
    pairs = np.stack([np.asarray(clean, dtype=np.float64), np.asarray(noisy, dtype=np.float64)], axis=1)
    n = len(pairs)
    if n == 0 or pairs[:, 0].mean() <= 0:
        return EMPTY
    base, mean = float(pairs[:, 0].mean()), float(pairs[:, 1].mean() / pairs[:, 0].mean())
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    ratios = np.concatenate(list(_ratios(distinct, counts / n, n, rng)))
    low, high = (float(bound) for bound in np.quantile(ratios, [0.025, 0.975]))
    if math.isclose(low, high, rel_tol=0.0, abs_tol=1e-12):
        low, high = 1 + difference.low / base, 1 + difference.high / base
    return Interval(mean, max(0.0, min(mean, low)), max(mean, high), n)


def _ratios(
    distinct: NDArray[np.float64],
    shares: NDArray[np.float64],
    n: int,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.float64]]:
    """The ratio of means in each bootstrap sample, in slices that bound the memory."""
    step = max(1, 1_000_000 // len(distinct))
    for start in range(0, _RESAMPLES, step):
        # Drawing n of n pairs with replacement is a multinomial draw over the distinct pairs.
        clean, noisy = (rng.multinomial(n, shares, size=min(step, _RESAMPLES - start)) @ distinct).T
        yield noisy[clean > 0] / clean[clean > 0]


def half_lost(means: Mapping[float, float]) -> float | None:
    """The smallest noise level at which half of the clean score is lost, by linear interpolation between levels.

    Args:
        means: noise level -> mean score, ascending, with level 0.

    Returns:
        A level above 0; None if half is never lost, level 0 is missing, or the clean score is not above 0.
    """
    half = means.get(0.0, 0.0) / 2
    if half <= 0:
        return None
    points = sorted(means.items())
    for (level, score), (next_level, next_score) in pairwise(points):
        if next_score <= half:
            return level + (next_level - level) * (score - half) / (score - next_score)
    return None
