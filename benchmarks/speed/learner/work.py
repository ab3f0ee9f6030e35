"""The workload of `zerosearch bench learner`: rollouts of random tokens, and the least work that a step over them is.

A model of 4 layers, width 256 (Qwen3, tied embeddings, random weights), and groups of 8 rollouts of 64 to 512 tokens of
which 32 are the prompt. In `dense` work every completion token is the policy's; in `search` work turns of 24 tokens and
documents of 72 take turns, so that about a quarter of the tokens is trained. A step is what a run with a KL does:
log-probabilities of policy and reference, then one forward and backward pass and one AdamW update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, MLP = 256, 4, 4, 2, 64, 768
PROMPT, GROUP = 32, 8
TURN, DOCUMENT = 24, 72
PASSES = 5
"""Forward passes that a step is worth: policy, reference, and three for forward and backward."""


@dataclass(frozen=True)
class WorkSpec:
    """What decides a workload."""

    vocabulary: int = 4096
    dtype: str = "float32"
    """"float32" or "bfloat16"; weights and optimizer are float32 in both."""
    search: bool = False
    """Whether three quarters of a completion are documents."""
    sequences: int = 64
    """Rollouts of a step, a multiple of 8."""
    shortest: int = 64
    longest: int = 512
    """Tokens of the longest rollout, prompt included."""


@dataclass(frozen=True)
class Work:
    """The rollouts of a step."""

    prompts: list[list[int]]
    completions: list[list[int]]
    masks: list[list[int]]
    """1 where a completion's token is the policy's."""
    rewards: NDArray[np.float64]
    advantages: NDArray[np.float64]
    """Rewards less their group's mean, over its standard deviation (of a sample, plus 1e-4, as TRL has it)."""

    @property
    def tokens(self) -> int:
        """Real tokens: prompts and completions, without padding."""
        return sum(map(len, self.prompts)) + sum(map(len, self.completions))


def make_work(spec: WorkSpec, seed: int = 0) -> Work:
    """The rollouts of a workload; the same specification and seed give the same."""
    rng = np.random.default_rng(seed)
    top = min(spec.vocabulary, 4000)
    lengths = rng.integers(spec.shortest, spec.longest + 1, spec.sequences)
    questions = [rng.integers(10, top, PROMPT).tolist() for _ in range(spec.sequences // GROUP)]
    completions = [rng.integers(10, top, length - PROMPT).tolist() for length in lengths]
    rewards = rng.normal(size=spec.sequences)
    grouped = rewards.reshape(-1, GROUP)
    spread = grouped.std(1, ddof=1, keepdims=True)
    advantages = ((grouped - grouped.mean(1, keepdims=True)) / (spread + 1e-4)).reshape(-1)
    prompts = [questions[i // GROUP] for i in range(spec.sequences)]
    return Work(prompts, completions, [mask_of(len(one), spec.search) for one in completions], rewards, advantages)


def mask_of(length: int, search: bool) -> list[int]:
    """1 for the policy's tokens: all, or a turn of 24 after every 72 of a document, the last turn at the end."""
    if not search:
        return [1] * length
    from_end = np.arange(length)[::-1]
    return (from_end % (TURN + DOCUMENT) < TURN).astype(int).tolist()


def flops(spec: WorkSpec, lengths: Sequence[int], trained: int) -> float:
    """Floating-point operations that a step cannot avoid: every token through the layers once, the head where trained.

    Args:
        spec: for the size of the vocabulary.
        lengths: tokens of each rollout.
        trained: the policy's tokens of all of them.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    layer = WIDTH * HEAD * (2 * HEADS + 2 * KV_HEADS) + 3 * WIDTH * MLP
    attention = 4 * LAYERS * HEADS * HEAD * (tokens * (tokens + 1) / 2).sum()
    return float(PASSES * (2 * LAYERS * layer * tokens.sum() + attention + 2 * WIDTH * spec.vocabulary * trained))
