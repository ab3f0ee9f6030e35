"""Removes gold answers from documents."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from ..game.answers import answer_spans, contains_answer, without_markup
from ..game.folding import WORD
from ..types import Document, full_text

REDACTED = "..."
"""Replaces a removed answer. Search engines shorten snippets the same way, so it does not reveal the removal."""


def remove_answers(document: Document, answers: Sequence[str]) -> Document | None:
    """Remove the gold answers from a document.

    Returns:
        The document without them; None if no text would be left, or if an answer could not be removed.
    """
    title, text = document.title, document.text
    for _ in range(2 + len(answers)):
        clean = replace(document, title=_without_answers(title, answers), text=_without_answers(text, answers))
        if not contains_answer(full_text(clean), answers):
            return clean if WORD.search(clean.text) else None
        # An answer may start in the title and end in the text, or be hidden in markup.
        title, text = "", without_markup(full_text(clean))
    return None


def _without_answers(text: str, answers: Sequence[str]) -> str:
    text = unicodedata.normalize("NFC", text)
    # Removing an answer can bring words together that spell another one.
    while spans := answer_spans(text, answers):
        start, end = spans[0]
        # The rest of an ASCII word goes too: "Paris's", "x/Paris".
        while start > 0 and text[start - 1].isascii() and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and text[end].isascii() and not text[end].isspace():
            end += 1
        text = " ".join(f"{text[:start]} {REDACTED} {text[end:]}".split())
    return text
