"""Finds the question that a request belongs to: by its text or id, or by its text inside the query."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from ..types import Question

HEADER = "ZeroSearch-Question"
"""Request header with the text or id of the question, percent-encoded where it is not ASCII."""

_WORD = re.compile(r"\w+")
_FEWEST_WORDS = 4
"""A shorter question is found only by a query that consists of it: its words occur in other queries."""


class KnownQuestions:
    """The questions of a dataset. Case and punctuation are ignored; a repeated question has the answers of all.

    Args:
        questions: the questions.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_id = {question.id: question for question in questions}
        self._by_text: dict[str, Question] = {}
        for question in questions:
            key = " ".join(_words(question.text)) or question.text
            known = self._by_text.get(key)
            if known is not None and known.answers != question.answers:
                question = replace(known, answers=tuple(dict.fromkeys((*known.answers, *question.answers))))
            self._by_text[key] = question
        lengths = {key.count(" ") + 1 for key in self._by_text}
        self._lengths = sorted((length for length in lengths if length >= _FEWEST_WORDS), reverse=True)

    def named(self, name: str) -> Question | None:
        """The question with this text or id."""
        return self._by_text.get(" ".join(_words(name))) or self._by_id.get(name)

    def in_query(self, query: str) -> Question | None:
        """The longest question whose text is in the query."""
        words = _words(query)
        whole = self._by_text.get(" ".join(words))
        if whole is not None:
            return whole
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                question = self._by_text.get(" ".join(words[start : start + length]))
                if question is not None:
                    return question
        return None


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
