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
from functools import lru_cache

from ...game.answers import answer_spans, contains_answer
from ...game.folding import WORD
from ...types import Document, full_text
from ..guard import remove_answers
from .answer_types import is_person

_LEADING = re.compile(r"\A(?:the|an?)\s+(?=\S)", re.IGNORECASE)
_ARTICLE = re.compile(r"(?<!\w)(the|an?)\s+\Z", re.IGNORECASE)
_BETWEEN = r"[^\w<>]{1,3}"
"""Between two words of an answer: a blank, a hyphen, `", "`."""
_MIDDLE = r"(?:(?-i:[A-Z])[\w.'\u2019-]*\s+){0,2}"
"""Names between the first and the last name of a person, which an answer often leaves out."""
_VOWEL = re.compile(r"(?!eu|uni(?!n)|use|one\b|ut[ei])[aeiou]|hon(?:ou?r|est)|heir|hour", re.IGNORECASE)
_EIGHT = re.compile(r"8|1[18](?:\d\d|,?\d{3})?(?!\d)")
"""Numbers that begin with a vowel when they are spoken: 8, 18, 1848, 11,000."""
_JOINT = re.compile(r"\s*(?:,\s*(?:and|or|&)|,|/|&|\band\b|\bor\b)\s*(?:(?:the|an?)\s+)?\Z|\s*\(\Z|\s+\Z")
_STARTS = re.compile(r"(?:\A|[.!?]['\")\]]*\s+)\Z")
_NO_PLURAL = re.compile(r"(?:s|sh|ch|x|z|ese|[^A-Za-z])\Z")
_SMALL = frozenset("of the and in on at to a an for by de la von van".split())


class Forms:
    """Finds forms of answers in texts: in any case, with any blanks or marks between their words.

    Args:
        forms: the forms.
    """

    def __init__(self, forms: Sequence[str]) -> None:
        words = [WORD.findall(_LEADING.sub("", form, count=1)) or WORD.findall(form) for form in forms]
        parts = dict.fromkeys(_form_pattern(form, found) for form, found in zip(forms, words, strict=True) if found)
        self._first = tuple(dict.fromkeys(found[0].lower() for found in words if found))
        self._pattern = re.compile(
            rf"(?<!\w)(?P<form>{'|'.join(sorted(parts, key=len, reverse=True))})"
            r"(?P<plural>(?<=[A-Za-rt-z])e?s)?(?!\w)(?P<owner>(?<=s)['\u2019](?=\s))?",
            re.IGNORECASE,
        )

    def find(self, text: str) -> list[re.Match[str]]:
        """The matches in a text, in order; each has the groups `form`, `plural` and `owner`."""
        lower = text.lower()
        if len(lower) != len(text):
            return list(self._pattern.finditer(text))
        # Looking for the first words is several times as fast as trying the pattern at each character.
        starts = []
        for word in self._first:
            start = lower.find(word)
            while start >= 0:
                starts.append(start)
                start = lower.find(word, start + 1)
        matches: list[re.Match[str]] = []
        end = 0
        for start in sorted(starts):
            if start >= end and (match := self._pattern.match(text, start)):
                matches.append(match)
                end = match.end()
        return matches


@lru_cache(maxsize=4096)
def _forms(forms: tuple[str, ...]) -> Forms | None:
    worded = [form for form in forms if WORD.search(form)]
    return Forms(worded) if worded else None


