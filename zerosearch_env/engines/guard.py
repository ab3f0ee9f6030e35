"""The leak guard: detects gold answers in documents and removes them.

A document states an answer if `rewards.contains_answer` finds it, either in the text itself or after folding accents,
hyphens, full-width letters and invisible characters. The folding catches a model that smuggles an answer out as
"Zür-ich".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from ..game.rewards import contains_answer, normalize_answer
from ..types import Document, full_text

REDACTED = "..."
"""Replaces a removed answer. Search engines shorten snippets the same way, so it does not reveal the removal."""

_View = Callable[[str], list[str]]
"""Maps a word to the tokens that are compared with the answers."""

_JOINERS = {ord(c): None for c in "\u00ad\u200b\u200c\u200d\u2060\ufeff"}
_DASHES = {ord(c): " " for c in "-_/\u2010\u2011\u2012\u2013\u2014\u2015\u2212"}


def leaks(document: Document, answers: Sequence[str]) -> bool:
    """Whether the title or text of a document states a gold answer."""
    text = full_text(document)
    if contains_answer(text, answers):
        return True
    spaced = _fold(text)
    folded = _folded_answers(tuple(answers))
    return contains_answer(spaced, folded) or ("-" in text and contains_answer(_fold(text.replace("-", "")), folded))


def redact(document: Document, answers: Sequence[str]) -> Document | None:
    """Remove the gold answers from a document.

    Returns:
        The redacted document; None if no text would be left, or if an answer could not be removed.
    """
    title, text = document.title, document.text
    for _ in range(2 + len(answers)):
        clean = replace(document, title=_redact(title, answers), text=_redact(text, answers))
        if not leaks(clean, answers):
            return clean if normalize_answer(clean.text) else None
        # An answer may start in the title and end in the text.
        title, text = "", f"{clean.title} {clean.text}".strip()
    return None


def _redact(text: str, answers: Sequence[str]) -> str:
    plain = [tuple(normalize_answer(answer).split()) for answer in answers]
    folded = [tuple(normalize_answer(answer).split()) for answer in _folded_answers(tuple(answers))]
    words = text.split()
    for view, golds in (_plain_tokens, plain), (_folded_tokens, folded), (_joined_tokens, folded):
        words = _without(words, view, [gold for gold in golds if gold])
    return " ".join(words)


def _without(words: list[str], view: _View, golds: Sequence[tuple[str, ...]]) -> list[str]:
    """Replace each run of words that spells a gold answer.

    Repeats until none is found, since a replacement can bring words together that spell another answer.
    """
    while True:
        tokens = [(token, index) for index, word in enumerate(words) for token in view(word)]
        span = next(
            (
                (tokens[start][1], tokens[start + len(gold) - 1][1])
                for gold in golds
                for start in range(len(tokens) - len(gold) + 1)
                if all(tokens[start + offset][0] == part for offset, part in enumerate(gold))
            ),
            None,
        )
        if span is None:
            return words
        words = [*words[: span[0]], REDACTED, *words[span[1] + 1 :]]


def _plain_tokens(word: str) -> list[str]:
    return normalize_answer(word).split()


def _folded_tokens(word: str) -> list[str]:
    return normalize_answer(_fold(word)).split()


def _joined_tokens(word: str) -> list[str]:
    return normalize_answer(_fold(word.replace("-", ""))).split()


def _fold(text: str) -> str:
    if text.isascii():
        return text.translate(_DASHES)
    decomposed = unicodedata.normalize("NFKD", text.translate(_JOINERS))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold().translate(_DASHES)


@lru_cache(maxsize=16384)
def _folded_answers(answers: tuple[str, ...]) -> tuple[str, ...]:
    # Answers such as "..." or "!!!" fold to an empty string; only the plain comparison handles them.
    return tuple(folded for answer in answers if normalize_answer(folded := _fold(answer)))
