"""What an evaluation prints in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console
from tiny import tiny_dataset

from zerosearch_agents.evaluation.analysis.robustness import curves
from zerosearch_agents.evaluation.display import percent, print_curves, print_evaluation
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.progress import EvaluationDisplay
from zerosearch_agents.evaluation.results import Evaluation
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_env import add_noise_kinds
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.game.rules import make_rules

DATA = tiny_dataset()


def test_names_are_whole_in_a_terminal_of_80_columns() -> None:
    engine, rules, levels = CorpusEngine(DATA.passages), make_rules(max_turns=4, top_k=2), (0.0, 0.25, 0.5, 0.75, 1.0)
    played = evaluate(RandomPlayer(), DATA.questions[:2], engine, rules, levels).cells
    cells = [
        replace(cell, agent=name, engine=engine_name)
        for name in ("baseline:random", "my_agent.py:agent")
        for engine_name in ("corpus:passages.jsonl", "simulated:tiny")
        for cell in played
    ]
    output = io.StringIO()
    print_evaluation(Evaluation(tuple(cells)), Console(width=80, file=output))
    lines = output.getvalue().splitlines()
    behaviour = [line.split() for line in lines[next(i for i, line in enumerate(lines) if "subEM" in line) :]]
    assert ["my_agent.py:agent,"] in [words[:1] for words in behaviour]
    assert ["baseline:random,"] in [words[:1] for words in behaviour]
    assert max(map(len, lines)) <= 80


def test_progress_counts_episodes_that_are_played_and_the_time_of_this_run() -> None:
    engine, rules, output = CorpusEngine(DATA.passages), make_rules(max_turns=4, top_k=2), io.StringIO()
    kinds = ("distractor", "outage")
    search = add_noise_kinds(engine, kinds, DATA.questions)
    cells = evaluate(RandomPlayer(), DATA.questions, search, rules, (0.0, 0.5), noise_kinds=kinds).cells
    keys = [cell.key for cell in cells]
    counted = {key for key in keys if key.noise_level or key.noise_kind == "distractor"}
    display = EvaluationDisplay(Console(file=output, width=200), 24, counted=counted, spent=lambda: "0.42 of 5 money")
    with display:
        display.on_cell(cells[0], True)  # from an earlier run
        display.on_progress(keys[1], 6, 0.5)  # five of them, too
        shown = (display._count(), display._first, display._all_figures())
        display.on_progress(keys[1], 8, 0.5)
        for cell in cells[1:]:  # the third is a copy of the first
            display.on_cell(cell, False)
        assert display._count() == "24/24"
    assert shown == ("14/24", 13, f"{keys[1]}: EM 50 %  0 turns, 0.42 of 5 money")
    assert output.getvalue().count("from an earlier run") == 1


def test_curves_are_summed_up_in_80_columns() -> None:
    engine, rules, output = CorpusEngine(DATA.passages), make_rules(max_turns=4, top_k=2), io.StringIO()
    search = add_noise_kinds(engine, ["counterfactual"], DATA.questions)
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    played = evaluate(OraclePlayer(), DATA.questions, search, rules, levels, noise_kinds=["counterfactual"])
    (curve,) = curves(played)
    print_curves(played, Console(width=80, file=output))
    lines = output.getvalue().splitlines()
    row = next(line for line in lines if line.strip().startswith("counterfactual"))
    assert row.split()[1:] == f"{percent(curve.area)} {percent(curve.kept)} {curve.half_lost_at:.2f} 100.0".split()
    assert max(map(len, lines)) <= 110  # the title is one line
    few, output = evaluate(OraclePlayer(), DATA.questions, search, rules, (0.0,)), io.StringIO()
    print_curves(few, Console(width=80, file=output))
    assert output.getvalue() == ""
