"""Documents cut before or after the sentence with the answer, like the snippets of a search engine.

The Amber Lantern is a novel by Fenric Ashdale. It appeared in 1872. Two films were made of it.

before   The Amber Lantern is a novel by ...
after    It appeared in 1872. Two films were made of it.
"""

from __future__ import annotations

from ...game.answers import contains_answer
from ...randomness import mix
from ...types import Document, full_text
from ..guard import remove_answers
from .replacing import answer_places
from .sentences import split_sentences

_LEAST_WORDS, _LEAST_CHARS = 4, 24
"""A shorter rest does not show the topic; the second number is for scripts without blanks."""
CUT = " ..."


def without_answer(document: Document, hidden: tuple[str, ...], golds: tuple[str, ...], seed: int) -> Document | None:
    """The document without the sentences that state an answer.

    Args:
        document: the document.
        hidden: answers to leave out: gold answers, and those of intermediate steps.
        golds: the gold answers, of which none is left.
        seed: determines whether the part before or after the answer stays, if both can.

    Returns:
        The document; the same one if it states no answer; None if nothing would be left.
    """
    if not contains_answer(full_text(document), hidden):
        return document
    title = "" if contains_answer(document.title, hidden) else document.title
    parts = [part for part in _parts(document.text, hidden) if _is_enough(part)]
    for part in parts[mix(seed, 30) % len(parts) :] + parts if parts else ():
        shortened = Document(title, part, document.source, document.score)
        if not contains_answer(full_text(shortened), golds):
            return shortened
    return remove_answers(document, golds)


def _is_enough(part: str) -> bool:
    return len(part.split()) >= _LEAST_WORDS or len(part) >= _LEAST_CHARS


def first_half(document: Document) -> Document:
    """The first half of a document's words, for an answer that no sentence states, such as yes."""
    words = document.text.split()
    return Document(document.title, " ".join(words[: (len(words) + 1) // 2]) + CUT, document.source, document.score)


def _parts(text: str, hidden: tuple[str, ...]) -> list[str]:
    """What may stay of a text: what is before the first sentence with an answer, or after the last.

    If the first sentence states it, what is before the answer in this sentence.
    """
    sentences = split_sentences(text)
    stating = [place for place, sentence in enumerate(sentences) if contains_answer(sentence, hidden)]
    if not stating:  # the answer crosses from one sentence into the next
        return [" ".join(sentences[:1]) + CUT, " ".join(sentences[1:])]
    first, last = stating[0], stating[-1]
    before = " ".join(sentences[:first])
    if not before:
        places = answer_places(sentences[first], hidden)
        before = sentences[first][: places[0][0]].rstrip(" ,;:(\"'-\u2013\u201c") if places else ""
    return [before + CUT if before else "", " ".join(sentences[last + 1 :])]
