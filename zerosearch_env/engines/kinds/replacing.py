"""`Replacer`: a text in which each form of an answer is replaced by another answer.

Case, articles, possessives and plurals follow the replaced words as far as a replacement of words can:

    a Hungarian film       ->  an American film        the article
    MICHAEL CURTIZ         ->  PERRY BHANDAL           capitals
    the ducks              ->  the swans               plurals
    Curtiz moved to        ->  Bhandal moved to        a last name, in a text that has the whole name
    by Scott and Russell   ->  by Bhandal              two forms of one answer next to each other
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from ...game.answers import answer_spans, contains_answer
from ...game.folding import WORD
from ...types import Document, full_text
from ..guard import remove_answers
from .answer_types import is_person

_LEADING = re.compile(r"\A(?:the|an?)\s+(?=\S)", re.IGNORECASE)
_ARTICLE = re.compile(r"(?<!\w)(the|an?)\s+\Z", re.IGNORECASE)
_BETWEEN = r"[^\w<>]{1,3}"
"""Between two words of an answer: a blank, a hyphen, `", "`."""
_MIDDLE = re.compile(r"\s+((?:[A-Z][\w.'\u2019-]*\s+){1,2}[A-Z][\w'\u2019-]*)")
"""Further names after a first name."""
_VOWEL = re.compile(r"(?!eu|uni(?!n)|use|one\b|ut[ei])[aeiou]|hon(?:ou?r|est)|heir|hour", re.IGNORECASE)
_EIGHT = re.compile(r"8|1[18](?:\d\d|,?\d{3})?(?!\d)")
"""Numbers that begin with a vowel when they are spoken: 8, 18, 1848, 11,000."""
_JOINT = re.compile(r"\s*(?:,\s*(?:and|or|&)|,|/|&|\band\b|\bor\b)\s*(?:(?:the|an?)\s+)?\Z|\s*\(\Z|\s+\Z")
_STARTS = re.compile(r"(?:\A|[.!?]['\")\]]*\s+)\Z")
_NO_PLURAL = re.compile(r"(?:s|sh|ch|x|z|ese|[^A-Za-z])\Z")
_SMALL = frozenset("of the and in on at to a an for by de la von van".split())


class Found(NamedTuple):
    """A form of an answer in a text."""

    start: int
    stop: int
    """End of its words."""
    end: int
    """End with the `s` of a plural and the mark of a possessive."""
    plural: bool
    number: int
    """Number of the form."""


class Forms:
    """Finds forms of answers in texts, in any case.

    Args:
        forms: the forms.
    """

    def __init__(self, forms: tuple[str, ...]) -> None:
        bare = [_LEADING.sub("", form, count=1) for form in forms]
        # A single letter is an answer in its own case only: it is left to `answer_spans`.
        self._literals = [
            (form.lower(), number)
            for number, form in enumerate(bare)
            if WORD.search(form) and (len(form) > 1 or form.isdigit())
        ]
        self._names: list[tuple[str, str, int]] = []
        for number, form in enumerate(bare):
            if len(names := form.lower().split()) == 2 and is_person(form):
                self._names.append((names[0], names[1], number))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Finds the forms with any blanks or marks between their words; it takes longer, and long to compile."""
        parts = [_BETWEEN.join(map(re.escape, WORD.findall(literal))) for literal, _ in self._literals]
        alternatives = "|".join(sorted(parts, key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:{alternatives})(?=(?:e?s)?(?!\w))", re.IGNORECASE)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {" ".join(WORD.findall(literal)): number for literal, number in reversed(self._literals)}

    def find(self, text: str, *, thorough: bool = False) -> list[Found]:
        """The forms in a text, in order, without overlaps; the longest of those that begin at one place.

        Args:
            text: the text.
            thorough: whether to find forms with other blanks or marks between their words too.
        """
        lower = text.lower()
        if thorough or len(lower) != len(text):
            spans = [
                (*match.span(), self._numbers.get(" ".join(WORD.findall(match[0].lower())), 0))
                for match in (self._pattern.finditer(text) if self._literals else ())
            ]
        else:
            spans = self._spans(text, lower)
        found: list[Found] = []
        for start, stop, number in sorted(spans, key=lambda span: (span[0], -span[1])):
            if (start == 0 or not _is_word(text[start - 1])) and (not found or start >= found[-1].end):
                ending = _ending(text, stop)
                if ending is not None:
                    found.append(Found(start, stop, *ending, number))
        return found

    def _spans(self, text: str, lower: str) -> list[tuple[int, int, int]]:
        spans = []
        for literal, number in self._literals:
            start = lower.find(literal)
            while start >= 0:
                spans.append((start, start + len(literal), number))
                start = lower.find(literal, start + 1)
        for first, last, number in self._names:
            if first in lower and last in lower:
                middle = _middle_names(text, lower, first, last)
                spans += [(start, end, number) for start, end in middle]
        return spans


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _ending(text: str, stop: int) -> tuple[int, bool] | None:
    """The end of a form with its plural and possessive, and whether it is a plural; None if it is part of a word."""
    end = stop
    if end < len(text) and _is_word(text[end]):
        last = text[end - 1]
        end += 2 if text.startswith("es", end) else 1 if text[end] == "s" else 0
        if end == stop or not (last.isascii() and last.isalpha()) or last in "sS":
            return None
        if end < len(text) and _is_word(text[end]):
            return None
    plural = end > stop
    if text[end - 1] == "s" and text[end : end + 1] in ("'", "\u2019") and text[end + 1 : end + 2].isspace():
        end += 1
    return end, plural


def _middle_names(text: str, lower: str, first: str, last: str) -> list[tuple[int, int]]:
    """Where a first and a last name are with one or two names between them, which an answer often leaves out."""
    spans = []
    start = lower.find(first)
    while start >= 0:
        match = _MIDDLE.match(text, start + len(first))
        if match is not None:
            end = lower.find(last, match.start(1), match.end(1))
            between = text[match.start(1) : end].split() if end > 0 else []
            if between and len(between) <= 2 and text[end - 1].isspace():
                spans.append((start, end + len(last)))
        start = lower.find(first, start + 1)
    return spans


@lru_cache(maxsize=4096)
def _forms(forms: tuple[str, ...]) -> Forms:
    return Forms(forms)


class Replacer:
    """Replaces answers in documents.

    Args:
        pairs: (form of an answer, what replaces it), of one answer or of several.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        chosen: dict[str, tuple[str, str]] = {}
        for form, wrong in pairs:
            chosen.setdefault(_LEADING.sub("", form, count=1).lower(), (form, wrong))
        self._pairs = tuple(chosen.values())
        self._forms = _forms(tuple(form for form, _ in self._pairs))
        self._last_names = [
            (last, wrong.split()[-1])
            for form, wrong in self._pairs
            if len(last := form.split()[-1]) > 2 and is_person(form) and is_person(wrong)
        ]

    def document(self, document: Document, *, thorough: bool = False) -> Document:
        """The document with the replacements in its title and its text; `thorough` as in `Forms.find`."""
        title, first = self._replace(document.title, thorough)
        text, second = self._replace(document.text, thorough)
        if first or second:  # otherwise a last name may be that of another person
            for last, wrong in self._last_names:
                if last in title or last in text:
                    pattern = _last_name(last)
                    title, text = pattern.sub(wrong, title), pattern.sub(wrong, text)
        return Document(title, text, document.source, document.score)

    def _replace(self, text: str, thorough: bool) -> tuple[str, bool]:
        found = self._forms.find(text, thorough=thorough)
        if not found:
            return text, False
        parts: list[str] = []
        at, last = 0, ("", "")
        for place in found:
            pair = self._pairs[place.number]
            if at and pair[1] == last[1] and pair[0] != last[0] and (joint := _JOINT.match(text, at, place.start)):
                # Two forms of one answer side by side: one wrong answer is enough.
                at = place.end
                if joint[0].endswith("(") and text[at : at + 1] == ")":
                    at += 1
                continue
            before = _ARTICLE.search(text, max(at, place.start - 9), place.start)
            parts += (text[at : place.start if before is None else before.start()], _fitted(text, place, before, *pair))
            at, last = place.end, pair
        return "".join((*parts, text[at:])), True


def replace_answers(document: Document, replacer: Replacer, golds: tuple[str, ...], wrong: str) -> Document | None:
    """A document in which gold answers are replaced by a wrong one, so that it states none.

    Args:
        document: a document that states a gold answer.
        replacer: replaces the usual forms.
        golds: the gold answers.
        wrong: replaces the forms that only the detector finds, such as another spelling.

    Returns:
        The document, or None if nothing would be left of it.
    """
    for thorough in (False, True):
        changed = replacer.document(document, thorough=thorough)
        if not contains_answer(full_text(changed), golds):
            return changed
    spelt = Document(
        _over_spans(changed.title, golds, wrong), _over_spans(changed.text, golds, wrong), changed.source, changed.score
    )
    return spelt if not contains_answer(full_text(spelt), golds) else remove_answers(spelt, golds)


def answer_places(text: str, golds: tuple[str, ...]) -> list[tuple[int, int]]:
    """Where a text states gold answers: (start, end) in characters, in order.

    The usual forms are found at a small part of the cost of `answer_spans`, which finds the others.
    """
    for thorough in (False, True):
        spans = [(place.start, place.stop) for place in _forms(golds).find(text, thorough=thorough)]
        rest = text
        for start, end in reversed(spans):
            rest = rest[:start] + "\n|\n" + rest[end:]
        if not contains_answer(rest, golds):
            return spans
    return answer_spans(text, golds) or spans


def _over_spans(text: str, golds: Sequence[str], wrong: str) -> str:
    for start, end in reversed(answer_spans(text, golds)):
        text = text[:start] + wrong + text[end:]
    return text


@lru_cache(maxsize=4096)
def _last_name(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def _fitted(text: str, place: Found, before: re.Match[str] | None, form: str, wrong: str) -> str:
    """The wrong answer in the case, with the article and in the number of the words that it replaces.

    Args:
        text: the text.
        place: the words.
        before: the article before them, if there is one; it is replaced too.
        form: the form that they are.
        wrong: the wrong answer.
    """
    written = text[place.start : place.stop]
    lead, named = _LEADING.match(wrong), _LEADING.match(form)
    plain = form if named is None else form[named.end() :]
    made = _in_case(wrong if lead is None else wrong[lead.end() :], written, plain)
    if place.plural and not _NO_PLURAL.search(made):
        made += "s"
    if text[place.end - 1] in "'\u2019":
        made += text[place.end - 1] if made.endswith("s") else f"{text[place.end - 1]}s"
    own = "" if lead is None else lead[0]
    if before is None:
        prefix = "" if named is not None else own
    elif before[1].lower() != "the":
        prefix = "an " if _VOWEL.match(made) or _EIGHT.match(made) else "a "
    elif named is not None:  # "The" is part of the title that is replaced
        prefix = own
    else:
        prefix = before[0]
    if written.isupper() and not plain.isupper() and len(written) > 3:
        prefix = prefix.upper()
    made = prefix + made
    if before is not None:
        starts = before[1][0].isupper()
    else:
        starts = written[0].isupper() and _STARTS.search(text, max(0, place.start - 4), place.start) is not None
    return made[:1].upper() + made[1:] if starts else made


def _in_case(wrong: str, written: str, form: str) -> str:
    if written == form:
        return wrong
    if written.isupper() and not form.isupper() and len(written) > 3:
        return wrong.upper()
    if written.islower() and not form.islower():
        return wrong.lower()
    if form.islower() and not written.islower():
        words = wrong.split()
        if all(word[:1].isupper() for word in written.split() if word.lower() not in _SMALL) and len(words) > 1 < len(
            written.split()
        ):
            return " ".join(word if word in _SMALL else word[:1].upper() + word[1:] for word in words)
        if written[:1].isupper():
            return wrong[:1].upper() + wrong[1:]
    return wrong