class Replacer:
    """Replaces answers in documents.

    Args:
        pairs: (form of an answer, what replaces it), of one answer or of several.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._wrong: dict[str, tuple[str, str]] = {}
        for form, wrong in pairs:
            if words := WORD.findall(form):
                self._wrong.setdefault(_key(words), (form, wrong))
        self._forms = _forms(tuple(form for form, _ in self._wrong.values()))
        self._last_names = [
            (last, wrong.split()[-1])
            for form, wrong in self._wrong.values()
            if is_person(form) and is_person(wrong) and len(last := form.split()[-1]) > 2
        ]

    def document(self, document: Document) -> Document:
        """The document with the replacements in its title and its text."""
        (title, first), (text, second) = self._replace(document.title), self._replace(document.text)
        if first or second:  # otherwise a last name may be that of another person
            for last, wrong in self._last_names:
                if last in title or last in text:
                    pattern = _last_name(last)
                    title, text = pattern.sub(wrong, title), pattern.sub(wrong, text)
        return Document(title, text, document.source, document.score)

    def _replace(self, text: str) -> tuple[str, int]:
        matches = self._forms.find(text) if self._forms is not None else ()
        if not matches:
            return text, 0
        parts: list[str] = []
        at, last = 0, ("", "")
        for match in matches:
            words = WORD.findall(match["form"])
            pair = self._wrong.get(_key(words)) or self._wrong.get(_key((words[0], words[-1])))
            if pair is None:
                continue
            start, end = match.span()
            if at and pair[1] == last[1] and pair[0] != last[0] and (joint := _JOINT.match(text, at, start)):
                # Two forms of one answer side by side: one wrong answer is enough.
                at = end + 1 if joint[0].endswith("(") and text[end : end + 1] == ")" else end
                continue
            before = _ARTICLE.search(text, max(at, start - 9), start)
            parts += (text[at : start if before is None else before.start()], _fitted(match, before, *pair))
            at, last = end, pair
        return "".join((*parts, text[at:])), len(matches)


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
    changed = replacer.document(document)
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
    forms = _forms(golds)
    spans = [match.span("form") for match in forms.find(text)] if forms is not None else []
    rest = text
    for start, end in reversed(spans):
        rest = rest[:start] + "\n|\n" + rest[end:]
    return answer_spans(text, golds) or spans if contains_answer(rest, golds) else spans


def _over_spans(text: str, golds: Sequence[str], wrong: str) -> str:
    for start, end in reversed(answer_spans(text, golds)):
        text = text[:start] + wrong + text[end:]
    return text


def _key(words: Sequence[str]) -> str:
    return _LEADING.sub("", " ".join(words), count=1).casefold()


def _form_pattern(form: str, found: Sequence[str]) -> str:
    words = list(map(re.escape, found))
    if len(words) == 2 and is_person(form):
        return rf"{words[0]}\s+{_MIDDLE}{words[1]}"
    return _BETWEEN.join(words)


@lru_cache(maxsize=4096)
def _last_name(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def _fitted(match: re.Match[str], before: re.Match[str] | None, form: str, wrong: str) -> str:
    """The wrong answer in the case, with the article and in the number of the words that it replaces.

    Args:
        match: the words, see `Forms`.
        before: the article before them, if there is one; it is replaced too.
        form: the form that matches.
        wrong: the wrong answer.
    """
    written = match["form"]
    lead, named = _LEADING.match(wrong), _LEADING.match(form)
    plain = form if named is None else form[named.end() :]
    text = _in_case(wrong if lead is None else wrong[lead.end() :], written, plain)
    if match["plural"] and not _NO_PLURAL.search(text):
        text += "s"
    if match["owner"]:
        text += match["owner"] if text.endswith("s") else f"{match['owner']}s"
    own = "" if lead is None else lead[0]
    if before is None:
        prefix = "" if named is not None else own
    elif before[1].lower() != "the":
        prefix = "an " if _VOWEL.match(text) or _EIGHT.match(text) else "a "
    elif named is not None:  # "The" is part of the title that is replaced
        prefix = own
    else:
        prefix = before[0]
    if written.isupper() and not plain.isupper() and len(written) > 3:
        prefix = prefix.upper()
    text = prefix + text
    if before is not None:
        starts = before[1][0].isupper()
    else:
        start = match.start()
        starts = written[0].isupper() and _STARTS.search(match.string, max(0, start - 4), start) is not None
    return text[:1].upper() + text[1:] if starts else text


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
