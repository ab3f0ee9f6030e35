"""Initial policies for `zerosearch bench stability`, with habits of larger models that the shipped tiny policy lacks.

The tiny policy is trained a little further on its usual demonstrations, with the policy's text changed:

- `taken-apart`: it does not always write the tokens its tokenizer would produce. Neither do large models sampled at
    temperature 1, nor models trained with subword regularisation (BPE-dropout, Provilkov et al., ACL 2020, arXiv
    1910.13267). BPE-dropout skips merges at random; here merges are undone at random, so the text is the same but its
    tokens differ.
  - `early-ends`: it often ends a turn before acting, with the end-of-text token, as base models do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zerosearch_agents.sft.rows import Row

Parts = Mapping[int, tuple[int, int]]
"""Token -> the two tokens that the tokenizer merges into it."""


@dataclass(frozen=True)
class Start:
    """Parameters of a start."""

    apart: float
    """Probability that a policy token is split into its parts."""
    early: float
    """Probability that a turn is cut at a random position, followed by the end-of-text token."""
    tokens: float
    """Training budget in tokens, context included."""
    learning_rate: float
    """Peak learning rate; it decays to zero."""

    @property
    def folder(self) -> str:
        """Folder name, which encodes all parameters."""
        habits = f"{self.apart:g}" + (f"-{self.early:g}" if self.early else "")
        return f"start-{habits}-{self.tokens:g}-{self.learning_rate:g}"


STARTS = {
    "taken-apart": Start(apart=0.05, early=0.0, tokens=1.2e6, learning_rate=1e-3),
    "early-ends": Start(apart=0.0, early=0.3, tokens=0.3e6, learning_rate=5e-4),
}


def merge_parts(tokenizer: PreTrainedTokenizerBase) -> Parts:
    """Return the parts of each merged token of a BPE tokenizer; tags, bytes and special tokens have none."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = model["vocab"]
    return {ids[left + right]: (ids[left], ids[right]) for left, right in model["merges"]}


def taken_apart(ids: Sequence[int], parts: Parts, rate: float, rng: np.random.Generator) -> list[int]:
    """Split each merged token with probability `rate`, and its parts again; the ids decode to the same text."""
    result: list[int] = []
    waiting = list(reversed(ids))
    while waiting:
        token = waiting.pop()
        if token in parts and rng.random() < rate:
            waiting += reversed(parts[token])
        else:
            result.append(token)
    return result


def respelled(row: Row, parts: Parts, rate: float, rng: np.random.Generator) -> Row:
    """Split the trained tokens of a training row at random; documents and prompts stay unchanged."""
    from zerosearch_agents.sft.rows import Row

    pieces = [
        (taken_apart([token], parts, rate, rng) if trained else [token], trained)
        for token, trained in zip(row.ids, row.trained, strict=True)
    ]
    ids = [token for piece, _ in pieces for token in piece]
    return Row(ids, [bool(trained) for piece, trained in pieces for _ in piece])


def ended_early(row: Row, begin: int, end: int, share: float, rng: np.random.Generator) -> Row:
    """Cut a training row within a turn and add the end-of-text token.

    Args:
        row: a demonstration; unchanged if no turn starts in it.
        begin: the first token of a turn.
        end: the end-of-text token.
        share: probability that a turn is cut, at a random position; the first cut ends the row.
        rng: the random generator.
    """
    from zerosearch_agents.sft.rows import Row

    starts = [i for i, token in enumerate(row.ids) if token == begin and row.trained[i]]
    for start in starts:
        length = next((n for n, trained in enumerate(row.trained[start:]) if not trained), len(row.ids) - start)
        if rng.random() < share:
            stop = start + 1 + int(rng.integers(length))
            return Row([*row.ids[:stop], end], [*row.trained[:stop], True])
    return row


def make_start(runs: Path, kind: Start) -> Path:
    """Train the shipped tiny policy a little further on rows with habits of larger models.

    Args:
        runs: folder for the result; a start already there is reused.
        kind: the parameters of the start.

    Returns:
        The folder of the start. With the same machine and number of threads the weights are identical bit for bit.
    """
    from zerosearch_agents.forward.attention import use_block_attention
    from zerosearch_agents.policy.files import policy_path
    from zerosearch_agents.policy.policy import load_policy, save_policy
    from zerosearch_agents.sft.fit import FitOptions, fit, one_thread
    from zerosearch_agents.tiny.pretrain import PretrainConfig, Writer

    folder = runs / kind.folder
    if folder.is_dir():
        return folder
    policy = load_policy(policy_path("tiny"))
    begin, end = policy.tokenizer.get_vocab()["<think>"], policy.tokenizer.eos_token_id
    parts, rng = merge_parts(policy.tokenizer), np.random.default_rng(0)
    config = PretrainConfig()
    writer = Writer(policy.tokenizer, config, stage=1)

    def draw_rows(count: int, _: float) -> list[Row]:
        rows = writer.rows(count, progress=1.0, demonstrations=config.warm_demonstrations)
        if kind.early:
            rows = [ended_early(row, begin, end, kind.early, rng) for row in rows]
        return [respelled(row, parts, kind.apart, rng) for row in rows]

    use_block_attention(policy.model)
    options = FitOptions("start", int(kind.tokens), config.batch_tokens, kind.learning_rate, 0.0, config.dtype)
    with one_thread():
        fit(policy.model, draw_rows, options)
    return save_policy(policy, folder, dtype="bfloat16")
