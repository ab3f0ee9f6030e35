"""A start for `zerosearch bench stability` that does not always write the tokens that its tokenizer would.

Large models sampled at temperature 1 do not, and neither do models trained with subword regularisation (BPE-dropout,
Provilkov et al., ACL 2020, arXiv 1910.13267). The shipped tiny policy does, so it is trained on for a short while, on
its own kind of demonstrations, in which tokens that the policy writes are taken apart at random. Where BPE-dropout
leaves out merges at random, here merges are undone at random: the text stays, its tokens differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zerosearch_agents.fit import Row

RATE, TOKENS, PEAK = 0.05, 1.2e6, 1e-3
"""Of the start that the benchmark makes (`make_start`)."""
Parts = Mapping[int, tuple[int, int]]
"""Token -> the two tokens that the tokenizer merges into it."""


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
    from zerosearch_agents.fit import Row

    pieces = [
        (taken_apart([token], parts, rate, rng) if trained else [token], trained)
        for token, trained in zip(row.ids, row.trained, strict=True)
    ]
    ids = [token for piece, _ in pieces for token in piece]
    return Row(ids, [trained for piece, trained in pieces for _ in piece])


def make_start(runs: Path, *, rate: float = RATE, tokens: float = TOKENS, learning_rate: float = PEAK) -> Path:
    """The shipped tiny policy, trained on for a short while on texts whose tokens are taken apart at random.

    Args:
        runs: folder in which its own is written; a start that an earlier call has left there is taken as it is.
        rate: probability that a token which the policy writes is taken apart.
        tokens: budget, context included.
        learning_rate: peak; it falls to zero.

    Returns:
        Its folder. One machine and one number of threads give the same weights bit for bit.
    """
    from zerosearch_agents.attention import use_block_attention
    from zerosearch_agents.config import policy_path
    from zerosearch_agents.fit import FitOptions, fit, one_thread
    from zerosearch_agents.model import load_policy, save_policy
    from zerosearch_agents.pretrain import PretrainConfig, Writer

    folder = runs / f"start-{rate:g}-{tokens:g}-{learning_rate:g}"
    if folder.is_dir():
        return folder
    policy = load_policy(policy_path("tiny"))
    parts, rng = merge_parts(policy.tokenizer), np.random.default_rng(0)
    config = PretrainConfig()
    writer = Writer(policy.tokenizer, config, stage=1)

    def draw_rows(count: int, _: float) -> list[Row]:
        rows = writer.rows(count, progress=1.0, demonstrations=config.warm_demonstrations)
        return [respelled(row, parts, rate, rng) for row in rows]

    use_block_attention(policy.model)
    options = FitOptions("start", int(tokens), config.batch_tokens, learning_rate, 0.0, config.dtype)
    with one_thread():
        for _ in fit(policy.model.train(), draw_rows, options):
            pass
    return save_policy(policy, folder, dtype="bfloat16")
