"""Training rows of supervised fine-tuning: token ids, and which of them are trained on."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zerosearch_env.llm.tokens import encode_prompts, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Row:
    """One training text: token ids, and for each of them whether it is trained on."""

    ids: MutableSequence[int]
    trained: list[bool] | bytearray

    @property
    def targets(self) -> int:
        """Number of tokens that are trained on."""
        return sum(self.trained)

    @property
    def longest_turn(self) -> int:
        """Number of tokens in the longest run of tokens that are trained on."""
        return max(map(len, bytes(self.trained).split(b"\0")))


Segment = tuple[str, bool]
"""A piece of text, and whether the model is trained on it."""


def encode_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[Segment]]) -> list[Row]:
    """Tokenize texts given as segments; no token crosses the border between two segments.

    What is trained on is the model's own text and keeps its control tokens, such as the end token. Everything else has
    the ids that it has in a rollout: a prompt if it is a text's first segment, environment text otherwise.
    """
    own = [piece for text in texts for piece, trained in text if trained]
    prompts = [text[0][0] for text in texts if text and not text[0][1]]
    replies = [piece for text in texts for piece, trained in text[1:] if not trained]
    own_ids = iter(tokenizer(own, add_special_tokens=False)["input_ids"] if own else [])
    prompt_ids, reply_ids = iter(encode_prompts(prompts, tokenizer)), iter(encode_texts(replies, tokenizer))
    rows = []
    for text in texts:
        row = Row([], [])
        for number, (_, trained) in enumerate(text):
            ids = next(own_ids if trained else reply_ids if number else prompt_ids)
            row.ids.extend(ids)
            row.trained.extend([trained] * len(ids))
        rows.append(row)
    return rows
