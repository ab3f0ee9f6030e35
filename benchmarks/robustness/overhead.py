"""What the robustness benchmark itself costs per episode: everything but the agent.

An agent that searches twice and then answers takes no time worth mentioning, so the CPU time of a run is that of the
benchmark: noise, searches over the 6,000 passages of the world, rules, scores, transcripts, results, tables and page.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerosearch_agents.evaluation.results import load_evaluation

from ..measure import Case, make_parser, measure, print_timings, write_record
from .bench import main as play

SHARE = 0.05
"""The largest share of a run that the benchmark may take."""


def agent(observation: str, info: Mapping[str, Any]) -> str:
    """Search twice for the question, then abstain."""
    return "<answer>unknown</answer>" if info["turn"] == 2 else f"<search>{info['question']}</search>"


def run(definition: str) -> int:
    """Play a definition in a temporary folder; returns the number of episodes that were played."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--agent", f"{__name__}:agent", "--definition", definition, "--output", folder]
        with contextlib.redirect_stdout(io.StringIO()):
            status = play(options)
        assert status == 0
        cells = load_evaluation(Path(folder)).cells
        return sum(len(cell.episodes) for cell in cells if cell.spent)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the CPU time per episode, and how long an agent must take for the benchmark to be cheap."""
    parser = make_parser("robustness-overhead", __doc__, rounds=5)
    parser.add_argument("--definition", default="v1-small", help="definition to play (v1-small)")
    arguments = parser.parse_args(argv)
    definition = arguments.definition
    timings = measure([Case(definition, lambda: run(definition))], rounds=arguments.rounds, seconds=0.0)
    print_timings(timings, "episode")
    cpu_ms = timings[definition].median / 1e3
    enough_ms = cpu_ms * (1 - SHARE) / SHARE
    print(f"{cpu_ms:.2f} ms per episode: {SHARE:.0%} of a run with an agent that takes {enough_ms:.0f} ms per episode")
    write_record(arguments.output, ("numpy",), timings=timings, cpu_ms=cpu_ms, share=SHARE, agent_ms=enough_ms)
    return 0
