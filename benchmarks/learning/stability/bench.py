"""Effect of known bugs of search-RL code on training: same start, tasks and steps, one bug per run.

- `kl-subtracted`: the KL to the initial policy is subtracted from the loss, as in the released ZeroSearch code
    (dp_actor.py 271), so divergence is rewarded instead of penalised;
  - `re-tokenised`: every turn is decoded and encoded again before training, as in that code (generation.py 171-192),
      which loses special tokens;
  - `documents-trained`: the retrieved documents are trained on as if the policy had written them.

Only `faults.py` contains these bugs. All runs recompute the log-probabilities before the first update, as the
reference does, so that a bug changes only what is trained on. After a run its policy answers questions of the test
world, which shares no names with the training questions. Every seed is reported.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_agents.report.figures import save
from zerosearch_env.errors import require

from ...measure import make_parser, write_record
from .faults import BEHAVIOURS, behaviour
from .start import STARTS, make_start
from .table import charts, markdown

if TYPE_CHECKING:
    from zerosearch_agents.config.train import TrainConfig
    from zerosearch_env.datasets.world.make import WorldConfig
    from zerosearch_env.engines import SearchEngine
    from zerosearch_env.types import Dataset

LIBRARIES = ("torch", "transformers", "numpy")
KEPT_METRICS = ("step", "reward", "entropy", "kl", "invalid_rate", "clip_fraction", "update_kl", "turn_tokens")
DECODINGS = {"sampled": 1.0, "greedy": 0.0}
"""Decodings for the held-out questions, as name -> temperature: sampled as in training, and greedy."""


@dataclass(frozen=True)
class Setting:
    """Settings shared by all behaviours of a comparison."""

    name: str
    title: str
    """Description, as a sentence."""
    behaviours: tuple[str, ...]
    start: str
    """`"shipped"` for the base model, else a key of `STARTS` in `start.py`."""
    steps: int
    learning_rate: float
    kl_coefficient: float


SETTINGS = (
    Setting(
        "varied-tokens",
        "A start that does not always write its tokenizer's tokens.",
        ("ours", "re-tokenised", "documents-trained"),
        start="taken-apart",
        steps=50,
        learning_rate=2e-4,
        kl_coefficient=0.001,
    ),
    Setting(
        "early-ends",
        "A start that often ends a turn without an action.",
        ("ours", "re-tokenised"),
        start="early-ends",
        steps=40,
        learning_rate=2e-4,
        kl_coefficient=0.001,
    ),
    Setting(
        "strong-kl",
        "The shipped base model with a strong KL.",
        ("ours", "kl-subtracted"),
        start="shipped",
        steps=16,
        learning_rate=4e-4,
        kl_coefficient=0.2,
    ),
)


def train_config(setting: Setting, start: Path | None, seed: int, output: Path) -> TrainConfig:
    """Build the configuration of a run: the quickstart's tasks, smaller and without noise.

    Args:
        setting: the shared settings.
        start: the initial policy; None for the shipped base model.
        seed: seed of the run.
        output: directory of the run.
    """
    from zerosearch_agents.config.train import load_preset

    config = load_preset("quickstart")
    algorithm = replace(config.algorithm, recompute_logprobs=True, kl_coefficient=setting.kl_coefficient, minibatches=4)
    return replace(
        config,
        policy="tiny" if start is None else str(start),
        seed=seed,
        output=str(output),
        steps=setting.steps,
        workers=1,
        data=replace(config.data, world=replace(config.data.world, hops=(1,))),
        environment=replace(config.environment, max_turns=2),
        curriculum=replace(config.curriculum, start=0.0, end=0.0),
        rollout=replace(config.rollout, prompts=4, group_size=8),
        algorithm=algorithm,
        optimizer=replace(config.optimizer, learning_rate=setting.learning_rate, warmup_steps=2, final_fraction=1.0),
        files=replace(config.files, checkpoint_every=None, transcripts_every=None),
    )


@lru_cache(maxsize=1)
def _test_world(world: WorldConfig, search_engine: str) -> tuple[Dataset, SearchEngine]:
    from zerosearch_env.datasets import load_dataset
    from zerosearch_env.engines import make_engine

    test = load_dataset("world", "test", world=world)
    return test, make_engine(search_engine, dataset=test)


def held_out(policy: Path, config: TrainConfig, count: int) -> dict[str, Any]:
    """Evaluate a policy's exact match on questions of the test world, without noise.

    Returns:
        Mean, Wilson interval and number of questions for each of `DECODINGS`; all use the same questions.
    """
    from zerosearch_agents.evaluation.evaluate import evaluate
    from zerosearch_agents.evaluation.items import select_questions
    from zerosearch_agents.players.base import PolicyOptions
    from zerosearch_agents.players.policy import PolicyPlayer
    from zerosearch_env.game.rules import make_rules

    environment = config.environment
    test, engine = _test_world(config.data.world, environment.search_engine)
    rules = make_rules(max_turns=environment.max_turns, top_k=environment.top_k, reward=environment.reward)
    items = select_questions(test.questions, count)
    intervals = {}
    for name, temperature in DECODINGS.items():
        player = PolicyPlayer(PolicyOptions(str(policy), temperature=temperature), name=name)
        intervals[name] = evaluate(player, items, engine, rules, (0.0,)).cells[0].summary().em.as_dict()
    return intervals


def start_held_out(config: TrainConfig, questions: int, runs: Path) -> dict[str, Any]:
    """Return `held_out` of the initial policy, cached in a file in the runs folder."""
    from zerosearch_agents.policy.files import policy_path

    policy = policy_path(config.policy)
    file = runs / f"held-out-{policy.name}-{questions}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(held_out(policy, config, questions)) + "\n", "utf-8")
    intervals: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return intervals


def run_one(name: str, config: TrainConfig, questions: int) -> dict[str, Any]:
    """Do one run and evaluate it; a run finished by an earlier call is read from its file.

    Returns:
        Behaviour, seed, reason for the end, CPU seconds, alarms active at the end, the metrics of every step, and the
        held-out exact match (None if training was aborted).
    """
    from zerosearch_agents.config.train import read_config
    from zerosearch_agents.runs.alarms import find_alarms
    from zerosearch_agents.runs.metrics import read_metrics
    from zerosearch_agents.runs.output import config_differences
    from zerosearch_agents.training.trainer import train
    from zerosearch_env.errors import TrainingError

    output = Path(config.output)
    row_file, saved = output / "row.json", output / "config.toml"
    if row_file.is_file() and not config_differences(read_config(saved), config):
        row: dict[str, Any] = json.loads(row_file.read_text("utf-8"))
        if row["questions"] == questions:
            return row
    row_file.unlink(missing_ok=True)  # it must not survive next to the configuration of a run that is killed
    began, ended = time.process_time(), "finished"
    with behaviour(name) as changed:
        try:
            train(config, overwrite=True)
        except TrainingError as error:
            ended = str(error)
    history = read_metrics(output / "metrics.jsonl")
    steps = [
        {metric: record[metric] for metric in KEPT_METRICS if metric in record} | {"changed": share}
        for record, share in zip(history, changed, strict=False)  # an aborted step has no metrics
    ]
    policy = output / "policy"
    row = {
        "behaviour": name,
        "seed": config.seed,
        "ended": ended,
        "alarms": [str(alarm) for alarm in find_alarms(config.alarms, history)],
        "held_out": held_out(policy, config, questions) if policy.is_dir() else None,
        "questions": questions,
        "cpu_seconds": round(time.process_time() - began, 1),
        "steps": steps,
    }
    row_file.write_text(json.dumps(row) + "\n", "utf-8")
    return row


def main(argv: list[str] | None = None) -> int:
    """Run every behaviour of every setting for every seed; write record, tables and plot after each run."""
    names = [setting.name for setting in SETTINGS]
    parser = make_parser("stability", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--settings", nargs="+", choices=names, default=names, help="which (all)")
    parser.add_argument("--behaviours", nargs="+", choices=BEHAVIOURS, default=BEHAVIOURS, help="which (all)")
    parser.add_argument("--steps", type=int, help="training steps of each run (each setting's own)")
    parser.add_argument("--questions", type=int, default=400, help="held-out questions (400)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/stability"), help="folder of the runs; finished ones are reused"
    )
    arguments = parser.parse_args(argv)
    require("matplotlib")  # before the first run, not after it
    settings = [setting for setting in SETTINGS if setting.name in arguments.settings]
    if arguments.steps:
        settings = [replace(setting, steps=arguments.steps) for setting in settings]
    starts: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {
        "questions": arguments.questions,
        "settings": [asdict(setting) for setting in settings],
        "starts": starts,
        "runs": rows,
    }
    for seed in arguments.seeds:
        for setting in settings:
            start = make_start(arguments.runs, STARTS[setting.start]) if setting.start in STARTS else None
            for name in setting.behaviours:
                if name not in arguments.behaviours:
                    continue
                config = train_config(setting, start, seed, arguments.runs / setting.name / f"{name}-{seed}")
                if setting.start not in starts:
                    starts[setting.start] = start_held_out(config, arguments.questions, arguments.runs)
                rows.append({"setting": setting.name, **run_one(name, config, arguments.questions)})
                write_record(arguments.output, LIBRARIES, **record)
                arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
                save(charts(record), arguments.output.with_suffix(".svg"))
    print(markdown(record))
    return 0
