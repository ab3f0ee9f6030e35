"""Robustness curves: area, share kept, the level at which half is lost, p = 1 apart."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import made_cell, made_episode

from zerosearch_agents.evaluation.analysis.robustness import area_scores, curves, half_lost, levels_of, share_kept
from zerosearch_agents.evaluation.results import Cell, Evaluation
from zerosearch_agents.evaluation.statistics import EMPTY, graded_mean, tango, wilson

LEVELS = (0.0, 0.25, 0.5, 0.75)


def at(*means: tuple[float, ...], kind: str = "distractor", levels: tuple[float, ...] = LEVELS, **values) -> list[Cell]:
    return [made_cell(scores, level, kind, **values) for level, scores in zip(levels, means, strict=True)]


def test_the_area_is_the_mean_over_four_levels_per_question() -> None:
    cells = at((1, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1))
    (curve,) = curves(Evaluation(tuple(cells)))
    assert area_scores({cell.noise_level: cell for cell in cells}) == {0: 0.75, 1: 0.5, 2: 0.25}
    assert curve.area == graded_mean([0.75, 0.5, 0.25])
    assert list(curve.points) == list(LEVELS)
    assert curve.points[0.5] == wilson(1, 3)
    assert (curve.agent, curve.engine, curve.noise_kind, curve.metric) == ("a", "corpus", "distractor", "em")


def test_a_missing_level_leaves_no_area_and_an_unfinished_question_is_left_out_of_it() -> None:
    cells = at((1, 1), (1, 1), (1, 0), (0, 0))
    (curve,) = curves(Evaluation(tuple(cells[:3])))
    assert curve.area is EMPTY
    assert curve.kept.mean == 0.5
    failed = made_episode(1, 1.0, stop_reason="engine_error")
    cells[1] = Cell("a", "corpus", 0.25, 2, (made_episode(0, 1.0), failed))
    assert area_scores({cell.noise_level: cell for cell in cells}) == {0: 0.75}


def test_level_one_is_no_part_of_the_area_and_has_figures_of_its_own() -> None:
    cells = at((1, 1), (1, 1), (1, 1), (1, 1))
    rows = (
        made_episode(0, 0.0, prediction="unknown", abstained=1.0, hallucinated=0.0),
        made_episode(1, 0.0, abstained=0.0, hallucinated=1.0),
    )
    (curve,) = curves(Evaluation((*cells, Cell("a", "corpus", 1.0, 2, rows))))
    assert curve.area == graded_mean([1.0, 1.0])
    assert curve.abstained == wilson(1, 2)
    assert curve.truthfulness == graded_mean([0.0, -1.0], lowest=-1.0)
    assert curve.half_lost_at == pytest.approx(0.875)
    (without,) = curves(Evaluation(tuple(cells)))
    assert without.abstained is without.truthfulness is EMPTY


def test_each_kind_has_a_curve_from_the_level_that_all_share() -> None:
    clean = made_cell((1, 1), 0.0)
    noisy = [*at((1, 0), levels=(0.5,)), *at((0, 0), kind="empty", levels=(0.5,))]
    other = [made_cell((0, 1), level, agent="b") for level in (0.0, 0.5)]
    evaluation = Evaluation((clean, *noisy, *other))
    found = curves(evaluation)
    assert [(curve.agent, curve.noise_kind) for curve in found] == [
        ("a", "distractor"),
        ("a", "empty"),
        ("b", "distractor"),
    ]
    assert [curve.kept.mean for curve in found] == [0.5, 0.0, 1.0]
    assert levels_of(evaluation, "a", "corpus", "empty")[0.0] is clean
    assert curves(evaluation, engine="web") == []
    (lonely,) = curves(Evaluation((clean,)))
    assert (list(lonely.points), lonely.kept, lonely.half_lost_at) == ([0.0], EMPTY, None)


def test_groups_and_other_metrics() -> None:
    rows = [
        Cell(
            "a",
            "corpus",
            level,
            2,
            (
                made_episode(0, 1.0, group="1-hop", recall=recall, extra={"research_f1": 0.5}),
                made_episode(1, 0.0, group="2-hop", recall=recall),
            ),
        )
        for level, recall in zip(LEVELS, (1.0, 0.75, 0.5, 0.25), strict=True)
    ]
    evaluation = Evaluation(tuple(rows))
    assert curves(evaluation, group="1-hop")[0].area == graded_mean([1.0])
    assert curves(evaluation, group="2-hop")[0].half_lost_at is None  # nothing to lose
    recall = curves(evaluation, metric="recall")[0]
    assert (recall.area.mean, recall.kept.mean, recall.half_lost_at) == (0.625, 0.5, 0.5)
    assert curves(evaluation, metric="research_f1")[0].points[0.0] == graded_mean([0.5])
    values = recall.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["points"][1]["noise_level"] == 0.25


@pytest.mark.parametrize(
    ("means", "level"),
    [
        ({0.0: 0.8, 0.5: 0.6, 1.0: 0.2}, 0.75),  # 0.4 is half way from 0.6 to 0.2
        ({0.0: 0.8, 0.25: 0.4, 1.0: 0.0}, 0.25),
        ({0.0: 0.8, 0.5: 0.2, 0.75: 0.6}, 1 / 3),  # the first time counts
        ({0.0: 0.8, 0.5: 0.41}, None),
        ({0.0: 0.0, 0.5: 0.0}, None),
        ({0.25: 0.8, 0.5: 0.0}, None),
        ({0.0: 0.8}, None),
    ],
)
def test_the_level_at_which_half_is_lost(means: dict[float, float], level: float | None) -> None:
    assert half_lost(means) == (None if level is None else pytest.approx(level))


def test_the_share_kept_is_a_ratio_of_means_with_a_paired_bootstrap() -> None:
    clean, noisy = [1.0] * 80 + [0.0] * 20, [1.0] * 40 + [0.0] * 60
    kept = share_kept(clean, noisy)
    assert kept.mean == 0.5
    assert kept.n == 100
    # delta method: the variance of the ratio of paired means is mean((y - r x)^2) / (n mean(x)^2)
    spread = np.asarray(noisy) - 0.5 * np.asarray(clean)
    half = 1.96 * math.sqrt(float((spread**2).mean()) / 100) / 0.8
    assert (kept.low, kept.high) == (pytest.approx(0.5 - half, abs=0.02), pytest.approx(0.5 + half, abs=0.02))
    assert kept == share_kept(clean, noisy)
    assert kept != share_kept(clean, noisy, seed=1)


def test_the_share_kept_never_has_zero_width() -> None:
    clean = [1.0] * 30 + [0.0] * 10
    same = share_kept(clean, clean)
    bounds = tango(0, 0, 40)
    assert same.mean == 1.0
    assert (same.low, same.high) == (pytest.approx(1 + bounds.low / 0.75), pytest.approx(1 + bounds.high / 0.75))
    lost = share_kept(clean, [0.0] * 40)
    bounds = tango(0, 30, 40)
    assert (lost.mean, lost.low) == (0.0, 0.0)
    assert lost.high == pytest.approx(1 + bounds.high / 0.75)
    assert share_kept([], []) is EMPTY
    assert share_kept([0.0, 0.0], [1.0, 0.0]) is EMPTY
    with pytest.raises(ValueError, match="same questions"):
        share_kept([1.0], [1.0, 0.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_interval_of_the_share_holds_it_and_has_a_width(pairs: list[tuple[bool, bool]]) -> None:
    kept = share_kept([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    if kept.n:
        assert 0 <= kept.low <= kept.mean <= kept.high
        assert kept.low < kept.high
    else:
        assert not any(a for a, _ in pairs)
