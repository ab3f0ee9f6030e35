"""The workload of `zerosearch bench learner`: rollouts of random tokens, and the least work of a step over them.

A model of 4 layers, width 256 (Qwen3, tied embeddings, random weights), and groups of 8 rollouts of 64 to 512 tokens of
which 32 are the prompt. In `dense` work every completion token is sampled by the policy; in `search` work turns of 24
tokens alternate with documents of 72, so about a quarter of the tokens is trained. A step is that of a run with a KL:
log-probabilities of policy and reference, then one forward and backward pass and one AdamW update. Without a KL, a step
is the update alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, MLP = 256, 4, 4, 2, 64, 768
PROMPT, GROUP = 32, 8
TURN, DOCUMENT = 24, 72
FIRST = 0x10000
"""Code point of token 0; a million code points without a gap follow."""
PASSES = 5
"""Cost of a step in forward passes: policy, reference, and three for forward and backward."""


@dataclass(frozen=True)
class WorkSpec:
    """Parameters of a workload."""

    vocabulary: int = 4096
    dtype: str = "float32"
    """"float32" or "bfloat16"; weights and optimizer are float32 in both."""
    search: bool = False
    """Whether three quarters of a completion are documents."""
    sequences: int = 64
    """Rollouts per step, a multiple of 8."""
    shortest: int = 64
    longest: int = 512
    """Tokens of the longest rollout, prompt included."""
    prompt: int = PROMPT
    """Tokens of a prompt."""
    common: bool = True
    """Whether the rollouts of a group have the same prompt."""
    beta: float = 0.001
    """Coefficient of the KL; 0: no reference, and no log-probabilities before the update."""


@dataclass(frozen=True)
class Work:
    """The rollouts of one step."""

    prompts: list[list[int]]
    completions: list[list[int]]
    masks: list[list[int]]
    """1 where the policy sampled the token of a completion."""
    rewards: NDArray[np.float64]
    advantages: NDArray[np.float64]
    """(reward - group mean) / (sample standard deviation of the group + 1e-4), as in TRL."""

    @property
    def tokens(self) -> int:
        """Number of tokens in prompts and completions, without padding."""
        return sum(map(len, self.prompts)) + sum(map(len, self.completions))


def make_work(spec: WorkSpec, seed: int = 0) -> Work:
    """Draw the rollouts of a workload; the same specification and seed give the same rollouts."""
    rng = np.random.default_rng(seed)
    top = min(spec.vocabulary, 4000)
    lengths = rng.integers(spec.shortest, spec.longest + 1, spec.sequences)
    every = GROUP if spec.common else 1
    questions = [rng.integers(10, top, spec.prompt).tolist() for _ in range(spec.sequences // every)]
    completions = [rng.integers(10, top, length - spec.prompt).tolist() for length in lengths]
    rewards = rng.normal(size=spec.sequences)
    grouped = rewards.reshape(-1, GROUP)
    spread = grouped.std(1, ddof=1, keepdims=True)
    advantages = ((grouped - grouped.mean(1, keepdims=True)) / (spread + 1e-4)).reshape(-1)
    prompts = [questions[i // every] for i in range(spec.sequences)]
    return Work(prompts, completions, [mask_of(len(ids), spec.search) for ids in completions], rewards, advantages)


def mask_of(length: int, search: bool) -> list[int]:
    """Return 1 for sampled tokens: all, or a turn of 24 after every document of 72, with a turn at the end."""
    if not search:
        return [1] * length
    from_end = np.arange(length)[::-1]
    return (from_end % (TURN + DOCUMENT) < TURN).astype(int).tolist()


def flops(spec: WorkSpec, lengths: Sequence[int], trained: int) -> float:
    """Count the floating-point operations that a step needs: layers for every token, the head for trained tokens.

    Args:
        spec: the workload; only its vocabulary matters.
        lengths: number of tokens of each rollout.
        trained: number of trained tokens of all rollouts.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    layer = WIDTH * HEAD * (2 * HEADS + 2 * KV_HEADS) + 3 * WIDTH * MLP
    attention = 4 * LAYERS * HEADS * HEAD * (tokens * (tokens + 1) / 2).sum()
    return float(PASSES * (2 * LAYERS * layer * tokens.sum() + attention + 2 * WIDTH * spec.vocabulary * trained))


def character_tokenizer(size: int, **special_tokens: str) -> Any:
    """Make a tokenizer with one character per id, so that every id decodes to a string; the text is not used.

    Args:
        size: number of ids. The character of id i is `chr(FIRST + i)`.
        special_tokens: for example `pad_token`.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    ids = {chr(FIRST + index): index for index in range(size)}
    inner = Tokenizer(models.WordLevel(ids, unk_token=chr(FIRST)))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special_tokens)
