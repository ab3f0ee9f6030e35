"""The stages of `zerosearch bench real-llm` as commands of the package, which anybody can type.

    demos       demonstrations of a scripted searcher, on training questions        per seed
    warm        supervised fine-tuning on them                                      per seed
    trained     GRPO with the curriculum, on training questions                     per seed
    test-*      the warm and the trained policy, RAG and direct answers with their weights, on test questions
    untrained   the model as downloaded: its own play, RAG and direct answers       once, for all seeds

Every stage writes one folder or file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zerosearch_env.errors import ConfigError

from ..stages import WORKERS, Stage

PROMPT = "Question: {question}\n"
"""What the warm policy sees: instructions would be 40 % of all tokens, and it learns the format from demonstrations."""
RULES = ("--protocol", "zerosearch", "--max-turns", "3", "--top-k", "1")
TURN = ("--turn-tokens", "64")
FORMAT = ("--chat", "off", "--prompt-template", PROMPT, *TURN, "--context-tokens", "1024")

TRAINING = (
    "--rollout.prompts", "6", "--rollout.group-size", "8", "--algorithm.minibatches", "1",
    "--optimizer.learning-rate", "1e-5", "--optimizer.warmup-steps", "3", "--optimizer.final-fraction", "0.1",
    "--curriculum.schedule", "linear", "--curriculum.start", "0.25", "--curriculum.end", "0.5",
    "--evaluation.every", "20", "--evaluation.questions", "40", "--evaluation.noise", "0", "0.5",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The questions and passages: files named as in `FILES`, in one folder."""

    folder: Path

    FILES: ClassVar[tuple[str, ...]] = (
        "wikiq_one_hop_train.jsonl",
        "wikiq_one_hop_test.jsonl",
        "wikiq_two_hop_test.jsonl",
        "wikipedia_passages.jsonl",
    )

    def __post_init__(self) -> None:
        """Check that the files exist.

        Raises:
            ConfigError: a file is missing.
        """
        if missing := [name for name in self.FILES if not (self.folder / name).is_file()]:
            raise ConfigError(
                f"{self.folder}: {', '.join(missing)} is missing. Make the files with: python -m "
                f"zerosearch_benchmarks.learning.wiki_questions {self.folder}"
            )

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.folder / name for name in self.FILES]

    @property
    def train(self) -> Path:
        """One-hop training questions."""
        return self.folder / self.FILES[0]

    @property
    def tests(self) -> dict[str, Path]:
        """Test questions, by name."""
        return {"one-hop": self.folder / self.FILES[1], "two-hop": self.folder / self.FILES[2]}

    @property
    def engine(self) -> str:
        """BM25 over the passages."""
        return f"corpus:{self.folder / self.FILES[3]}"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    demonstrations: int = 300
    steps: int = 80
    questions: int = 150
    """Test questions of each kind, at most."""
    levels: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    """Noise levels of the one-hop test."""
    transfer_levels: tuple[float, ...] = (0.0, 0.5)
    """Noise levels of the two-hop test."""


SMOKE = Sizes(demonstrations=12, steps=2, questions=4, levels=(0.0, 0.5))
"""Every stage at a size that shows that it works. The figures mean nothing."""


def untrained_stages(model: Path, data: Data, sizes: Sizes, runs: Path) -> Iterator[Stage]:
    """The model as downloaded: it gets the protocol's instruction, through its chat template if it has one."""
    yield from _test("untrained", str(model), data, sizes, runs / "untrained")


def seed_stages(
    model: Path, data: Data, sizes: Sizes, runs: Path, seed: int, dtype: str = "float32"
) -> Iterator[Stage]:
    """The stages of one seed, in order; `dtype` is the type of the learner's matrix products (weights are float32)."""
    folder = runs / f"seed-{seed}"
    demos, warm, trained = folder / "demos", folder / "warm", folder / "trained"
    yield Stage(
        "demonstrations",
        demos,
        ("demos", "--dataset", str(data.train), "--engine", data.engine, *RULES, "--noise", "0", "0.25", "0.5",
         "--episodes", str(sizes.demonstrations), "--seed", str(seed), "--output", str(demos / "episodes.jsonl")),
    )  # fmt: skip
    yield Stage(
        "warm start",
        warm,
        ("sft", "--policy", str(model), "--input", str(demos / "episodes.jsonl"), *RULES, *FORMAT,
         "--seed", str(seed), "--output", str(warm)),
        speed=WORKERS,
    )  # fmt: skip
    yield from _test("warm", str(warm / "policy"), data, sizes, folder / "test-warm")
    yield Stage(
        "training",
        trained,
        ("train", "--policy", str(warm / "policy"), "--data.dataset", str(data.train),
         "--environment.search-engine", data.engine, "--steps", str(sizes.steps), "--seed", str(seed), *TRAINING,
         "--optimizer.dtype", dtype, "--output", str(trained)),
        resume=("train", "--resume", str(trained)),
        started="config.toml",
        speed=WORKERS,
    )  # fmt: skip
    yield from _test("trained", str(trained / "policy"), data, sizes, folder / "test-trained")


def eval_command(questions: Path, data: Data, count: int) -> tuple[str, ...]:
    """`zerosearch eval` on test questions with BM25, without its agents, noise and output."""
    return (
        "eval", "--dataset", str(questions), "--columns", "data_source=relation", "--engine", data.engine, *RULES,
        *TURN, "--questions", str(count),
    )  # fmt: skip


def _test(name: str, policy: str, data: Data, sizes: Sizes, folder: Path) -> Iterator[Stage]:
    """Measure a model's own play, RAG and direct answers with its weights."""
    for kind, questions in data.tests.items():
        levels = sizes.levels if kind == "one-hop" else sizes.transfer_levels
        common = (*eval_command(questions, data, sizes.questions), "--policy", policy)
        for part, agents, noise in (
            ("play", (f"{name}={policy}", "rag=baseline:rag"), levels),
            ("direct", ("direct=baseline:direct",), levels[:1]),
        ):
            output = folder / f"{kind}-{part}"
            chosen = [word for agent in agents for word in ("--agent", agent)]
            yield Stage(
                f"test of {name}, {kind}, {part}",
                output,
                (*common, *chosen, "--noise", *(f"{level:g}" for level in noise), "--output", str(output)),
            )
