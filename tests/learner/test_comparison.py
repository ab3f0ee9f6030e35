"""All pairs of agents, with exact tests and the Holm correction."""

from __future__ import annotations

import json
import math

import pytest
from results import made_cell, made_episode

from zerosearch_agents.evaluation.analysis.comparison import Comparison, comparisons, p_value
from zerosearch_agents.evaluation.analysis.significance import holm, mcnemar, sign_flip
from zerosearch_agents.evaluation.results import Cell, Evaluation
from zerosearch_agents.evaluation.statistics import graded_mean, tango
from zerosearch_env.errors import ConfigError

LEVELS = (0.0, 0.25, 0.5, 0.75)
STRONG, WEAK = (1, 1, 1, 1, 1, 1, 0, 1), (1, 0, 0, 0, 0, 1, 1, 0)


def test_a_pair_at_one_level() -> None:
    (only,) = comparisons(Evaluation((made_cell(STRONG, agent="a"), made_cell(WEAK, agent="b"))))
    assert (only.first, only.second, only.noise_level, only.noise_kind) == ("a", "b", 0.0, "distractor")
    assert (only.first_mean, only.second_mean) == (7 / 8, 3 / 8)
    assert only.difference == tango(5, 1, 8)
    assert only.p_value == only.p_holm == mcnemar(5, 1) == 2 * (1 + 6) / 64
    assert json.loads(json.dumps(only.as_dict())) == only.as_dict()
    assert only.as_dict()["difference"]["mean"] == 0.5


def test_all_pairs_kinds_levels_and_areas_are_one_family() -> None:
    cells = [
        made_cell(WEAK if agent == "c" else STRONG, level, kind, agent=agent)
        for agent in "abc"
        for kind in ("distractor", "empty")
        for level in LEVELS
    ]
    found = comparisons(Evaluation(tuple(cells)))
    places = [(c.first, c.second, c.noise_kind, c.noise_level) for c in found]
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    levels = {"distractor": (*LEVELS, None), "empty": (0.25, 0.5, 0.75, None)}  # level 0 is compared once
    assert places == [(*pair, kind, level) for pair in pairs for kind in levels for level in levels[kind]]
    assert [c.p_holm for c in found] == holm([c.p_value for c in found])
    area = next(c for c in found if (c.second, c.noise_level) == ("c", None))
    differences = [float(a - b) for a, b in zip(STRONG, WEAK, strict=True)]
    assert area.difference == graded_mean(differences, lowest=-1.0)
    assert area.p_value == pytest.approx(sign_flip(differences))
    assert all(c.p_value == 1.0 for c in found if (c.first, c.second) == ("a", "b"))


def test_agents_that_agree_differ_by_an_interval_with_a_width() -> None:
    (only,) = comparisons(Evaluation((made_cell(WEAK, agent="a"), made_cell(WEAK, agent="b"))))
    assert (only.difference.mean, only.p_value) == (0.0, 1.0)
    assert only.difference.high - only.difference.low > 0.3


def test_chosen_agents_keep_their_order_and_names_are_checked() -> None:
    evaluation = Evaluation(tuple(made_cell(WEAK, agent=agent) for agent in "abc"))
    assert [(c.first, c.second) for c in comparisons(evaluation, agents=["c", "a"])] == [("c", "a")]
    assert comparisons(evaluation, agents=["a"]) == []
    for options, name in (
        ({"agents": ["d"]}, "agent 'd'"),
        ({"engine": "corpsu"}, "corpus"),
        ({"metric": "emm"}, "em"),
        ({"by": "hop"}, "hops"),
    ):
        with pytest.raises(ConfigError, match=name):
            comparisons(evaluation, **options)


def test_questions_that_only_one_finished_are_left_out() -> None:
    cells = made_cell({0: 1.0, 1: 1.0}, agent="a"), made_cell({1: 0.0, 2: 1.0}, agent="b")
    (only,) = comparisons(Evaluation(cells))
    assert (only.difference, only.first_mean, only.second_mean) == (tango(1, 0, 1), 1.0, 0.0)
    assert comparisons(Evaluation((cells[0], made_cell({5: 1.0}, agent="b")))) == []


def test_breakdowns_by_hops_data_source_and_relation() -> None:
    def cell(agent: str, scores: tuple[float, ...]) -> Cell:
        rows = [
            made_episode(index, em, group=f"{1 + index % 2}-hop", data_source="xy"[index // 2], relation="r")
            for index, em in enumerate(scores)
        ]
        return Cell(agent, "corpus", 0.0, 4, tuple(rows))

    evaluation = Evaluation((cell("a", (1, 1, 1, 0)), cell("b", (0, 1, 0, 0))))

    def subsets(by) -> dict[str, Comparison]:
        return {c.subset: c for c in comparisons(evaluation, by=by)}

    hops = subsets("hops")
    assert {name: c.difference for name, c in hops.items()} == {"1-hop": tango(2, 0, 2), "2-hop": tango(0, 0, 2)}
    assert [c.p_value for c in hops.values()] == [0.5, 1.0]
    assert [c.p_holm for c in hops.values()] == [1.0, 1.0]
    assert {name: c.difference for name, c in subsets("data_source").items()} == {
        "x": tango(1, 0, 2),
        "y": tango(1, 0, 2),
    }
    assert list(subsets("relation")) == ["r"]
    assert list(subsets(None)) == [""]


def test_samples_and_graded_scores_use_the_sign_flip_test() -> None:
    def cell(agent: str, scores: tuple[float, ...]) -> Cell:
        rows = [made_episode(i // 2, em, sample=i % 2) for i, em in enumerate(scores)]
        return Cell(agent, "corpus", 0.0, len(rows), tuple(rows), samples=2)

    (only,) = comparisons(Evaluation((cell("a", (1, 1, 1, 0)), cell("b", (0, 1, 0, 0)))))
    assert only.difference == graded_mean([0.5, 0.5], lowest=-1.0)
    assert only.p_value == 0.5
    assert p_value([0.3, 0.9], [0.1, 0.2], "graded") == 0.5
    assert p_value([1, 0, 1], [0, 0, 0], "binary") == 0.5


def test_a_level_that_one_agent_lacks_is_not_compared() -> None:
    full = [made_cell(STRONG, level, agent="a") for level in LEVELS]
    part = [made_cell(WEAK, level, agent="b") for level in (0.0, 0.5)]
    found = comparisons(Evaluation((*full, *part)))
    assert [c.noise_level for c in found] == [0.0, 0.5]
    assert all(math.isfinite(c.p_holm) for c in found)
