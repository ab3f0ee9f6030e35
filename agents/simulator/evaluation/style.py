"""Similarity in style of two engines' documents: n-gram and length statistics, with intervals.

Each family of n-grams gives a histogram. An n-gram has its own bin if it occurs with at least 3 questions (of both
samples together), up to the 2,000 most frequent; all others share one more bin. Rarer n-grams reflect the topic of a
question, not a style. All digits count as the same symbol. The distance between two histograms p and q is the
Jensen-Shannon divergence in bits (Lin, 1991), from 0 (identical) to 1 (nothing in common):

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2

The distance between lengths is the Wasserstein distance in words: the area between the two distribution functions. Two
small samples of the same engine would have a positive distance. Both distances are therefore corrected for bias by the
jackknife over the questions of both samples, which also gives the 95 % interval (Quenouille, 1956; Tukey, 1958):

    bias_s = (n_s - 1) (mean_i d_(-i) - d),   variance_s = (n_s - 1) / n_s sum_i (d_(-i) - mean)^2
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.types import Document, full_text

from ...evaluation.statistics import EMPTY, Interval, mean_interval

BINS = 2000
SHARED = 3
"""Minimum number of questions that an n-gram must occur with to get its own bin."""
_Z = 1.959964
_TOKEN = re.compile(r"\w+|[^\w\s]")

Sample = Mapping[str, Sequence[Document]]
"""Documents by question."""
Matrix = NDArray[np.float64]
"""Counts, shape (questions, bins)."""


def words(text: str) -> list[str]:
    """Words and punctuation marks, ignoring case; every digit becomes 0."""
    return _TOKEN.findall(re.sub(r"\d", "0", text.casefold()))


def _word_pairs(text: str) -> list[str]:
    return [f"{a} {b}" for a, b in pairwise(words(text))]


def _characters(text: str) -> list[str]:
    text = re.sub(r"\d", "0", " ".join(text.split()))
    return [text[i : i + 3] for i in range(len(text) - 2)]


FAMILIES: dict[str, Callable[[str], list[str]]] = {
    "words": words,
    "word_pairs": _word_pairs,
    "character_triples": _characters,
}
"""Name of a distance -> function that lists the n-grams of a text; character triples are case-sensitive."""


def style_distance(sample: Sample, reference: Sample) -> dict[str, Interval]:
    """Distances between two samples: for each of `FAMILIES` in bits, and `length` in words.

    Args:
        sample: documents by question.
        reference: documents of the other engine by question; the questions may differ.
    """
    if not any(sample.values()) or not any(reference.values()):
        return dict.fromkeys([*FAMILIES, "length"], EMPTY)
    texts = [
        [[full_text(d) for d in documents] for documents in by_question.values()] for by_question in (sample, reference)
    ]
    distances = {}
    for name, split in FAMILIES.items():
        counts = [[Counter(part for text in unit for part in split(text)) for unit in units] for units in texts]
        distances[name] = _two_sample_jackknife(*_histograms(*counts), _jensen_shannon)
    lengths = [[Counter(len(text.split()) for text in unit) for unit in units] for units in texts]
    width = 1 + max(length for units in lengths for unit in units for length in unit)
    rows = [np.array([[unit[n] for n in range(width)] for unit in units], dtype=np.float64) for units in lengths]
    distances["length"] = _two_sample_jackknife(rows[0], rows[1], _wasserstein)
    return distances


def halves(sample: Sample) -> tuple[Sample, Sample]:
    """Split a sample into two by alternating questions, to measure the distance between two samples of one engine."""
    names = list(sample)
    return {name: sample[name] for name in names[::2]}, {name: sample[name] for name in names[1::2]}


def length(documents: Sequence[Document]) -> Interval:
    """Mean number of words per document."""
    return mean_interval([len(full_text(document).split()) for document in documents], "count")


def distinctness(sets: Sequence[Sequence[Document]]) -> dict[str, Interval]:
    """Measures of repetition in and between documents.

    `documents`: distinct texts / documents, over all sets. `word_pairs`: distinct word pairs / word pairs, within a
    set. `overlap`: Jaccard overlap of the words of two documents of a set (mean over pairs; sets of one document are
    left out).
    """
    texts = [" ".join(words(full_text(document))) for documents in sets for document in documents]
    seen: Counter[str] = Counter(texts)
    # Each of the k copies of a text counts 1/k, so the mean is the share of distinct texts.
    distinct = {"documents": mean_interval([1 / seen[text] for text in texts], "graded")}
    shares, overlaps = [], []
    for documents in sets:
        pairs = [pair for document in documents for pair in _word_pairs(full_text(document))]
        if pairs:
            shares.append(len(set(pairs)) / len(pairs))
        bags = [set(words(full_text(document))) for document in documents]
        both = [(a, b) for i, a in enumerate(bags) for b in bags[i + 1 :] if a | b]
        if both:
            overlaps.append(float(np.mean([len(a & b) / len(a | b) for a, b in both])))
    return {
        **distinct,
        "word_pairs": mean_interval(shares, "graded"),
        "overlap": mean_interval(overlaps, "graded"),
    }


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The rate sum(numerators) / sum(denominators), with a jackknife interval.

    The interval is computed for the logarithm of the rate, so that it stays positive. With fewer than two terms, or a
    rate of 0, it is NaN.
    """
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not a.size or not b.sum():
        return EMPTY
    whole, n = float(a.sum() / b.sum()), a.size
    left_out = (a.sum() - a) / (b.sum() - b) if n > 1 else np.zeros(1)
    if not left_out.all():
        return Interval(whole, math.nan, math.nan, n)
    logs = np.log(left_out)
    half = math.exp(_Z * float(np.sqrt((n - 1) / n * ((logs - logs.mean()) ** 2).sum())))
    return Interval(whole, whole / half, whole * half, n)


