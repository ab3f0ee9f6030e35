r"""`zerosearch eval`: measures policies, third parties' agents and baselines at fixed noise levels.

    zerosearch eval --agent runs/quickstart/policy --agent baseline:rag --agent my_module:agent \
        --noise 0 0.25 0.5 0.75 1 --engine corpus --dataset world --split test --questions 300 --output runs/eval

Each agent meets the same questions and the same draws of noise. Interrupted, it goes on where it stopped when it is
started again with the same options and the same `--output`.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import make_engine
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.episode import make_rules
from zerosearch_env.game.noise import check_level
from zerosearch_env.privacy import redact

from ..players.base import Player, PolicyOptions
from ..players.make import fingerprint, make_player
from ..policy.files import policy_path
from ..processes.pool import WorkerPool, default_workers
from .evaluate import NOISE_LEVELS, Store, evaluate, forget, select_questions, versions


@dataclass(frozen=True)
class EvalConfig:
    """Measure agents at fixed noise levels: EM, F1 and subEM with 95 % intervals, searches, invalid actions."""

    agent: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Who is measured; may be repeated. A policy directory ("tiny": the shipped base model), a third party's
    module:callable, or one of
    baseline:direct, baseline:rag, baseline:rag-own, baseline:random, baseline:oracle. LABEL=... sets its name."""
    noise: tuple[float, ...] = NOISE_LEVELS
    """Probabilities that a search is noisy, each in [0, 1]."""
    engine: tuple[str, ...] = ("corpus",)
    """Search engines: specifications as `search_engine` of the environment takes them."""
    dataset: str = "world"
    """The built-in world, a data file, or a hub name."""
    split: str = "test"
    """Split of the dataset."""
    questions: int | None = 300
    """Questions to ask, chosen by the seed; "None": all. More questions with the same seed contain the fewer."""
    per_hop: bool = False
    """Take that many of each number of hops instead of that many in all."""
    output: Path = Path("runs/eval")
    """Folder for results.json and the transcripts; complete cells found there are not played again."""
    fresh: bool = False
    """Forget what an earlier run left in the output folder."""
    seed: int = 0
    """Decides the choice of questions, every draw of noise and every sampled token."""
    policy: str = "tiny"
    """Policy directory under baseline:direct, baseline:rag and baseline:rag-own; "tiny": the shipped base model."""
    protocol: str = "zerosearch"
    """Tag grammar of agents that bring none; a policy directory's card says its own."""
    max_turns: int = 5
    """Turns that may search; then one last turn may only answer."""
    top_k: int = 5
    """Documents a search."""
    noise_unit: Literal["search", "document"] = "search"
    """What one draw of the noise decides."""
    temperature: float = 0.0
    """Sampling temperature of policies; 0 is greedy."""
    turn_tokens: int | None = None
    """Most tokens a policy samples in one turn; unset: what its card says."""
    slots: int = 64
    """Episodes that a policy decodes side by side in each process."""
    workers: int | None = None
    """Processes for policies on the CPU; unset: the machine's cores, at most 2."""
    device: str = "cpu"
    """Where policies live: "cpu" or "cuda"."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the policies' weights."""
    concurrency: int = 1
    """Episodes that a third party's agent plays at the same time, in threads."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world."""


def main(argv: list[str] | None = None) -> int:
    """Read the options, measure, print the tables; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    config = tyro.cli(EvalConfig, args=argv, prog="zerosearch eval", description=__doc__)
    run_evaluation(config, command=redact(shlex.join(["zerosearch", "eval", *argv])))
    return 0


def run_evaluation(config: EvalConfig, *, command: str = "") -> None:
    """Measure every agent on every engine at every noise level, and print the result.

    Args:
        config: what to measure.
        command: kept in the results, for the next who wants to repeat it.

    Raises:
        ConfigError: for an option that cannot be used; nothing has been played then.
        AgentError: when a third party's agent failed; what was measured before is in the output folder.
    """
    from rich.console import Console

    from .display import EvaluationDisplay, print_evaluation

    if not config.agent:
        raise ConfigError("nobody to measure: give --agent at least once, for example --agent baseline:rag")
    levels = tuple(check_level(level) for level in config.noise)
    console = Console()
    rules = make_rules(
        protocol=config.protocol, max_turns=config.max_turns, top_k=config.top_k, noise_unit=config.noise_unit
    )
    dataset = load_dataset(config.dataset, config.split, world=config.world if config.dataset == "world" else None)
    items = select_questions(dataset.questions, config.questions, seed=config.seed, per_hop=config.per_hop)
    with contextlib.ExitStack() as stack:
        players = _players(config, stack)
        engines = [(spec, make_engine(spec, dataset=dataset)) for spec in dict.fromkeys(config.engine)]
        for _, engine in engines:
            stack.callback(engine.close)
        if config.fresh and config.output.exists():
            forget(config.output)
        store = Store(config.output, _settings(config, len(items)), {p.name: fingerprint(p) for p in players})
        store.note(command=command, versions=versions())
        display = EvaluationDisplay(console, len(items) * len(players) * len(engines) * len(levels))
        console.print(
            f"{len(items)} questions of {dataset.name}/{dataset.split}, {len(players)} agents, "
            f"{len(levels)} noise levels, {len(engines)} engines",
            highlight=False,
        )
        try:
            with display:
                for name, engine in engines:
                    for player in players:
                        evaluate(
                            player,
                            items,
                            engine,
                            rules,
                            levels,
                            config.seed,
                            engine_name=name,
                            store=store,
                            on_progress=display.update,
                            on_cell=display.finished,
                        )
        except (AgentError, KeyboardInterrupt):
            console.print(f"stopped; what was measured is in {config.output}", highlight=False, soft_wrap=True)
            raise
    print_evaluation(store.evaluation, console)
    console.print(f"results:     {config.output / 'results.json'}", highlight=False, soft_wrap=True)
    console.print(f"transcripts: {config.output / 'transcripts'}", highlight=False, soft_wrap=True)


def _players(config: EvalConfig, stack: contextlib.ExitStack) -> list[Player]:
    """The agents, with worker processes where they play with policies."""
    options = PolicyOptions(
        path=str(policy_path(config.policy)),
        temperature=config.temperature,
        slots=config.slots,
        turn_tokens=config.turn_tokens,
        device=config.device,
        dtype=config.dtype,
    )
    workers = default_workers(config.device) if config.workers is None else config.workers
    pool = stack.enter_context(WorkerPool(workers)) if workers != 1 else None
    players = [
        make_player(spec, policy=options, pool=pool, concurrency=config.concurrency, seed=config.seed)
        for spec in config.agent
    ]
    names = [player.name for player in players]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two agents are called {min(twice)!r}; name one of them by --agent LABEL=...")
    return players


def _settings(config: EvalConfig, asked: int) -> dict[str, Any]:
    """What an earlier run must have had in common for its cells to be taken over."""
    settings: dict[str, Any] = {
        name: getattr(config, name)
        for name in (
            "dataset",
            "split",
            "per_hop",
            "seed",
            "protocol",
            "max_turns",
            "top_k",
            "noise_unit",
            "temperature",
        )
    }
    settings |= {"questions": asked, "turn_tokens": config.turn_tokens}
    if config.dataset == "world":
        settings["world"] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config.world).items()}
    return settings
