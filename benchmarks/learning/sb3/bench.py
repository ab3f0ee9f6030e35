"""Agents of Stable-Baselines3 on "ZeroSearchMenu-v0": trained with noise, tested on another world at every noise level.

Every algorithm is trained on the train split with the same noise and number of steps, for every seed; no run is left
out. The trained agents play in `zerosearch_agents.evaluation` like any agent, on the same questions and noise draws. A
run that has finished is read from its file, so an interrupted benchmark continues where it was.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import require

from ...measure import make_parser, one_thread, write_record
from .ceiling import first_candidate, measure_ceiling

if TYPE_CHECKING:
    from zerosearch_agents.players.base import Player
    from zerosearch_env.engines import SearchEngine
    from zerosearch_env.types import Dataset

LIBRARIES = ("stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")
NOISE = 0.6
"""Noise level of the training."""
LEVELS = (0.0, 0.5, 0.75, 1.0)
"""Noise levels of the test."""
MOST_CPU_S = 300.0
"""CPU seconds after which a training ends, whatever steps are left."""
CANDIDATES = 4
FIRST = "first candidate of one search"


@dataclass(frozen=True)
class Algorithm:
    """An algorithm with the settings that differ from the library's defaults."""

    name: str
    library: str
    num_envs: int
    settings: Mapping[str, Any] = field(default_factory=dict)


_PPO = {"n_steps": 128, "batch_size": 512, "learning_rate": 1e-3, "ent_coef": 0.02}
ALGORITHMS = (
    Algorithm("MaskablePPO", "sb3_contrib", 32, _PPO),
    Algorithm("PPO", "stable_baselines3", 32, _PPO),
    Algorithm("A2C", "stable_baselines3", 32, {"ent_coef": 0.02}),
    Algorithm(
        "DQN",
        "stable_baselines3",
        16,
        {
            "learning_rate": 1e-3,
            "buffer_size": 50_000,
            "learning_starts": 2_000,
            "train_freq": 4,
            "gradient_steps": 16,
            "batch_size": 128,
            "target_update_interval": 2_000,
            "exploration_fraction": 0.4,
        },
    ),
)


@dataclass(frozen=True)
class Test:
    """What the trained agents are tested on."""

    dataset: Dataset
    engine: SearchEngine
    questions: int
    """Questions per number of hops."""


def make_test(questions: int, world: Mapping[str, Any]) -> Test:
    """The test split of a world, with its engine."""
    from zerosearch_env.datasets import load_dataset
    from zerosearch_env.datasets.world.make import WorldConfig
    from zerosearch_env.engines import make_engine

    data = load_dataset("world", "test", world=WorldConfig(**world))
    return Test(data, make_engine("corpus", dataset=data), questions)


def play_test(player: Player, test: Test) -> list[dict[str, Any]]:
    """Let an agent play the test.

    Returns:
        One row per noise level and number of hops: EM with its 95 % interval, and searches per question.
    """
    from zerosearch_agents.evaluation.evaluate import evaluate
    from zerosearch_agents.evaluation.items import select_questions
    from zerosearch_env.game.rules import make_rules

    items = select_questions(test.dataset.questions, test.questions, per_hop=True)
    rows = []
    for cell in evaluate(player, items, test.engine, make_rules(), LEVELS).cells:
        for group in cell.groups:
            summary = cell.summary(group)
            row = {"noise": cell.noise_level, "group": group}
            rows.append(row | {name: getattr(summary, name).as_dict() for name in ("em", "searches")})
    return rows


