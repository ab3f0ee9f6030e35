"""Batches of one shape: what a network computes for a text must not depend on which other texts are beside it.

A network's matrix products are rounded differently for different shapes, so that a text's embedding changes in its
last bits with the size of the batch and with the padding that a longer neighbour brings. Here every batch of one
length class has the same number of rows and the same number of tokens: a filler text of exactly that length stands in
the first row and in all rows that are left over. What is then computed for a row is the same in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

_WORD = "a "
_STEP = 4


class Fillers:
    """Filler texts of growing length, one a length class.

    Args:
        measure: the number of tokens that a text (or a pair with it) has after truncation.
    """

    def __init__(self, measure: Callable[[str], int]) -> None:
        self._measure = measure
        self._rungs: list[tuple[int, str]] = []
        """(tokens, text), both growing; the last one may be cut off by truncation."""

    def at_least(self, tokens: int) -> str:
        """The shortest filler with at least that many tokens, or the longest one that truncation leaves."""
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
    """Group texts so that each can be computed in a batch of `rows` rows whose shape only its own length decides.

    Args:
        lengths: tokens of each text.
        fillers: of the same tokenizer.
        rows: rows of every batch, at least 2: one of them is the filler's.

    Yields:
        (filler, positions of at most rows - 1 texts); the caller fills the batch up to `rows` with the filler.
    """
    classes: dict[str, list[int]] = {}
    for position, length in enumerate(lengths):
        classes.setdefault(fillers.at_least(length), []).append(position)
    for filler, positions in classes.items():
        for start in range(0, len(positions), rows - 1):
            yield filler, positions[start : start + rows - 1]
