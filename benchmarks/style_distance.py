"""How far two sets of documents are apart in style: word n-grams and lengths, each between 0 and 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from zerosearch_env.types import Document

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def style_distance(some: Sequence[Document], others: Sequence[Document]) -> dict[str, float]:
    """Distances between the texts of two sets of documents.

    Finite sets drawn from one distribution are some way apart too, in longer n-grams above all: compare with the
    distance of two sets of real documents of the same sizes.

    Returns:
        `words`, `pairs`, `triples`: Jensen-Shannon divergence (base 2) of the n-grams for n = 1, 2, 3. `length`:
        Kolmogorov-Smirnov distance of the numbers of words. `mean`: of the four.
    """
    left, right = [words(d.text) for d in some], [words(d.text) for d in others]
    parts = {
        name: _jensen_shannon(_grams(left, n), _grams(right, n))
        for n, name in enumerate(("words", "pairs", "triples"), 1)
    }
    parts["length"] = _kolmogorov_smirnov([len(text) for text in left], [len(text) for text in right])
    return {**parts, "mean": float(np.mean(list(parts.values())))}


def _grams(texts: Iterable[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1))


def _jensen_shannon(some: Counter[tuple[str, ...]], others: Counter[tuple[str, ...]]) -> float:
    keys = list(some | others)
    p, q = (np.array([counts[key] for key in keys], dtype=np.float64) for counts in (some, others))
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    terms = [np.sum(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])) for x in (p, q)]
    return float(np.clip(sum(terms) / 2, 0.0, 1.0))


def _kolmogorov_smirnov(some: Sequence[int], others: Sequence[int]) -> float:
    points = np.union1d(some, others)
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (some, others)]
    return float(np.abs(shares[0] - shares[1]).max())
