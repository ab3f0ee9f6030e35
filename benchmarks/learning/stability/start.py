"""Starts for `zerosearch bench stability` with habits of larger models that the shipped tiny policy has not.

It is trained on for a short while, on its own kind of demonstrations, in which what the policy writes is changed:

- `taken-apart`: it does not always write the tokens that its tokenizer would. Large models sampled at temperature 1 do
  not either, nor do models trained with subword regularisation (BPE-dropout, Provilkov et al., ACL 2020, arXiv
  1910.13267). Where BPE-dropout leaves out merges at random, here merges are undone at random: the text stays, its
  tokens differ.
- `early-ends`: it often ends a turn before it has acted, by the token that ends a text, as base models do.
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
    """How a start is made."""

    apart: float
    """Probability that a token which the policy writes is taken apart."""
    early: float
    """Probability that a turn is cut at a random place, with the token that ends a text behind it."""
    tokens: float
    """Budget, context included."""
    learning_rate: float
    """Its peak; it falls to zero."""

    @property
    def folder(self) -> str:
        """Name of its folder, which holds everything that decides it."""
        habits = f"{self.apart:g}" + (f"-{self.early:g}" if self.early else "")
        return f"start-{habits}-{self.tokens:g}-{self.learning_rate:g}"


STARTS = {
    "taken-apart": Start(apart=0.05, early=0.0, tokens=1.2e6, learning_rate=1e-3),
    "early-ends": Start(apart=0.0, early=0.3, tokens=0.3e6, learning_rate=5e-4),
}


def merge_parts(tokenizer: PreTrainedTokenizerBase) -> Parts:
    """What each merged token of a BPE tokenizer is made of; tags, bytes and special tokens are made of nothing."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = model["vocab"]
    return {ids[left + right]: (ids[left], ids[right]) for left, right in model["merges"]}


def taken_apart(ids: Sequence[int], parts: Parts, rate: float, rng: np.random.Generator) -> list[int]:
    """Ids that decode to the same text: each merged token is undone with probability `rate`, and so are its parts."""
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
    """A training text whose trained tokens are taken apart at random; documents and prompts stay as they are."""
    from zerosearch_agents.sft.rows import Row

    pieces = [
        (taken_apart([token], parts, rate, rng) if trained else [token], trained)
        for token, trained in zip(row.ids, row.trained, strict=True)
    ]
    ids = [token for piece, _ in pieces for token in piece]
    return Row(ids, [trained for piece, trained in pieces for _ in piece])


def ended_early(row: Row, begin: int, end: int, share: float, rng: np.random.Generator) -> Row:
    """A training text that stops within a turn, with the token that ends one.

    Args:
        row: a demonstration; where no turn begins in it, it stays as it is.
        begin: the token that a turn begins with.
        end: the token that ends the text.
        share: probability that a turn is cut, at a place drawn at random; the first one that is ends the text.
        rng: the draws.
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
    """The shipped tiny policy, trained on for a short while on texts with habits of larger models.

    Args:
        runs: folder in which its own is written; a start that an earlier call has left there is taken as it is.
        kind: which habits, how strong, how long.

    Returns:
        Its folder. One machine and one number of threads give the same weights bit for bit.
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
        for _ in fit(policy.model.train(), draw_rows, options):
            pass
    return save_policy(policy, folder, dtype="bfloat16")
