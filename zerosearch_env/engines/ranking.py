"""A ranking of passages, as BM25 and dense indexes return it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCALE = 1 << 16
"""Fixed-point units in a BM25 score of 1."""


@dataclass(frozen=True)
class Ranking:
    """The best passages for one query, best first."""

    ids: NDArray[np.int64]
    """Positions of the passages, shape (n,); BM25 only ranks passages that share a word with the query."""
    scores: NDArray[np.int32] | NDArray[np.int64]
    """Scores in units of 1 / SCALE, shape (n,); BM25 scores are at least 1."""
