"""Training rows of supervised fine-tuning: token ids, and which of them are trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One training text: token ids, and for each of them whether it is trained on."""

    ids: list[int]
    trained: list[bool]


Segment = tuple[str, bool]
"""A piece of text, and whether the model is trained on it."""
