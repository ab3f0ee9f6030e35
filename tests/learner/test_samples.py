from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny import tiny_dataset

from zerosearch_agents.commands.evaluate import EvalConfig, run_evaluation
from zerosearch_agents.evaluation.display import print_evaluation
from zerosearch_agents.evaluation.episodes import EpisodeResult
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import Item
from zerosearch_agents.evaluation.results import Cell, CellKey, Evaluation, load_evaluation
from zerosearch_agents.evaluation.samples import majority, pass_at, pass_sizes
from zerosearch_agents.evaluation.statistics import graded_mean
from zerosearch_agents.evaluation.store import Store, transcript_path
from zerosearch_agents.players.base import Player, PolicyOptions
from zerosearch_agents.players.builtin.prompted import PromptedPlayer, PromptOptions
from zerosearch_agents.players.builtin.scripted import RandomPlayer
from zerosearch_agents.players.endpoint import EndpointPlayer
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.report.page import Notes, Report, render_report
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import ConstantEngine, CorpusEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.randomness import mix
from zerosearch_env.records.transcripts import read_transcripts

RULES = make_rules(max_turns=3, top_k=2)
DATA = tiny_dataset()
QUESTIONS = DATA.questions
WORLD = WorldConfig(passages=400)


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = list(itertools.combinations(right, k))
    assert pass_at(len(right), sum(right), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_has_the_values_of_the_formula() -> None:
    assert pass_at(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert pass_at(5, 1, 1) == pytest.approx(0.2)
    assert (pass_at(4, 0, 4), pass_at(4, 1, 4), pass_at(4, 4, 1)) == (0.0, 1.0, 1.0)
    assert [pass_sizes(k) for k in (2, 3, 4, 8, 10)] == [[2], [2, 3], [2, 4], [2, 4, 8], [2, 4, 8, 10]]
    for bad in ((4, 5, 1), (4, 1, 5), (4, 1, 0), (4, -1, 1)):
        with pytest.raises(ValueError, match="expected 0 <= right <= samples"):
            pass_at(*bad)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("Paris", 1.0), ("the Paris!", 1.0), ("Lyon", 0.0)], 1.0),  # one answer after normalisation
        ([("Paris", 1.0), ("Lyon", 0.0), ("lyon", 0.0)], 0.0),
        ([("Paris", 1.0), ("Lyon", 0.0)], 0.5),  # a tie
        ([("Paris", 1.0), ("Lyon", 0.0), ("Nice", 0.0), (None, 0.0)], 1 / 3),
        ([(None, 0.0), ("", 0.0), (" ", 0.0), ("Paris", 1.0)], 1.0),  # no answer, no vote
        ([(None, 0.0), (None, 0.0)], 0.0),
    ],
)
def test_majority(answers: list[tuple[str | None, float]], expected: float) -> None:
    assert majority(answers) == pytest.approx(expected)
    assert majority(reversed(answers)) == majority(answers)


def episode(index: int, sample: int, prediction: str | None, em: float, **more: object) -> EpisodeResult:
    row = EpisodeResult(index, f"q{index}", "", em, em, em, em, em, 1, 2, 0, 0, 1, "answer", prediction, sample=sample)
    return replace(row, **more)


ROWS = (
    *(episode(0, s, p, em) for s, (p, em) in enumerate([("a", 1.0), ("a", 1.0), ("b", 0.0), (None, 0.0)])),
    *(episode(1, s, p, em) for s, (p, em) in enumerate([("x", 0.0), ("x", 0.0), ("a", 1.0), ("y", 0.0)])),
    *(episode(2, s, p, 0.0) for s, p in enumerate("xyzu")),
)


def test_figures_of_a_cell_are_means_over_questions() -> None:
    cell = Cell("a", "e", 0.0, 12, ROWS, samples=4)
    summary = cell.summary()
    assert summary.em == graded_mean([0.5, 0.25, 0.0])
    assert summary.em.n == summary.searches.n == 3
    named = summary.samples.named()
    assert list(named) == ["mean@4", "pass@2", "pass@4", "majority@4"]
    assert named["mean@4"] == summary.em
    assert named["pass@2"].mean == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
    assert named["pass@4"].mean == pytest.approx(2 / 3)
    assert named["majority@4"].mean == pytest.approx(1 / 3)
    assert cell.complete
    assert Cell.from_record(json.loads(json.dumps(cell.record))) == cell
    assert cell.record["summary"]["all"]["samples"]["pass@4"]["mean"] == pytest.approx(2 / 3)


def test_a_question_with_a_failed_sample_counts_only_in_the_mean() -> None:
    failed = episode(0, 3, None, 0.0, stop_reason="engine_error")
    cell = Cell("a", "e", 0.0, 12, (*ROWS[:3], failed, *ROWS[4:]), samples=4)
    summary = cell.summary()
    assert not cell.complete
    assert summary.em == graded_mean([2 / 3, 0.25, 0.0])
    assert summary.samples.majority.n == summary.samples.passed[2].n == summary.samples.mean.n == 2
    assert summary.samples.passed[4].mean == 0.5


