"""`zerosearch quickstart`: train a small language model to search, and measure it before and after.

    1. measure the shipped base model on questions about entities it has never seen, at five noise levels
    2. train it with reinforcement learning, using the preset `quickstart`
    3. measure the trained model, baselines on the same model, and the trained model on a larger real BM25 index
    4. write report.html

All files are written to one run directory. It took under four minutes on two cores of an AMD EPYC
(benchmarks/results/learning.json); the time varies with the processor.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.command_line import read_options
from zerosearch_env.engines import CorpusEngine, SearchEngine, make_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.locks import locked
from zerosearch_env.privacy import redact
from zerosearch_env.types import Dataset

from .config.train import TrainConfig, load_preset
from .evaluation.evaluate import NOISE_LEVELS, evaluate
from .evaluation.items import Item, select_questions
from .evaluation.store import Store
from .players.base import Player, PolicyOptions
from .players.policy import PolicyPlayer
from .policy.files import policy_path
from .processes.pool import WorkerPool, default_workers
from .report.page import Notes, write_report
from .runs.manifest import versions
from .runs.output import EVALUATION_FOLDER

if TYPE_CHECKING:
    from rich.console import Console

    from .training.trainer import TrainResult

BASELINES = ("rag", "rag-own", "direct", "random", "oracle")
LARGE_ENGINE = "bm25, train and test passages"


@dataclass(frozen=True)
class QuickstartConfig:
    """Train a small search agent on two CPU cores, measure it before and after, and write a report."""

    output: Path = Path("runs/quickstart")
    """The run directory. An earlier run in it is replaced."""
    preset: str = "quickstart"
    """Training configuration: a shipped preset, or the path of your own TOML file."""
    base: str | None = None
    """Policy directory to start from; unset: the preset's policy, which is the shipped base model."""
    steps: int | None = None
    """Number of training steps; unset: the preset's value."""
    questions: int = 100
    """Number of test questions per number of hops, noise level and agent."""
    noise: tuple[float, ...] = NOISE_LEVELS
    """Noise levels at which agents are measured, each in [0, 1]."""
    seed: int = 0
    """Random seed of training and evaluation."""
    workers: int | None = None
    """Number of processes; unset: the number of cores, at most 2."""
    smoke: bool = False
    """Run every stage at a tiny size to check that it works. The figures mean nothing."""


@dataclass
class Stopwatch:
    """Prints the name of each stage and records how long it took."""

    console: Console
    count: int
    stages: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Context manager for one stage: print its name, and record its wall-clock time at the end."""
        self.console.print(
            f"\n[{len(self.stages) + 1}/{self.count}] {what}", markup=False, highlight=False, style="bold"
        )
        began = time.perf_counter()
        yield
        self.stages.append((what, time.perf_counter() - began))
        self.console.print(f"  took {self.stages[-1][1]:.1f} s", highlight=False)


@dataclass(frozen=True)
class Bench:
    """Questions, engine, rules and result store shared by all evaluations of the quickstart."""

    items: list[Item]
    engine: SearchEngine
    rules: Rules
    levels: tuple[float, ...]
    seed: int
    store: Store
    console: Console

    def measure(self, players: list[Player], *, engine: SearchEngine | None = None, name: str = "corpus") -> None:
        """Play every question with every player at every noise level.

        Args:
            players: the players.
            engine: a different search engine, which is used without noise only; None uses the shared one.
            name: name of the engine in the results.
        """
        from .evaluation.progress import EvaluationDisplay
        from .players.identity import player_identities

        levels = self.levels if engine is None else (0.0,)
        known = self.store.evaluation.settings["agents"]
        self.store.add(agents={**known, **player_identities(players, ())})
        display = EvaluationDisplay(self.console, len(self.items) * len(players) * len(levels))
        with display:
            for player in players:
                evaluate(
                    player,
                    self.items,
                    engine or self.engine,
                    self.rules,
                    levels,
                    self.seed,
                    engine_name=name,
                    store=self.store,
                    on_progress=display.on_progress,
                    on_cell=display.on_cell,
                )


def main(argv: list[str] | None = None) -> int:
    """Parse the options and run; returns 0, or 130 if training was interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    config = read_options(QuickstartConfig, argv, "zerosearch quickstart", description=__doc__)
    return run_quickstart(config, command=redact(shlex.join(["zerosearch", "quickstart", *argv])))


