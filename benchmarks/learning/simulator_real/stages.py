"""The stages of `zerosearch bench simulator-real` as commands of the package, which anybody can type.

    labelled         real trajectories: a result that states a gold answer is useful, another one noisy
    pairs            training pairs, and held-out ones of other questions
    before           the language model as downloaded, on the held-out searches
    tuned            the language model tuned on the pairs
    after            the tuned model on the same searches
    policy-*         the same warm policy trained for a few steps, against the tuned model and against BM25
    test             the warm and both trained policies, all on BM25

Every stage writes one folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..real_llm.stages import Data, eval_command
from ..stages import WORKERS, Stage

SIMULATION = {"max_tokens": 80, "dtype": "bfloat16"}
"""One snippet has about 35 tokens. bfloat16 where the processor is fast with it; the engine says so where it is not."""
TRAINING = (
    "--rollout.prompts", "2", "--rollout.group-size", "8", "--algorithm.minibatches", "1",
    "--optimizer.learning-rate", "1e-5", "--optimizer.warmup-steps", "2",
    "--curriculum.schedule", "linear", "--curriculum.start", "0.25", "--curriculum.end", "0.5",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    epochs: float = 2.0
    """Passes over the training pairs."""
    searches: int = 60
    """Held-out searches per noise level."""
    attack_questions: int = 1
    """Questions on which each of the 40 attacks is tried."""
    steps: int = 10
    """Training steps of the policies, 16 episodes each."""
    questions: int = 150
    """Test questions, at most."""
    levels: tuple[float, ...] = (0.0, 0.5)
    """Noise levels of the test."""


SMOKE = Sizes(epochs=0.02, searches=2, attack_questions=0, steps=1, questions=2)
"""Every stage at a size that shows that it works. The figures mean nothing."""


def simulated(model: Path) -> str:
    """The engine in which a model plays the search engine, as an option of a command."""
    return json.dumps({"kind": f"simulated:hf:{model}", **SIMULATION})


def simulator_stages(
    model: Path, trajectories: Path, sizes: Sizes, runs: Path, dtype: str = "float32"
) -> Iterator[Stage]:
    """From trajectories to a tuned model, measured before and after; `dtype` is the type of the matrix products."""
    labelled, pairs = runs / "labelled" / "labelled.jsonl", runs / "pairs" / "pairs.jsonl"
    yield Stage(
        "labelled",
        labelled.parent,
        ("simulator", "label", "--input", str(trajectories), "--by", "judge", "--judge", "contains-answer",
         "--output", str(labelled)),
    )  # fmt: skip
    yield Stage(
        "pairs",
        pairs.parent,
        ("simulator", "extract", "--input", str(labelled), "--test-share", "0.2", "--output", str(pairs)),
    )
    yield _measure("before", model, pairs, sizes, runs)
    yield Stage(
        "tuned",
        runs / "tuned",
        ("simulator", "train", "--input", str(pairs), "--model", str(model), "--lora.rank", "16",
         "--learning-rate", "7e-4", "--epochs", f"{sizes.epochs:g}", "--batch-size", "16", "--eval-every", "20",
         "--eval-pairs", "64", "--checkpoint-every", "20", "--dtype", dtype, "--output", str(runs / "tuned")),
        speed=WORKERS,
    )  # fmt: skip
    yield _measure("after", runs / "tuned" / "model", pairs, sizes, runs)


def _measure(name: str, model: Path, pairs: Path, sizes: Sizes, runs: Path) -> Stage:
    return Stage(
        name,
        runs / name,
        ("simulator", "evaluate", "--engine", simulated(model), "--input", str(pairs), "--searches",
         str(sizes.searches), "--levels", "0", "1", "--attack-questions", str(sizes.attack_questions),
         "--output", str(runs / name / "evaluation.json")),
    )  # fmt: skip


def policy_stages(
    policy: Path, data: Data, sizes: Sizes, runs: Path, seed: int, dtype: str = "float32"
) -> Iterator[Stage]:
    """A policy trained against the tuned model and against BM25, with the same questions and draws, and their test."""
    engines = {"simulator": simulated(runs / "tuned" / "model"), "bm25": data.engine}
    for name, engine in engines.items():
        output = runs / f"policy-{name}"
        yield Stage(
            f"policy trained on {name}",
            output,
            ("train", "--policy", str(policy), "--data.dataset", str(data.train), "--environment.search-engine", engine,
             "--steps", str(sizes.steps), "--seed", str(seed), *TRAINING, "--optimizer.dtype", dtype,
             "--output", str(output)),
            resume=("train", "--resume", str(output)),
            started="config.toml",
            speed=WORKERS,
        )  # fmt: skip
    agents = {"warm": policy} | {name: runs / f"policy-{name}" / "policy" for name in engines}
    chosen = [word for name, folder in agents.items() for word in ("--agent", f"{name}={folder}")]
    yield Stage(
        "test",
        runs / "test",
        (*eval_command(data.tests["one-hop"], data, sizes.questions), *chosen,
         "--noise", *(f"{level:g}" for level in sizes.levels), "--output", str(runs / "test")),
    )  # fmt: skip