def test_agents_are_compared_on_the_means_of_their_samples() -> None:
    other = tuple(replace(row, em=1.0) for row in ROWS)
    both = Evaluation((Cell("a", "e", 0.0, 12, other, samples=4), Cell("b", "e", 0.0, 12, ROWS, samples=4)))
    assert both.difference("a", "b", 0.0) == graded_mean([0.5, 0.75, 1.0], lowest=-1.0)


# playing


def test_the_first_sample_is_that_of_an_evaluation_with_one() -> None:
    engine = CorpusEngine(DATA.passages)
    one = evaluate(RandomPlayer(), QUESTIONS, engine, RULES, (0.5,), seed=3).cells[0]
    four = evaluate(RandomPlayer(), QUESTIONS, engine, RULES, (0.5,), seed=3, samples=4).cells[0]
    two = evaluate(RandomPlayer(), QUESTIONS, engine, RULES, (0.5,), seed=3, samples=2).cells[0]
    assert tuple(row for row in four.episodes if row.sample == 0) == one.episodes
    assert tuple(row for row in four.episodes if row.sample < 2) == two.episodes
    assert [row.key for row in four.episodes] == [(i, s) for i in range(len(QUESTIONS)) for s in range(4)]
    assert len({row.prediction for row in four.episodes if row.index == 0}) > 1
    assert "samples" not in one.record
    assert all("sample" not in row for row in one.record["episodes"])
    assert one.summary().samples is None
    seeds = [Item(5, QUESTIONS[0], s).seed(3) for s in range(3)]
    assert seeds == [mix(3, 5), mix(3, 5, 1), mix(3, 5, 2)]
    with pytest.raises(ConfigError, match="samples"):
        evaluate(RandomPlayer(), QUESTIONS, engine, RULES, (0.5,), samples=0)


def test_a_cell_with_samples_continues_within_a_question(tmp_path: Path) -> None:
    turns: list[str] = []

    def agent(observation: str, info) -> str:
        turns.append(info["question"])
        if len(turns) == 6:
            raise KeyboardInterrupt
        return "<answer>a</answer>"

    def measure() -> Cell:
        store = Store(tmp_path, {"seed": 0, "samples": 4}, {"agent": {"its code": "1"}})
        player = CallablePlayer(agent, name="agent")
        return evaluate(player, QUESTIONS[:2], ConstantEngine(), RULES, (0.0,), samples=4, store=store).cells[0]

    with pytest.raises(KeyboardInterrupt):
        measure()
    (partial,) = load_evaluation(tmp_path).cells
    assert ([row.key for row in partial.episodes], partial.planned) == ([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)], 8)
    whole = measure()
    assert len(turns) == 6 + 3
    assert [row.key for row in whole.episodes] == [(i, s) for i in range(2) for s in range(4)]
    assert load_evaluation(tmp_path).cells == (whole,)
    assert measure() == whole
    assert len(turns) == 9
    records = list(read_transcripts(transcript_path(tmp_path, CellKey("agent", "engine", 0.0))))
    assert [record["extra"].get("sample") for record in records] == [None, 1, 2, 3, None, 1, 2, 3]


def test_the_command_shows_them_and_refuses_another_number_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = EvalConfig(
        agent=("baseline:random",), noise=(0.0,), questions=4, samples=3, output=Path("out"), workers=1, world=WORLD
    )
    (cell,) = run_evaluation(config)
    shown = capsys.readouterr().out
    assert "4 questions of world/test, 3 samples each, 1 agent" in shown
    assert "EM in %, 1-hop questions (95 % interval; mean@3; " in shown
    lines = [line.strip() for line in shown.splitlines()]
    assert {"mean@3", "pass@2", "pass@3", "majority@3"} <= set(lines)
    assert "pass@3 " in next(line for line in lines if line.startswith("baseline:random, corpus, noise 0: EM"))
    assert (cell.planned, cell.samples) == (12, 3)
    assert load_evaluation("out").settings["samples"] == 3
    for other in (1, 4):
        with pytest.raises(ConfigError, match="samples: 3 ->"):
            run_evaluation(replace(config, samples=other))


def test_tables_keep_their_form_with_one_sample(capsys: pytest.CaptureFixture[str]) -> None:
    one, four = (
        Evaluation((Cell("a", "e", 0.0, len(rows), rows, samples=n),)) for n, rows in ((1, ROWS[::4]), (4, ROWS))
    )
    print_evaluation(one, Console(width=100))
    assert "@" not in capsys.readouterr().out
    page = render_report(Report(Notes("results"), four))
    assert "pass@4, exact match" in page
    assert "the mean of 4 samples per question" in page
    assert "sample" not in render_report(Report(Notes("results"), one))


def test_greedy_players_are_known(tmp_path: Path) -> None:
    def made(**options: float) -> list[Player]:
        policy = PolicyOptions(str(tmp_path), **options)
        endpoint = EndpointPlayer("openai:http://127.0.0.1:1/v1", policy, name="endpoint")
        prompted = PromptedPlayer("direct", endpoint.backend, options=PromptOptions(**options))
        endpoint.close()
        return [PolicyPlayer(policy), endpoint, prompted]

    assert [player.greedy for player in [*made(), *made(temperature=0.7)]] == [True] * 3 + [False] * 3
    assert not RandomPlayer().greedy
