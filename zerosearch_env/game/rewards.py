"""Answer scoring: SQuAD normalisation, exact match, token F1, containment on token boundaries.

Every score is the best over all gold answers. A prediction equal to a gold answer scores 1.0; an empty or missing
prediction scores 0.0. Only the prediction is scored, never a prompt, a document or a thought.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import ConfigError

MAX_SUBEM_WORDS = 50
"""A longer prediction scores 0 in subEM: otherwise a list of candidates, or the documents themselves, would be paid."""

_PUNCTUATION = {ord(mark): None for mark in string.punctuation}
_PUNCTUATION_BYTES = string.punctuation.encode()
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def _bare(text: str) -> str:
    """`text` in lower case and without ASCII punctuation."""
    lower = text.lower()
    if lower.isascii():  # most texts are ASCII, and translating bytes takes a fifth of the time
        return lower.encode().translate(None, _PUNCTUATION_BYTES).decode()
    return lower.translate(_PUNCTUATION)


def normalize_answer(text: str) -> str:
    """Lower-case, remove ASCII punctuation and articles, collapse white space (Rajpurkar et al., SQuAD, 2016)."""
    return " ".join(ARTICLES.sub(" ", _bare(text)).split())


def answer_key(text: str) -> str:
    """What exact match compares: two answers are the same if their keys are equal. Empty only for a blank text."""
    # Some answers normalise to the empty string, such as the band names "The" or "!!!". They are compared without
    # normalisation, ignoring only case and white space. The two kinds of key cannot collide, because a key of the
    # second kind would normalise to the empty string.
    return normalize_answer(text) or " ".join(text.casefold().split())


_short_key = lru_cache(maxsize=8192)(answer_key)
"""Cached, because policies often repeat an answer; `score` bypasses the cache for long texts."""


@dataclass(frozen=True, slots=True)
class _Gold:
    key: str
    padded: str
    """The key between blanks, for searching on token boundaries; empty if the answer normalises to nothing."""


@lru_cache(maxsize=16384)
def _golds(answers: tuple[str, ...]) -> tuple[_Gold, ...]:
    golds = []
    for answer in answers:
        normal = normalize_answer(answer)
        key = answer_key(answer)
        if key:
            golds.append(_Gold(key, f" {normal} " if normal else ""))
    return tuple(golds)


def answer_tuple(answers: Sequence[str]) -> tuple[str, ...]:
    """The gold answers as a tuple.

    Raises:
        ConfigError: they are a single string.
    """
    if isinstance(answers, str):
        raise ConfigError(f"gold answers must be a sequence of strings, got one string {answers!r}. Put it in a tuple.")
    return tuple(answers)


def score(prediction: str | None, answers: Sequence[str]) -> tuple[float, float, float]:
    """Exact match, F1 and subEM of one prediction, computed in one pass. Each is the best over `answers`, in [0, 1]."""
    key = "" if not prediction else _short_key(prediction) if len(prediction) <= 256 else answer_key(prediction)
    if not key:
        return 0.0, 0.0, 0.0
    golds = _golds(answer_tuple(answers))
    for gold in golds:
        if gold.key == key:
            return 1.0, 1.0, 1.0
    words = key.split()
    padded, bag = f" {key} ", Counter(words)
    f1 = max((_overlap(bag, Counter(gold.key.split())) for gold in golds), default=0.0)
    short = len(words) <= MAX_SUBEM_WORDS
    return 0.0, f1, float(short and any(gold.padded and gold.padded in padded for gold in golds))


def _overlap(prediction: Counter[str], gold: Counter[str]) -> float:
    common = (prediction & gold).total()
    return 2.0 * common / (prediction.total() + gold.total())


def exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals a normalised gold answer, else 0.0."""
    return score(prediction, answers)[0]


def f1_score(prediction: str | None, answers: Sequence[str]) -> float:
    """Token F1 = 2 * common / (predicted tokens + gold tokens) after normalisation, the best over all gold answers."""
    return score(prediction, answers)[1]


def sub_exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 if the normalised prediction contains a normalised gold answer on token boundaries, else 0.0.

    A prediction of more than `MAX_SUBEM_WORDS` words scores 0, unless it equals a gold answer. A gold answer that
    normalises to nothing ("The") must equal the whole prediction; otherwise it would match anything.

    A short list of candidates ("Paris, Lyon or Nice") still scores 1, and so does a denial ("not Paris").
    """
    return score(prediction, answers)[2]
