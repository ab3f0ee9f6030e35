"""Finds the question of a search: by its text or id, by its text inside the query, or roughly, by common words."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from ..engines.corpus.passages import PassageIndex
from ..types import Document, Question

HEADER = "ZeroSearch-Question"
"""Request header with the text or id of the question, percent-encoded where it is not ASCII."""

_WORD = re.compile(r"\w+")
_FEWEST_WORDS = 4
"""A shorter question is found only by a query that consists of it: its words occur in other queries."""
_NEAREST = 32
"""Number of questions that a query may belong to if it contains none. Of 3,169 queries that agents wrote for HotpotQA's
questions, 94 % have theirs among the first 32 of 7,405; 64 would be 95 %, and twice the time of a noisy search."""


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
        self._questions = tuple(self._by_text.values())

    @functools.cached_property
    def _index(self) -> PassageIndex:
        """Made when the first noisy search needs it: without noise, none does."""
        return PassageIndex([_described(question) for question in self._questions])

    def build(self) -> None:
        """Build the index of `answers_near` now instead of at its first call."""
        if self._questions:
            self._index.rank([""], [1])

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

    def answers_near(self, query: str) -> tuple[str, ...]:
        """The answers of the questions that a query may belong to: the 32 closest ones that share a word with it.

        A question is compared by its text, the titles of its supporting paragraphs, and the answers of its steps, with
        BM25. So a query for a later step ("mayor of Elm Hill") is close to its question if the dataset has the steps.
        """
        if not self._questions:
            return ()
        places = self._index.rank([query], [_NEAREST])[0].ids[:_NEAREST].tolist()
        return tuple(dict.fromkeys(answer for place in places for answer in self._questions[place].answers))


def _described(question: Question) -> Document:
    return Document("", " ".join((question.text, *question.supporting, *question.steps)))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