def run_quickstart(config: QuickstartConfig, *, command: str = "zerosearch quickstart") -> int:
    """Measure, train, measure, report.

    Args:
        config: the options.
        command: the command line, shown in the report.

    Returns:
        0, or 130 if training was interrupted; nothing is measured after an interrupted training.

    Raises:
        ConfigError: an option is invalid; nothing has been written.
        CheckpointError: the base model cannot be loaded.
    """
    from rich.console import Console

    training = training_config(config)
    questions, levels = (4, (0.0, 0.5)) if config.smoke else (config.questions, config.noise)
    levels = tuple(check_level(level) for level in levels)
    if questions < 1:
        raise ConfigError(f"questions: expected at least 1, got {questions}")
    console = Console()
    watch = Stopwatch(console, 4)
    base = PolicyPlayer(PolicyOptions(str(policy_path(training.policy))), name="before")
    parameters = _parameters(base)
    workers = default_workers() if config.workers is None else config.workers
    console.print(
        f"A language model of {parameters / 1e6:.1f} M parameters learns to search, on {workers} CPU "
        f"{'process' if workers == 1 else 'processes'}. Everything is written to {config.output}.",
        highlight=False,
        soft_wrap=True,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(config.output))
        pool = stack.enter_context(WorkerPool(workers)) if workers > 1 else None
        if pool:
            pool.start()
        base.pool = pool
        with watch.stage("the base model, before training"):
            bench, test = _bench(config, training, questions, levels, console, stack)
            bench.measure([base])
        with watch.stage(f"training, {training.steps} steps"):
            result = _train(training)
        if result.stopped == "interrupt":
            console.print(
                f"\nstopped after step {result.step}; continue with: zerosearch train --resume {config.output}"
            )
            return 130
        with watch.stage("the trained model, and baselines built on it"):
            _measure_trained(bench, training, test, pool)
    with watch.stage("report"):
        facts = _facts(config, training, command, parameters)
        notes = Notes(
            "A small language model learns to search",
            _lead(training, result.step, parameters, questions),
            watch.stages,
            facts,
        )
        report = write_report(config.output, notes)
    _print_results(bench, config, watch, report)
    return 0


def training_config(config: QuickstartConfig) -> TrainConfig:
    """The configuration of the training run: the preset, with the quickstart's options applied."""
    training = load_preset(config.preset)
    training = replace(
        training,
        output=str(config.output),
        seed=config.seed,
        policy=config.base or training.policy,
        steps=config.steps or training.steps,
        workers=training.workers if config.workers is None else config.workers,
    )
    if not config.smoke:
        return training
    return replace(
        training,
        steps=config.steps or 2,
        data=replace(training.data, world=replace(training.data.world, passages=400, questions=100)),
        rollout=replace(training.rollout, prompts=2, group_size=2),
        optimizer=replace(training.optimizer, warmup_steps=1),
    )


def _bench(
    config: QuickstartConfig,
    training: TrainConfig,
    questions: int,
    levels: tuple[float, ...],
    console: Console,
    stack: contextlib.ExitStack,
) -> tuple[Bench, Dataset]:
    """Remove an earlier run and prepare the evaluations; also returns the test dataset."""
    from .runs.directory import remove_run

    test = _load(training, "test")
    environment = training.environment
    engine = make_engine(environment.search_engine, dataset=test)
    stack.callback(engine.close)
    remove_run(config.output, training)
    settings: dict[str, Any] = {
        "dataset": test.name,
        "split": "test",
        "seed": config.seed,
        "questions_per_hop": questions,
    }
    store = Store(config.output / EVALUATION_FOLDER, settings | {"versions": versions()})
    rules = make_rules(
        max_turns=environment.max_turns,
        top_k=environment.top_k,
        reward=environment.reward,
        noise_unit=environment.noise_unit,
    )
    items = select_questions(test.questions, questions, seed=config.seed, per_hop=True)
    return Bench(items, engine, rules, levels, config.seed, store, console), test


