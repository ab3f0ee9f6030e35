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
# After a search it first writes what the documents are about, and only then whether that is what it needs: a small
# model judges better what it has just written.
READ = (
    "This is about {titles}",
    "I found {titles}",
    "The search gives {titles}",
)
STATED = (
    ": {quote}.",
    ", and it says: {quote}.",
)
ELSEWHERE = (
    ", not {subject}.",
    ", nothing on {subject}.",
)
ABSENT = (
    ", without the answer.",
    ", but no answer.",
)
STATED_UNTITLED = (
    "It says: {quote}.",
    "The document says: {quote}.",
)
NEXT = (
    "Now I need {fact}.",
    "Next, find {fact}.",
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
    """A title as it is named in a thought; a long one is cut."""
    words = plain(bare_title(title)).split()
    kept = words[:_TITLE_WORDS]
    while len(kept) < len(words) and len(kept) > 1 and kept[-1].islower():
        kept.pop()  # "of"
    return " ".join(kept) if len(kept) == len(words) else " ".join(kept).rstrip(",")
