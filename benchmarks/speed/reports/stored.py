"""The report over many stored episodes: CPU time, peak memory, and sizes of what it writes.

Scripted players play the synthetic world with every kind of noise at every level, into a folder as `zerosearch eval`
writes it. `zerosearch report` then runs in a process of its own; playing is not part of what is measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import select_questions
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.base import Player
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.game.noise_kinds import KINDS, NoiseKinds, read_mixture
from zerosearch_env.game.rules import make_rules

from ...measure import make_parser, write_record

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_REPORT = """
import sys, time
from zerosearch_benchmarks.measure import memory_mb
from zerosearch_env.cli import main
if code := main(["report", sys.argv[1]]):
    sys.exit(code)
print(f"\\n{time.process_time()} {memory_mb('VmHWM')}")
"""
"""The report's process says itself what it took: Linux counts the peak of the parent as a child's own, too."""


@dataclass(frozen=True)
class ReportCost:
    """What a report costs."""

    agents: int
    kinds: int
    questions: int
    episodes: int
    """Stored transcripts."""
    transcripts_mb: float
    results_mb: float
    cpu_s: float
    wall_s: float
    peak_mb: float
    """Peak resident memory of the process."""
    page_mb: float
    files_mb: float
    """Transcripts next to the page."""


def play(folder: Path, questions: int) -> tuple[int, int]:
    """Play the episodes of a benchmark folder with five scripted players.

    Args:
        folder: where results and transcripts are written.
        questions: questions of each cell.

    Returns:
        Number of agents and of stored episodes.
    """
    world = load_dataset("world", "test", world=WorldConfig(passages=2000, questions=questions))
    mixtures = tuple(map(read_mixture, KINDS))
    engine = add_noise_kinds(make_engine("corpus", dataset=world), NoiseKinds(mixtures), world.questions)
    items = select_questions(world.questions, questions)
    players: list[Player] = [OraclePlayer(name="oracle")]
    players += [RandomPlayer(name=f"random {seed}", seed=seed) for seed in range(4)]
    store = Store(folder, {"seed": 0, "dataset": "world", "split": "test"})
    for player in players:
        evaluate(player, items, engine, make_rules(), LEVELS, noise_kinds=mixtures, engine_name="corpus", store=store)
    return len(players), len(players) * len(items) * (1 + len(mixtures) * (len(LEVELS) - 1))


def measure_report(folder: Path, agents: int, episodes: int, questions: int) -> ReportCost:
    """Run `zerosearch report` on a folder in a process of its own.

    Raises:
        CalledProcessError: the command fails.
    """
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", _REPORT, str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    wall = time.perf_counter() - started
    cpu, peak = map(float, process.stdout.splitlines()[-1].split())
    return ReportCost(
        agents=agents,
        kinds=len(KINDS),
        questions=questions,
        episodes=episodes,
        transcripts_mb=_megabytes(folder / "transcripts"),
        results_mb=_megabytes(folder / "results.json"),
        cpu_s=cpu,
        wall_s=wall,
        peak_mb=peak,
        page_mb=_megabytes(folder / "report.html"),
        files_mb=_megabytes(folder / "report_files"),
    )


def _megabytes(path: Path) -> float:
    """Size of a file, or of the files in a folder; 0 if it is missing."""
    files = path.iterdir() if path.is_dir() else [path] if path.exists() else []
    return sum(file.stat().st_size for file in files) / 1e6


def main(argv: list[str] | None = None) -> int:
    """Play, measure, print, and write a JSON record."""
    parser = make_parser("report", __doc__)
    parser.add_argument("--questions", type=int, default=445, help="questions of each cell (445: 100,125 episodes)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agents, episodes = play(folder, arguments.questions)
        cost = measure_report(folder, agents, episodes, arguments.questions)
    print(
        f"{cost.episodes:,} episodes, {cost.transcripts_mb:.0f} MB of transcripts, {cost.results_mb:.0f} MB of results"
    )
    print(f"report: {cost.cpu_s:.1f} CPU s ({cost.wall_s:.1f} s), peak {cost.peak_mb:.0f} MB")
    print(f"page {cost.page_mb:.1f} MB, transcripts next to it {cost.files_mb:.0f} MB")
    write_record(arguments.output, ["jinja2", "numpy"], report=cost)
    return 0
