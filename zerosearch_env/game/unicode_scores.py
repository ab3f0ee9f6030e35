"""Exact match and F1 for answers in any script: `em_unicode` and `f1_unicode`.

SQuAD's scores, the default, compare with papers, but they know only ASCII punctuation and words between blanks. These
know more. Each line shows a pair that SQuAD's exact match judges wrongly:

    equal here, different in SQuAD      different here, equal in SQuAD
    "Paris"       «Paris»               15 million    1.5 million
    巴黎。        巴黎                  10            -10
    (A)           A                     C             C++

A text becomes tokens: folded words (see `folding.fold`; accents stay), numbers with their sign and decimal point, and
single characters in scripts that are written without blanks. English articles are left out if anything else is left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from .folding import MARKS, UNSPACED, fold

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER = r"(?<![\w.,])[-+]?\d+(?:[.,]\d+)*"
_TOKEN = re.compile(rf"{_NUMBER}|[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W_]|[{MARKS}])+(?:\+\+|#)?")
# Deleted rather than read as the end of a word: "O'Brien", "U.S."; the point of a number stays.
_INNER = re.compile(r"(?<=[^\W\d_])[.'](?=[^\W\d_])|(?<=\b[^\W\d_])\.(?!\w)")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def unicode_tokens(text: str) -> tuple[str, ...]:
    """The tokens of a text that the two scores compare; a text without letters and digits is one token."""
    folded = fold(text)
    tokens = [
        token.replace(",", "") if _THOUSANDS.fullmatch(token) else token
        for token in _TOKEN.findall(_INNER.sub("", folded))
    ]
    rest = tuple(token for token in tokens if token not in _ARTICLES) or tuple(tokens)
    return rest or tuple(filter(None, [" ".join(folded.split())]))


_short_tokens = lru_cache(maxsize=16384)(unicode_tokens)


def unicode_score(prediction: str | None, answers: Sequence[str]) -> tuple[float, float]:
    """`em_unicode` and `f1_unicode` of one prediction, each the best over `answers`, in [0, 1].

    F1 = 2 * common / (predicted tokens + gold tokens). An empty or missing prediction scores 0.
    """
    if not prediction:
        return 0.0, 0.0
    tokens = _short_tokens(prediction) if len(prediction) <= 256 else unicode_tokens(prediction)
    golds = [gold for gold in map(_short_tokens, answers) if gold]
    if not tokens or not golds:
        return 0.0, 0.0
    if tokens in golds:
        return 1.0, 1.0
    bag = Counter(tokens)
    return 0.0, max(2.0 * (bag & Counter(gold)).total() / (len(tokens) + len(gold)) for gold in golds)


def unicode_exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 if the prediction has the same tokens as a gold answer, in order, else 0.0."""
    return unicode_score(prediction, answers)[0]


def unicode_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """Token F1 of the prediction, the best over the gold answers."""
    return unicode_score(prediction, answers)[1]