def train(algorithm: Algorithm, seed: int, steps: int, world: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Train one agent and save it.

    Returns:
        Steps, CPU seconds, and the mean reward of the last 100 episodes.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    from zerosearch_env.integrations.sb3 import make_vec_env

    class Limit(BaseCallback):
        """Ends the training after some CPU seconds."""

        def _on_step(self) -> bool:
            return time.process_time() - began < MOST_CPU_S

    with one_thread():
        began = time.process_time()
        env = make_vec_env(algorithm.num_envs, noise_level=NOISE, candidates=CANDIDATES, world=dict(world))
        kind = getattr(require(algorithm.library), algorithm.name)
        model = kind("MlpPolicy", env, seed=seed, device="cpu", **algorithm.settings)
        model.learn(steps, callback=Limit())
        spent = time.process_time() - began
        rewards = [float(episode["r"]) for episode in model.ep_info_buffer]
        file.parent.mkdir(parents=True, exist_ok=True)
        model.save(file)
        env.close()
    return {
        "steps": int(model.num_timesteps),
        "cpu_seconds": round(spent, 1),
        "last_reward": round(statistics.mean(rewards), 3) if rewards else None,
    }


def run_one(
    algorithm: Algorithm, seed: int, steps: int, world: Mapping[str, Any], test: Test, folder: Path
) -> dict[str, Any]:
    """Train and test one agent; a run that an earlier call has finished in the same way is read from its file."""
    from zerosearch_agents.players.menu import load_menu_player

    settings = json.loads(json.dumps(asdict(algorithm)))
    same = {"seed": seed, "planned_steps": steps, "world": dict(world), "questions": test.questions, **settings}
    file = folder / f"{algorithm.name}-{seed}.zip"
    record = file.with_suffix(".json")
    if record.is_file():
        row: dict[str, Any] = json.loads(record.read_text("utf-8"))
        if {key: row.get(key) for key in same} == same:
            return row
    trained = train(algorithm, seed, steps, world, file)
    row = {**same, **trained, "cells": play_test(load_menu_player(str(file)), test)}
    record.write_text(json.dumps(row) + "\n", "utf-8")
    return row


def markdown(record: Mapping[str, Any]) -> str:
    """One table per number of hops: agents by noise levels, with every seed's EM in % and their mean."""
    rows = record["runs"]
    steps = max((row["planned_steps"] for row in rows), default=0)
    lines = [
        f"Trained on the train split of the built-in world at noise {NOISE:g}, {steps:,} steps, at most "
        f"{MOST_CPU_S / 60:g} CPU minutes; tested on {record['questions']} questions per number of hops of the test "
        "split. Each cell: EM in % of every seed, in bold the mean, and in brackets the mean number of searches.",
    ]
    agents: dict[str, list[list[dict[str, Any]]]] = {FIRST: [record["first_candidate"]]}
    for row in rows:
        agents.setdefault(row["name"], []).append(row["cells"])
    for group in sorted({cell["group"] for cell in record["first_candidate"]}):
        lines += ["", f"| {group} | " + " | ".join(f"noise {level:g}" for level in LEVELS) + " |"]
        lines.append("|---" * (len(LEVELS) + 1) + "|")
        for agent, seeds in agents.items():
            figures = [_figure(seeds, group, level) for level in LEVELS]
            lines.append(f"| {agent} | " + " | ".join(figures) + " |")
    lines += ["", "| the answer is on the menu, noise 0 | questions | on the menu, % | EM of a rule by hand, % |"]
    lines.append("|---|---|---|---|")
    for name, groups in record["ceilings"].items():
        for group, ceiling in groups.items():
            on_menu, em = 100 * ceiling["on_menu"], 100 * ceiling["em"]
            lines.append(f"| {name}, {group} | {ceiling['questions']} | {on_menu:.1f} | {em:.1f} |")
    lines += ["", "| training | steps | CPU seconds |", "|---|---|---|"]
    for agent in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == agent]
        each = " | ".join(" ".join(f"{row[key]:,.0f}" for row in own) for key in ("steps", "cpu_seconds"))
        lines.append(f"| {agent} | {each} |")
    return "\n".join(lines) + "\n"


def _figure(seeds: Sequence[Sequence[Mapping[str, Any]]], group: str, level: float) -> str:
    cells = [cell for rows in seeds for cell in rows if (cell["group"], cell["noise"]) == (group, level)]
    values = [100 * cell["em"]["mean"] for cell in cells]
    searches = statistics.mean(cell["searches"]["mean"] for cell in cells)
    each = " ".join(f"{value:.0f}" for value in values) + ", " if len(values) > 1 else ""
    return f"{each}**{statistics.mean(values):.1f}** ({searches:.1f})"


def ceilings(test: Test, data: Path | None) -> dict[str, Any]:
    """The menu's ceiling on the test world, and on questions over Wikipedia if their folder is given."""
    from zerosearch_agents.evaluation.items import select_questions
    from zerosearch_env.datasets import load_dataset
    from zerosearch_env.engines import make_engine
    from zerosearch_env.game.rules import make_rules

    items = select_questions(test.dataset.questions, test.questions, per_hop=True)
    found = {"world": measure_ceiling([item.question for item in items], test.engine, make_rules())}
    if data is not None:
        engine = make_engine(f"corpus:{data / 'wikipedia_passages.jsonl'}")
        for name in ("one_hop", "two_hop"):
            questions = load_dataset(str(data / f"wikiq_{name}_test.jsonl")).questions[: 2 * test.questions]
            found[f"wikiq {name.replace('_', ' ')}"] = measure_ceiling(questions, engine, make_rules())
    return {name: {group: asdict(entry) for group, entry in groups.items()} for name, groups in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Train and test every algorithm for every seed; write the record and tables after each run."""
    names = [algorithm.name for algorithm in ALGORITHMS]
    parser = make_parser("sb3", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--algorithms", nargs="+", choices=names, default=names, help="which (all)")
    parser.add_argument("--steps", type=int, default=100_000, help="training steps of each run (100000)")
    parser.add_argument("--questions", type=int, default=200, help="test questions per number of hops (200)")
    parser.add_argument("--passages", type=int, default=6000, help="passages of each world (6000)")
    parser.add_argument("--data", type=Path, help="folder of wikiq_*.jsonl, to measure the menu on them too")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/sb3"), help="folder of the runs; finished ones are reused"
    )
    arguments = parser.parse_args(argv)
    for library in ("stable_baselines3", "sb3_contrib"):
        require(library)  # before the first run
    from zerosearch_agents.players.menu import MenuPlayer

    world = {"passages": arguments.passages}
    test = make_test(arguments.questions, world)
    record: dict[str, Any] = {
        "noise": NOISE,
        "questions": arguments.questions,
        "ceilings": ceilings(test, arguments.data),
        "first_candidate": play_test(MenuPlayer(first_candidate, candidates=CANDIDATES, name=FIRST), test),
        "runs": [],
    }
    for algorithm in ALGORITHMS:
        for seed in arguments.seeds if algorithm.name in arguments.algorithms else ():
            record["runs"].append(run_one(algorithm, seed, arguments.steps, world, test, arguments.runs))
            write_record(arguments.output, LIBRARIES, **record)
            arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
    print(markdown(record))
    return 0
