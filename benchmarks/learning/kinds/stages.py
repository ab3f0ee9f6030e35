"""The stages of `zerosearch bench kinds` as commands of the package, which anybody can type.

    abstaining    the shipped model, taught to answer "unknown" now and then       once, for all seeds
    untrained     tests of the shipped model and of this one                       once, for all seeds
    train-*       the quickstart's training, for each of `TRAININGS`               per seed, from here on
    test          tests of the trained policies

A test plays the same questions with the same draws under every kind of noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zerosearch_env.game.noise_kinds import KINDS

from ..stages import WORKERS, Stage

SHIPPED = "shipped"
ABSTAINING = "abstaining"
"""Names of the two policies before training."""
MIXTURE = "distractor=0.25,irrelevant=0.25,counterfactual=0.25,outage=0.25"
"""What the policy "mixture" is trained on. The other kinds are new to it when it is tested."""


@dataclass(frozen=True)
class Training:
    """One way to train; the rest is the quickstart's preset."""

    start: str
    """`SHIPPED` or `ABSTAINING`."""
    options: tuple[str, ...] = ()
    """Options of `zerosearch train`."""


TRAININGS = {
    "distractors": Training(SHIPPED),
    "mixture": Training(SHIPPED, ("--environment.noise-kind", MIXTURE)),
    "em": Training(ABSTAINING, ("--curriculum.end", "1")),
    "ternary": Training(ABSTAINING, ("--curriculum.end", "1", "--environment.reward", "ternary")),
}
"""The trained policies, by name. Without an abstention among its samples, a policy cannot learn to abstain, so the two
whose noise reaches 1 start from the policy that knows how to."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    warm_tokens: int = 400_000
    """Tokens of the warm start that shows abstentions."""
    training: tuple[str, ...] = ()
    """Options of `zerosearch train` that differ from the preset."""
    questions: int = 60
    """Test questions for each number of hops."""
    levels: tuple[float, ...] = (0.0, 0.5, 1.0)
    kinds: tuple[str, ...] = tuple("redundant:2" if kind == "redundant" else kind for kind in KINDS)
    """The shipped model's context of 2,048 tokens is full after one search with the default number."""


SMOKE = Sizes(
    warm_tokens=6_000,
    training=("--steps", "2", "--rollout.prompts", "2", "--rollout.group-size", "2", "--optimizer.warmup-steps", "1"),
    questions=2,
    levels=(0.0, 1.0),
)
"""Every stage at a size that shows that it works. The figures mean nothing."""


def shared_stages(sizes: Sizes, runs: Path) -> Iterator[Stage]:
    """The stages that all seeds share."""
    yield Stage(
        ABSTAINING,
        runs / ABSTAINING,
        ("pretrain", "--start", "tiny", "--base-tokens", "0", "--warm-tokens", str(sizes.warm_tokens),
         "--warm-learning-rate", "5e-4", "--habits.abstain", "0.3", "--output", str(_start(ABSTAINING, runs))),
    )  # fmt: skip
    names = (SHIPPED, ABSTAINING)
    yield _test("untrained", [f"{name}={_start(name, runs)}" for name in names], sizes, runs / "untrained")


def seed_stages(sizes: Sizes, runs: Path, seed: int) -> Iterator[Stage]:
    """The stages of one seed, in order."""
    folder = runs / f"seed-{seed}"
    for name, training in TRAININGS.items():
        output = folder / f"train-{name}"
        yield Stage(
            f"training of {name}",
            output,
            ("train", "--preset", "quickstart", *sizes.training, *training.options,
             "--policy", str(_start(training.start, runs)), "--seed", str(seed), "--output", str(output)),
            resume=("train", "--resume", str(output)),
            started="config.toml",
            speed=WORKERS,
        )  # fmt: skip
    policies = [f"{name}={folder / f'train-{name}' / 'policy'}" for name in TRAININGS]
    yield _test(f"test of seed {seed}", policies, sizes, folder / "test")


def _start(name: str, runs: Path) -> str | Path:
    return "tiny" if name == SHIPPED else runs / name / "policy"


def _test(name: str, agents: Sequence[str], sizes: Sizes, output: Path) -> Stage:
    chosen = [word for agent in agents for word in ("--agent", agent)]
    levels = [f"{level:g}" for level in sizes.levels]
    return Stage(
        name,
        output,
        ("eval", *chosen, "--noise", *levels, "--noise-kind", *sizes.kinds, "--per-hop",
         "--questions", str(sizes.questions), "--output", str(output)),
    )  # fmt: skip
