"""Pages that answer a question with yes or no: no replacement of words makes a document state the wrong one."""

from __future__ import annotations

from collections.abc import Sequence

from ...game.answers import contains_answer
from ...randomness import mix
from ...types import Document, full_text
from ..guard import remove_answers

_CLAIMS = (
    "Q: {question} A: {answer}.",
    "{question} Short answer: {answer}.",
    "{question} {answer}, according to all the sources that we checked.",
    "Asked by a reader: {question} Our reply: {answer}.",
    "Trivia of the day: {question} (Solution: {answer})",
    "Best answer (chosen by the asker): {answer}. The question was: {question}",
)
_SHORT = ("Short answer: {answer}.", "{answer}, according to all the sources that we checked.")
"""For a question that contains the right answer."""


def with_claim(document: Document, question: str, golds: Sequence[str], wrong: str, seed: int) -> Document | None:
    """A document that begins with the wrong answer to a yes-or-no question.

    Args:
        document: an on-topic document.
        question: the question.
        golds: the gold answers, which the result does not state.
        wrong: "yes" or "no".
        seed: determines the wording.

    Returns:
        The document; None if nothing would be left without the gold answers.
    """
    clean = remove_answers(document, golds) if contains_answer(full_text(document), golds) else document
    if clean is None:
        return None
    answer = wrong.capitalize()
    asked = question.strip()
    asked = asked[:1].upper() + asked[1:] + ("" if asked.endswith("?") else "?")
    start = mix(seed, 130) % len(_CLAIMS)
    for claim in (*_CLAIMS[start:], *_CLAIMS[:start], *_SHORT):
        text = f"{claim.replace('{question}', asked).replace('{answer}', answer)} {clean.text}"
        made = Document(clean.title, text, clean.source, clean.score)
        if not contains_answer(full_text(made), golds):
            return made
    return None