def _load(training: TrainConfig, split: str) -> Dataset:
    return training.data.load(training.data.dataset, split, world=training.data.world)


def _train(training: TrainConfig) -> TrainResult:
    from .training.progress import TrainProgress
    from .training.trainer import train

    with TrainProgress(training.steps, max_seconds=training.max_seconds) as progress:
        return train(training, callback=progress)


def _measure_trained(bench: Bench, training: TrainConfig, test: Dataset, pool: WorkerPool | None) -> None:
    """Measure the trained policy, every baseline that uses it, and the trained policy on a larger index."""
    from .players.make import make_player

    options = PolicyOptions(str(Path(training.output) / "policy"))
    after = PolicyPlayer(options, name="after", pool=pool)
    baselines = [make_player(f"{name}=baseline:{name}", policy=options, pool=pool) for name in BASELINES]
    bench.measure([after, *baselines])
    train_split = _load(training, training.data.split)
    if test.passages is not None and train_split.passages is not None:
        large = CorpusEngine([*test.passages, *train_split.passages])
        bench.measure([after], engine=large, name=LARGE_ENGINE)


def _parameters(player: PolicyPlayer) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in player.policy.model.parameters())


def _lead(training: TrainConfig, steps: int, parameters: int, questions: int) -> str:
    unseen = " about entities that occur in no training text" if training.data.dataset == "world" else ""
    return (
        f"A language model of {parameters / 1e6:.1f} million parameters was trained with reinforcement learning "
        f"({training.algorithm.advantage.upper()}, {steps} steps of {training.rollout.prompts} questions, "
        f"{training.rollout.group_size} episodes each) to answer questions by searching. The only reward is for an "
        f"exactly right answer. Every figure below is over {questions} test questions of each kind{unseen}, with "
        "greedy decoding."
    )


def _facts(config: QuickstartConfig, training: TrainConfig, command: str, parameters: int) -> dict[str, str]:
    base = "shipped with the package" if training.policy == "tiny" else training.policy
    return {
        "command": command,
        "seed": str(config.seed),
        "base model": f"{base}, {parameters:,} parameters",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _print_results(bench: Bench, config: QuickstartConfig, watch: Stopwatch, report: Path) -> None:
    """Print the tables, the paths of all files, and the time of each stage."""
    from .evaluation.display import em_table, percent

    evaluation, console = bench.store.evaluation, bench.console
    console.print()
    for group in evaluation.groups or (None,):
        console.print(em_table(evaluation, group, "corpus", width=console.width))
    if large := evaluation.find("after", 0.0, LARGE_ENGINE):
        figures = ", ".join(f"{group} {percent(large.summary(group).em)}" for group in evaluation.groups)
        console.print(f"after training on {LARGE_ENGINE}, no noise: EM in % {figures}", highlight=False, soft_wrap=True)
    console.print()
    for name, path in (
        ("report", report),
        ("trained policy", config.output / "policy"),
        ("configuration", config.output / "config.toml"),
        ("metrics", config.output / "metrics.jsonl"),
        ("results", config.output / EVALUATION_FOLDER / "results.json"),
        ("transcripts", config.output / EVALUATION_FOLDER / "transcripts"),
    ):
        console.print(f"{name + ':':<16}{path}", highlight=False, soft_wrap=True)
    total = sum(seconds for _, seconds in watch.stages)
    console.print(
        f"{'time:':<16}{total:.0f} s = "
        + " + ".join(f"{s:.0f} s {what.partition(',')[0]}" for what, s in watch.stages),
        highlight=False,
        soft_wrap=True,
    )
    if config.smoke:
        console.print("This was a smoke run: the figures mean nothing.", style="yellow")
