"""The benchmark of noise kinds: its stages, its figures over seeds, and its tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zerosearch_agents.evaluation.episodes import EpisodeResult
from zerosearch_agents.evaluation.results import Cell, Evaluation
from zerosearch_benchmarks.learning.kinds.figures import differences, figures
from zerosearch_benchmarks.learning.kinds.stages import SMOKE, TRAININGS, Sizes, seed_stages, shared_stages
from zerosearch_benchmarks.learning.kinds.table import NAMES, markdown
from zerosearch_env.game.noise_kinds import KINDS


def test_every_stage_is_a_command_with_a_folder_of_its_own(tmp_path):
    stages = [*shared_stages(Sizes(), tmp_path), *seed_stages(Sizes(), tmp_path, 7)]
    assert len({stage.output for stage in stages}) == len(stages)
    assert [stage.command[0] for stage in stages] == ["pretrain", "eval", *["train"] * len(TRAININGS), "eval"]
    options = {stage.name: stage.command for stage in stages if stage.command[0] == "train"}
    assert options["training of distractors"][-2:] == ("--output", str(tmp_path / "seed-7" / "train-distractors"))
    assert "ternary" in options["training of ternary"]
    assert all(command[command.index("--seed") + 1] == "7" for command in options.values())
    # All policies are tested on the same questions with the same draws.
    tests = [stage.command[stage.command.index("--noise") : -1] for stage in stages if stage.command[0] == "eval"]
    assert tests[0] == tests[1]
    assert "--seed" not in tests[0]
    assert set(KINDS) <= {word.partition(":")[0] for word in tests[0]}
    agents = {word.partition("=")[0] for stage in stages for word in stage.command if word.partition("=")[0] in NAMES}
    assert agents == set(NAMES)


def cell(agent, kind, level, right):
    """A cell of four questions, each right (1), abstained (0) or wrong (-1)."""
    rows = [
        EpisodeResult(
            index=i, question_id=f"q{i}", group=f"{1 + i % 2}-hop", em=float(score == 1), f1=0.0, subem=0.0,
            em_unicode=0.0, f1_unicode=0.0, searches=2, turns=3, invalid=0, noisy=1, draws=2, stop_reason="answer",
            misled=float(score == -1), abstained=float(score == 0), hallucinated=float(score == -1),
        )
        for i, score in enumerate(right)
    ]  # fmt: skip
    return Cell(agent, "corpus", level, len(rows), tuple(rows), noise_kind=kind)


def evaluation(scores):
    return Evaluation(tuple(cell(agent, kind, 1.0, right) for (agent, kind), right in scores.items()))


UNTRAINED = evaluation({("shipped", "empty"): [1, -1, -1, -1], ("abstaining", "empty"): [1, 0, -1, -1]})
SEEDS = [
    evaluation({("em", "empty"): [1, -1, -1, -1], ("ternary", "empty"): [1, 0, 0, 0]}),
    evaluation({("em", "empty"): [1, 1, -1, -1], ("ternary", "empty"): [1, 1, 0, 0]}),
]


def test_a_figure_is_the_mean_over_seeds_with_an_interval_over_questions():
    rows = {(row["policy"], row["questions"]): row for row in figures([UNTRAINED, *SEEDS])}
    assert rows["shipped", "all"]["em"]["seeds"] == [0.25]
    em = rows["em", "all"]["em"]
    assert (em["mean"], em["seeds"], em["n"]) == (0.375, [0.25, 0.5], 4)
    assert 0 < em["low"] < 0.375 < em["high"] < 1
    assert rows["em", "1-hop"]["em"]["mean"] == 0.5
    assert rows["ternary", "all"]["truthfulness"]["mean"] == 0.375
    assert rows["em", "all"]["truthfulness"]["mean"] == -0.25
    assert rows["em", "all"]["searches"]["mean"] == 2
    assert rows["em", "all"]["out_of_context"] == 0


def test_a_difference_is_paired_over_the_means_of_each_question():
    rows = {(row["first"], row["metric"]): row for row in differences([UNTRAINED, *SEEDS])}
    assert set(rows) == {("ternary", "em"), ("ternary", "truthfulness")}
    assert rows["ternary", "em"]["mean"] == 0
    assert rows["ternary", "truthfulness"]["mean"] == 0.625
    assert rows["ternary", "truthfulness"]["low"] < 0.625 < rows["ternary", "truthfulness"]["high"]


def test_a_question_that_one_seed_has_not_finished_is_left_out():
    whole = SEEDS[0].cells[0]
    failed = tuple(replace(row, stop_reason="engine_error") if row.index == 3 else row for row in whole.episodes)
    rows = figures([SEEDS[0], Evaluation((replace(whole, episodes=failed),))])
    assert next(row for row in rows if row["questions"] == "all")["em"]["n"] == 3


def test_without_noise_the_first_kind_stands_for_all():
    cells = [cell("shipped", kind, level, [1, 0]) for kind in ("empty", "outage") for level in (0.0, 1.0)]
    rows = {(row["kind"], row["noise"]) for row in figures([Evaluation(tuple(cells))])}
    assert rows == {("empty", 0.0), ("empty", 1.0), ("outage", 1.0)}


def test_the_table_has_every_seed_and_the_differences():
    evaluations = [UNTRAINED, *SEEDS]
    record = {"seeds": [0, 1], "figures": figures(evaluations), "differences": differences(evaluations)}
    record["runs"] = [{"seed": 0, "seconds": {"training of em": 120}}]
    text = markdown(record)
    (em,) = [line for line in text.splitlines() if line.startswith("| empty | **25**")][:1]
    assert em.startswith("| empty | **25** (")
    (outcomes,) = [line for line in text.splitlines() if " / " in line and line.startswith("| empty")]
    assert outcomes.startswith("| empty | 25 / 25 / 50 / -25 | 38 / 0 / 62 / -25 | 38 / 62 / 0 / 38 | +62 (")
    assert "| empty | **75** (" in text  # misled
    assert "| 0 | training of em 2.0 |" in text


@pytest.mark.parametrize("sizes", [Sizes(), SMOKE])
def test_both_sizes_have_noise_and_none(sizes):
    assert 0.0 in sizes.levels
    assert 1.0 in sizes.levels