def _histograms(sample: Sequence[Counter[str]], reference: Sequence[Counter[str]]) -> tuple[Matrix, Matrix]:
    """Counts of the n-grams that are frequent in both samples (weighted equally), and of all others in the last bin."""
    totals = [sum(units, Counter()) for units in (sample, reference)]
    sizes = [max(1, total.total()) for total in totals]
    questions = Counter(part for units in (sample, reference) for unit in units for part in unit)
    weight = {
        part: totals[0][part] / sizes[0] + totals[1][part] / sizes[1]
        for part, count in questions.items()
        if count >= SHARED
    }
    frequent = sorted(weight, key=lambda part: (-weight[part], part))[:BINS]
    place = {part: i for i, part in enumerate(frequent)}
    rows = []
    for units in (sample, reference):
        counts = np.zeros((len(units), len(frequent) + 1))
        for row, unit in enumerate(units):
            for part, count in unit.items():
                counts[row, place.get(part, len(frequent))] += count
        rows.append(counts)
    return rows[0], rows[1]


def _jensen_shannon(p: Matrix, q: Matrix) -> Matrix:
    """Jensen-Shannon divergence in bits between rows of counts, of shapes (n, bins) and (bins,) in either order."""
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(p: Matrix) -> Matrix:
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray(-(p * logs).sum(-1))


def _wasserstein(p: Matrix, q: Matrix) -> Matrix:
    """Wasserstein distance between rows of counts of 0, 1, 2, ... words."""
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return np.asarray(np.abs(np.cumsum(p - q, axis=-1)).sum(-1))


def _two_sample_jackknife(a: Matrix, b: Matrix, distance: Callable[[Matrix, Matrix], Matrix]) -> Interval:
    whole_a, whole_b = a.sum(0), b.sum(0)
    whole = float(distance(whole_a, whole_b))
    bias = variance = 0.0
    for rows, total, other in ((a, whole_a, whole_b), (b, whole_b, whole_a)):
        rest = total - rows
        rest = rest[rest.sum(-1) > 0]
        n = len(rest)
        if n < 2:
            continue
        # In slices, to limit the memory to some tens of megabytes.
        parts = [distance(rest[start : start + 200], other) for start in range(0, n, 200)]
        left_out = np.concatenate([np.atleast_1d(part) for part in parts])
        bias += (n - 1) * (float(left_out.mean()) - whole)
        variance += (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
    corrected = max(0.0, whole - bias)
    half = _Z * variance**0.5
    return Interval(corrected, max(0.0, corrected - half), corrected + half, len(a))
