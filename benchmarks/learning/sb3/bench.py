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
    from zerosearch_agents.evaluation.items import Item
    from zerosearch_agents.players.base import Player
    from zerosearch_env.engines import SearchEngine

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
        8,
        {
            "learning_rate": 3e-4,
            "gamma": 0.9,
            "buffer_size": 50_000,
            "learning_starts": 2_000,
            "train_freq": 4,
            "gradient_steps": 4,
            "batch_size": 128,
            "target_update_interval": 1_000,
            "exploration_fraction": 0.5,
            "exploration_final_eps": 0.1,
        },
    ),
)


@dataclass(frozen=True)
class Test:
    """Questions that the trained agents are tested on."""

    name: str
    items: Sequence[Item]
    """The chosen questions, grouped by their number of hops."""
    engine: SearchEngine


def make_tests(questions: int, world: Mapping[str, Any], data: Path | None) -> list[Test]:
    """The test split of a world, and questions over Wikipedia if there is a folder with them.

    Args:
        questions: questions per number of hops.
        world: options of the world.
        data: folder of `wikipedia_passages.jsonl` and `wikiq_*_hop_test.jsonl`.
    """
    from zerosearch_agents.evaluation.items import select_questions
    from zerosearch_env.datasets import load_dataset
    from zerosearch_env.datasets.world.make import WorldConfig
    from zerosearch_env.engines import make_engine

    other = load_dataset("world", "test", world=WorldConfig(**world))
    sources = [("test world", other.questions, make_engine("corpus", dataset=other))]
    if data is not None:
        files = [data / f"wikiq_{hops}_hop_test.jsonl" for hops in ("one", "two")]
        real = [question for file in files for question in load_dataset(str(file)).questions]
        sources.append(("Wikipedia", real, make_engine(f"corpus:{data / 'wikipedia_passages.jsonl'}")))
    return [Test(name, select_questions(asked, questions, per_hop=True), engine) for name, asked, engine in sources]


def play_test(player: Player, test: Test) -> list[dict[str, Any]]:
    """Let an agent play a test.

    Returns:
        One row per noise level and number of hops: EM with its 95 % interval, and searches per question.
    """
    from zerosearch_agents.evaluation.evaluate import evaluate
    from zerosearch_env.game.rules import make_rules

    rows = []
    for cell in evaluate(player, test.items, test.engine, make_rules(), LEVELS).cells:
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
    algorithm: Algorithm, seed: int, steps: int, world: Mapping[str, Any], tests: Sequence[Test], folder: Path
) -> dict[str, Any]:
    """Train and test one agent.

    What an earlier call has done with the same settings is read from its file: the training, and each test.
    """
    from zerosearch_agents.players.menu import load_menu_player

    settings: dict[str, Any] = json.loads(json.dumps(asdict(algorithm)))
    same = {"seed": seed, "planned_steps": steps, "world": dict(world), **settings}
    file = folder / f"{algorithm.name}-{seed}.zip"
    record = file.with_suffix(".json")
    row: dict[str, Any] = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    if {key: row.get(key) for key in same} != same:
        row = {**same, **train(algorithm, seed, steps, world, file), "tests": {}}
        record.write_text(json.dumps(row) + "\n", "utf-8")
    player = load_menu_player(str(file))
    for test in tests:
        name = f"{test.name}, {len(test.items)} questions"
        if name not in row["tests"]:
            row["tests"][name] = play_test(player, test)
            record.write_text(json.dumps(row) + "\n", "utf-8")
    return row | {"tests": {test.name: row["tests"][f"{test.name}, {len(test.items)} questions"] for test in tests}}


def markdown(record: Mapping[str, Any]) -> str:
    """One table per test and number of hops: agents by noise levels, with every seed's EM in % and their mean."""
    rows = record["runs"]
    steps = max((row["planned_steps"] for row in rows), default=0)
    lines = [
        f"Trained on the train split of the built-in world at noise {NOISE:g}, {steps:,} steps, at most "
        f"{MOST_CPU_S / 60:g} CPU minutes. Each cell: EM in % of every seed, in bold the mean, and in brackets the "
        "mean number of searches.",
    ]
    for test, first in record["first_candidate"].items():
        agents: dict[str, list[list[dict[str, Any]]]] = {FIRST: [first]}
        for row in rows:
            agents.setdefault(row["name"], []).append(row["tests"][test])
        for group in sorted({cell["group"] for cell in first}):
            ceiling = record["ceilings"][test][group]
            title = f"{test}, {group}, {ceiling['questions']} questions"
            lines += ["", f"| {title} | " + " | ".join(f"noise {level:g}" for level in LEVELS) + " |"]
            lines.append("|---" * (len(LEVELS) + 1) + "|")
            for agent, seeds in agents.items():
                figures = [_figure(seeds, group, level) for level in LEVELS]
                lines.append(f"| {agent} | " + " | ".join(figures) + " |")
    lines += ["", "| noise 0 | the right answer is on the menu, % | EM of a rule by hand, % |", "|---|---|---|"]
    for test, groups in record["ceilings"].items():
        for group, ceiling in groups.items():
            lines.append(f"| {test}, {group} | {100 * ceiling['on_menu']:.1f} | {100 * ceiling['em']:.1f} |")
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


def ceilings(test: Test) -> dict[str, Any]:
    """The menu's ceiling on a test, for each number of hops."""
    from zerosearch_env.game.rules import make_rules

    found = measure_ceiling([item.question for item in test.items], test.engine, make_rules(), candidates=CANDIDATES)
    return {group: asdict(entry) for group, entry in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Train and test every algorithm for every seed; write the record and tables after each run."""
    names = [algorithm.name for algorithm in ALGORITHMS]
    parser = make_parser("sb3", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--algorithms", nargs="+", choices=names, default=names, help="which (all)")
    parser.add_argument("--steps", type=int, default=100_000, help="training steps of each run (100000)")
    parser.add_argument("--questions", type=int, default=200, help="test questions per number of hops (200)")
    parser.add_argument("--passages", type=int, default=6000, help="passages of each world (6000)")
    parser.add_argument("--data", type=Path, help="folder of wikiq_*_hop_test.jsonl, for another test")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/sb3"), help="folder of the runs; finished ones are reused"
    )
    arguments = parser.parse_args(argv)
    for library in ("stable_baselines3", "sb3_contrib"):
        require(library)  # before the first run
    from zerosearch_agents.players.menu import MenuPlayer

    world = {"passages": arguments.passages}
    tests = make_tests(arguments.questions, world, arguments.data)
    first = MenuPlayer(first_candidate, candidates=CANDIDATES, name=FIRST)
    record: dict[str, Any] = {
        "noise": NOISE,
        "ceilings": {test.name: ceilings(test) for test in tests},
        "first_candidate": {test.name: play_test(first, test) for test in tests},
        "runs": [],
    }
    for algorithm in ALGORITHMS:
        for seed in arguments.seeds if algorithm.name in arguments.algorithms else ():
            record["runs"].append(run_one(algorithm, seed, arguments.steps, world, tests, arguments.runs))
            write_record(arguments.output, LIBRARIES, **record)
            arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
    print(markdown(record))
    return 0
