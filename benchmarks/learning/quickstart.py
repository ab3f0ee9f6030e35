"""What the quickstart learns: run the whole quickstart for several seeds and report every one.

Reports the exact match in % on held-out questions at every noise level, before and after training and for the
baselines, and the time of each run. No run is selected or left out: a failed run is reported as failed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..measure import make_parser, write_record

LIBRARIES = ("torch", "transformers", "numpy")


def run_seed(seed: int, folder: Path, options: list[str]) -> dict[str, Any]:
    """Run one quickstart in its own process.

    Returns:
        Seed, exit status, wall seconds, and EM and searches for every engine, group, agent and noise level, with
        95 % intervals.
    """
    output = folder / f"seed-{seed}"
    command = [sys.executable, "-m", "zerosearch_env.cli", "quickstart", "--seed", str(seed), "--output", str(output)]
    began = time.perf_counter()
    status = subprocess.run([*command, *options], check=False).returncode
    row: dict[str, Any] = {
        "seed": seed,
        "status": status,
        "seconds": round(time.perf_counter() - began, 1),
        "cells": [],
    }
    if status == 0:
        from zerosearch_agents.evaluation.results import load_evaluation

        evaluation = load_evaluation(output / "evaluation")
        for cell in evaluation.cells:
            for group in evaluation.groups:
                summary = cell.summary(group)
                case = {"agent": cell.agent, "engine": cell.engine, "noise": cell.noise_level, "group": group}
                row["cells"].append(case | {name: getattr(summary, name).as_dict() for name in ("em", "searches")})
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """Format one table per engine and group: agents by noise levels, with every seed's EM in % and the mean."""
    done = [row for row in rows if row["status"] == 0]
    seeds = ", ".join(str(row["seed"]) for row in rows)
    lines = [f"Seeds {seeds}; each cell: EM in % of every seed, and their mean.", ""]
    lines += [f"- seed {row['seed']}: exit {row['status']}, {row['seconds']:.0f} s" for row in rows]
    cells = [cell for row in done for cell in row["cells"]]
    for engine, group in dict.fromkeys((cell["engine"], cell["group"]) for cell in cells):
        here = [cell for cell in cells if cell["engine"] == engine and cell["group"] == group]
        levels = sorted({cell["noise"] for cell in here})
        lines += ["", f"| {group}, {engine} | " + " | ".join(f"noise {level:g}" for level in levels) + " |"]
        lines.append("|---" * (len(levels) + 1) + "|")
        for agent in dict.fromkeys(cell["agent"] for cell in here):
            figures = []
            for level in levels:
                values = [100 * c["em"]["mean"] for c in here if c["agent"] == agent and c["noise"] == level]
                each = " ".join(f"{value:.0f}" for value in values)
                figures.append(f"{each}, **{statistics.mean(values):.0f}**" if values else "")
            lines.append(f"| {agent} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the quickstart for every seed and write the record as JSON and Markdown."""
    parser = make_parser("learning", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"), help="folder of the runs (runs/learning)")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="after --: more options for zerosearch quickstart")
    arguments = parser.parse_args(argv)
    options = [option for option in arguments.options if option != "--"]
    rows = []
    for seed in arguments.seeds:
        rows.append(run_seed(seed, arguments.runs, options))
        write_record(arguments.output, LIBRARIES, options=options, runs=rows)
        arguments.output.with_suffix(".md").write_text(markdown(rows), "utf-8")
    print(markdown(rows))
    return 0 if all(row["status"] == 0 for row in rows) else 1
