"""Intermediate steps of a question, as a query reveals them."""

from __future__ import annotations

from ..game.answers import contains_answer
from ..game.rewards import normalize_answer
from ..types import SearchRequest


def named_steps(request: SearchRequest) -> list[bool]:
    """Whether the query names the answer of each step, by all of it or by its last word ("birthplace of Holm")."""
    if not request.steps:
        return []
    words = normalize_answer(request.query).split()
    return [contains_answer(request.query, (step,)) or _last_word(step) in words for step in request.steps]


def _last_word(text: str) -> str | None:
    return next(reversed(normalize_answer(text).split()), None)
