"""Batches of fixed shape, so that a model's output for a text does not depend on the other texts of its batch.

Matrix products are rounded differently for different shapes. So the last bits of a text's embedding change with the
size of the batch, and with the padding needed for a longer text in it. Here texts are grouped into length classes, and
all batches of a class have the same number of rows and tokens: at least one row is a filler text with exactly the
length of the class, and the fillers also occupy the unused rows. A row then gets the same result in every batch.

    length class of 8 tokens, rows = 4:      text    x x x x x . . .     (. is padding)
                                             text    x x x x x x x .
                                             filler  a a a a a a a a     sets the length
                                             filler  a a a a a a a a     unused row
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

_WORD = "a "
_STEP = 4


class Fillers:
    """Filler texts of increasing length, one per length class.

    Args:
        measure: returns the number of tokens of a text (or of a pair with it) after truncation.
    """

    def __init__(self, measure: Callable[[str], int]) -> None:
        self._measure = measure
        self._rungs: list[tuple[int, str]] = []
        """Pairs (tokens, text), both increasing; truncation may cut the last text."""

    def at_least(self, tokens: int) -> str:
        """The shortest filler with at least `tokens` tokens, or the longest one that truncation allows."""
        for length, text in self._rungs:
            if length >= tokens:
                return text
        while True:
            words = len(self._rungs[-1][1]) // len(_WORD) if self._rungs else 0
            text = _WORD * (words + max(_STEP, words // 8 // _STEP * _STEP))
            length = self._measure(text)
            if self._rungs and length <= self._rungs[-1][0]:
                return self._rungs[-1][1]
            self._rungs.append((length, text))
            if length >= tokens:
                return text


def steady_batches(lengths: Sequence[int], fillers: Fillers, rows: int) -> Iterator[tuple[str, list[int]]]:
    """Group texts into batches of `rows` rows, such that a text's batch shape depends only on the text's length.

    Args:
        lengths: number of tokens of each text.
        fillers: fillers for the same tokenizer.
        rows: rows per batch, at least 2; one row is reserved for the filler.

    Yields:
        Pairs (filler, positions of at most rows - 1 texts); the caller fills the batch up to `rows` with the filler.
    """
    classes: dict[str, list[int]] = {}
    for position, length in enumerate(lengths):
        classes.setdefault(fillers.at_least(length), []).append(position)
    for filler, positions in classes.items():
        for start in range(0, len(positions), rows - 1):
            yield filler, positions[start : start + rows - 1]
