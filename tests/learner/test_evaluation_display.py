"""What an evaluation prints in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console
from tiny import tiny_dataset

from zerosearch_agents.evaluation.display import print_evaluation
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import Evaluation
from zerosearch_agents.players.builtin.scripted import RandomPlayer
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
