"""The searcher's own words: a few phrasings for each situation, in which names and quotations are filled in."""

from __future__ import annotations

import re

from .needs import bare_title

PLAN = (
    "I need {fact}.",
    "Find {fact}.",
    "I have to look up {fact}.",
    "The question asks for {fact}.",
)
PLAN_FIRST = (
    "First I need {fact}.",
    "First find {fact}.",
    "I begin with {fact}.",
)
PLAN_UNKNOWN = (
    "I need to search for this.",
    "I have to look this up.",
    "Let me search for it.",
)
FOUND = (
    "This is about {title}: {quote}.",
    "The document on {title} says: {quote}.",
    "{title} is the right one: {quote}.",
)
FOUND_UNTITLED = (
    "It says: {quote}.",
    "The document says: {quote}.",
)
NEXT = (
    "Now I need {fact}.",
    "Next, find {fact}.",
)
ELSEWHERE = (
    "I found {titles}, not {subject}.",
    "This is about {titles}, not {subject}.",
    "Only {titles}, nothing on {subject}.",
)
ABSENT = (
    "I found {titles}, but no answer.",
    "No answer in {titles}.",
    "Nothing in {titles} answers it.",
)
NOTHING = ("Nothing was found.",)
AGAIN = (
    "Search again.",
    "I search again.",
    "Try another search.",
)
GUESS = (
    "I have to guess.",
    "So I guess.",
)
CARELESS = (
    "It must be {answer}.",
    "The answer is probably {answer}.",
    "I take {answer}.",
)

_MARKS = re.compile(r"[<>|{}\\\[\]]")
_TITLE_WORDS = 6


def plain(text: str, words: int | None = None) -> str:
    """A text without the characters of tags, on one line, cut to a number of words."""
    return " ".join(_MARKS.sub(" ", text).split()[:words])


def title_text(title: str) -> str:
    """A title as it is named in a thought."""
    return plain(bare_title(title), _TITLE_WORDS)
