"""Training rows of supervised fine-tuning: token ids, and which of them are trained on."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


Segment = tuple[str, bool]
"""A piece of text, and whether the model is trained on it."""


def encode_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[Segment]]) -> list[Row]:
    """Tokenize texts given as segments; no token crosses the border between two segments."""
    pieces = [segment for text in texts for segment in text]
    ids = iter(tokenizer([piece for piece, _ in pieces], add_special_tokens=False)["input_ids"])
    rows = []
    for text in texts:
        tokens = [(token, trained) for _, trained in text for token in next(ids)]
        rows.append(Row([token for token, _ in tokens], [trained for _, trained in tokens]))
    return rows
