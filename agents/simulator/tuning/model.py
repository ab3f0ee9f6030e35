"""The model of a tuning run: load it or make a new one, and save it with a card that names its prompt.

A tuned simulator is an ordinary `save_pretrained` directory plus `simulator.json`. The engine `simulated:hf:DIRECTORY`
reads the prompt from this card (`zerosearch_env.engines.simulated.card`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.engines.simulated.card import SimulatorCard

from ...config.tune import TinyShape
from ...policy.policy import save_model
from ..pairs.pair import Pair, prompt_text, target_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def new_tiny(shape: TinyShape, pairs: Sequence[Pair], *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Make a new small model that can copy from its context from the first step, and its tokenizer.

    Args:
        shape: sizes of the model.
        pairs: training pairs; the tokenizer is trained on their prompts and documents.
        seed: random seed of the weights.
    """
    from ...tiny.induction import new_tiny_model
    from ...tiny.tokenizer import build_tokenizer

    texts = [text for pair in pairs for text in (prompt_text(pair), target_text(pair.documents))]
    tokenizer = build_tokenizer(texts, shape.vocab_size, tags=())
    model = new_tiny_model(shape, tokenizer, context_tokens=shape.context_tokens, seed=seed)
    return model, tokenizer


def save_simulator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: SimulatorCard,
    path: str | os.PathLike[str],
    *,
    dtype: str,
) -> Path:
    """Write a tuned simulator as one directory, atomically; an existing one is replaced.

    Args:
        model: the model, with adapters merged.
        tokenizer: its tokenizer.
        card: the card.
        path: the directory.
        dtype: data type of the weights on disk.
    """
    return save_model(model, tokenizer, path, dtype=dtype, write_more=card.write)
