"""Sentences of a text, for the kinds of noise that cut and repeat them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ...game.answers import contains_answer

_END = re.compile(
    r"[.!?\u3002\uff01\uff1f]+['\")\]\u201d\u2019\u300d\u300f]*"
    r"(?:(?=\s+[^a-z\s]|\s*\Z)|(?<=[\u3002\uff01\uff1f\u300d\u300f]))"
)
_OTHER_MARKS = "!?\u3002\uff01\uff1f"
"""What begins a match of `_END`, besides the full stop."""
_BREAK = " qzxbreakqzx "
"""Separates sentences that are examined together: a word that no answer contains."""
_ABBREVIATIONS = frozenset(
    "Mr Mrs Ms Dr Prof St Sr Jr vs etc No Vol Gen Col Lt Sgt Capt Gov Sen Rep Hon Rev Mt Ft Inc Ltd Co Corp Bros ca "
    "approx e.g i.e fl b d r c Jan Feb Aug Sept Oct Nov Dec".split()
)


def _ends(text: str) -> Iterator[re.Match[str]]:
    """The matches of `_END`. To look for one character is several times as fast as to look for one of six."""
    if any(mark in text for mark in _OTHER_MARKS):
        yield from _END.finditer(text)
        return
    at = text.find(".")
    while at >= 0:
        match = _END.match(text, at)
        if match is not None:
            yield match
        at = text.find(".", at + 1 if match is None else match.end())


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, without the blanks between them. Abbreviations and initials end none."""
    sentences, start = [], 0
    for match in _ends(text):
        end = match.end()
        if match[0] == ".":
            word = text[text.rfind(" ", start, end) + 1 : end - 1].lstrip("([\"'")
            if (word in _ABBREVIATIONS or (word[-2:-1] in ("", ".") and word[-1:].isupper())) and text[end:].strip():
                continue
        if sentence := text[start:end].strip():
            sentences.append(sentence)
        start = end
    if rest := text[start:].strip():
        sentences.append(rest)
    return sentences


def whole_sentences(text: str, golds: Sequence[str]) -> list[str]:
    """The sentences of a text; all of it as one if an answer crosses from one into the next, as after "Chi."."""
    sentences = split_sentences(text)
    crosses = len(sentences) > 1 and not contains_answer(_BREAK.join(sentences), golds) and contains_answer(text, golds)
    return [text] if crosses else sentences
