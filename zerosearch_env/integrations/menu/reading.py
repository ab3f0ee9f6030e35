"""Reads questions and documents: the steps a question consists of, and the candidates that sentences offer for them.

    "Who is the mayor of the birthplace of Al Berg?"
        subject   Al Berg
        steps     birthplace (a place)  ->  mayor (a person)

    "Al Berg was born in Kara Falls."
        for the first step: "Kara Falls"; about the subject, says "born", is a place

Everything is a pure function of texts. The rules are those of English spelling and grammar, with the word lists of
`words.py`; nothing is learned. Names in lower case, and scripts without capitals, give no candidates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from .words import (
    AUXILIARIES,
    FUNCTION_WORDS,
    KIND_OF,
    MONTHS_AND_DAYS,
    NATIONALITIES,
    ORGANISATION_WORDS,
    PLACE_WORDS,
    QUESTION_WORDS,
    RELATIONS_OF,
    Kind,
)

_TOKEN = re.compile(r"\d[\d,.]*\d|\d|(?:[^\W\d_]\.){2,}|[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{2}[.!?])\s+(?=[^\W\d_a-z])|(?<=\d[.!?])\s+(?=[^\W\d_a-z])|\n+")
_JOINERS = frozenset("of the de da di del der den van von la le el al bin & for".split())
_APPOSITION = re.compile(r"(?<= )the (?:(?!of\b)[a-z]+ ){1,2}$")
_STEP = re.compile(r"\bthe ((?:(?!of\b|the\b)[\w'-]+ ){1,4})of (?:the (?:(?!of\b)[a-z]+ ){1,2})?$")
_BRACKETS = re.compile(r"\s*\([^)]*\)$")
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_ENDING = re.compile(r"(?<=\w{4})(?:ing|ed|es|s)$")
_NONE: frozenset[int] = frozenset()
_MOST_CHARS = 4000
"""Characters of a document that are read."""

NAMED, UNRELATED = 0.4, 0.3
"""How much a sentence counts that names the subject in a document about something else, and one that does not."""


@dataclass(frozen=True, eq=False, slots=True)
class Span:
    """A name or number in a sentence."""

    text: str
    key: str
    """The text without case, by which it is recognised in other documents."""
    kind: Kind
    certain: bool
    """False for a single word in capitals that begins a sentence, which is often no name."""
    start: int
    """Position of its first word in the sentence."""
    end: int
    """Position after its last word."""


@dataclass(frozen=True, eq=False, slots=True)
class Sentence:
    """One sentence: its words without case, and the names and numbers in it."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    """The words without their endings."""
    relations: tuple[frozenset[int], ...]
    """For each word the groups of `RELATIONS_OF` that it belongs to."""
    spans: tuple[Span, ...]
    text: str
    """The words joined with single spaces, with one at each end."""


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """A document that has been read."""

    title: str
    """As `fold_words` writes it, without what follows in brackets."""
    title_words: tuple[str, ...]
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, eq=False, slots=True)
class QuestionStep:
    """One relation to follow: the words that express it, and what it leads to."""

    words: tuple[str, ...]
    stems: frozenset[str]
    relations: frozenset[int]
    """The groups of `RELATIONS_OF` that its words belong to."""
    kind: Kind | None
    """The kind of thing it leads to; None if no word says so."""


@dataclass(frozen=True, eq=False, slots=True)
class ReadQuestion:
    """A question that has been read."""

    subject: str
    """The name in it from which the steps begin, as written; "" if there is none."""
    subjects: tuple[str, ...]
    """All names in it, as `fold_words` writes them; the subject is the first."""
    steps: tuple[QuestionStep, ...]
    """The relations to follow from the subject, in order; at least one."""
    words: frozenset[str]
    """Its words without function words."""
    text: str
    """Its words as `fold_words` writes them."""
    yes_no: bool
    """Whether the answer is yes or no."""


@dataclass(eq=False, slots=True)  # many are made at every step, and a frozen one takes several times as long
class Evidence:
    """What one sentence says for a candidate of a step; each number is in [0, 1]."""

    span: Span
    subject: float
    """1: the document is about the subject. `NAMED`: the sentence names it. Less: neither."""
    relation: float
    """How close a word for the relation is; 0.5: no word for any relation; 0.1: only for others."""
    fit: float
    """Whether the candidate is of the kind that is asked for, and not in the question."""
    score: float
    """All of it as one number."""


def words_of(text: str) -> list[str]:
    """The words of a text without case and possessive endings."""
    return [_bare(word) for word in _TOKEN.findall(text)]


def fold_words(text: str) -> str:
    """The words of a text without case, joined with single spaces, with one at each end."""
    return f" {' '.join(words_of(text))} "


@lru_cache(maxsize=16384)
def read_document(title: str, text: str) -> Reading:
    """Split a document into sentences with their names and numbers."""
    sentences = [read_sentence(part) for part in _SENTENCE_END.split(text[:_MOST_CHARS]) if part.strip()]
    folded = fold_words(_BRACKETS.sub("", title))
    return Reading(folded, tuple(folded.split()), tuple(sentences))


def read_sentence(text: str) -> Sentence:
    """Find the words of a sentence, and the names and numbers in it."""
    matches = list(_TOKEN.finditer(text))
    written = [match[0] for match in matches]
    words = [_bare(word) for word in written]
    gaps = [text[a.end() : b.start()] for a, b in pairwise(matches)]
    spans: list[Span] = []
    at = 0
    while at < len(written):
        start, end = at, _name_end(written, words, gaps, at)
        at = max(end, start + 1)
        if end == start + 1 and words[start] in MONTHS_AND_DAYS:
            continue
        if end > start:
            kind = name_kind(words[start:end])
            certain = start > 0 or end > 1
        elif written[start][0].isdigit():
            end, kind, certain = at, "year" if _YEAR.fullmatch(words[start]) else "number", True
        else:
            continue
        name = text[matches[start].start() : matches[end - 1].end()]
        if words[end - 1] != written[end - 1].casefold():
            name = name[:-2]  # a possessive ending
        spans.append(Span(name, " ".join(words[start:end]), kind, certain, start, end))
    return Sentence(
        tuple(words),
        tuple([_stem(word) for word in words]),
        tuple([RELATIONS_OF.get(word, _NONE) for word in words]),
        tuple(spans),
        f" {' '.join(words)} ",
    )


def _bare(word: str) -> str:
    word = word.casefold()
    return word[:-2] if word.endswith(("'s", "\u2019s")) else word


def _name_end(written: Sequence[str], words: Sequence[str], gaps: Sequence[str], start: int) -> int:
    """Position after the name that starts here; the start itself if there is none."""

    def begins(position: int) -> bool:
        return position < len(written) and written[position][0].isupper()

    if not begins(start) or (words[start] in FUNCTION_WORDS and words[start] != "the"):
        return start
    end = start + 1
    if words[start] in NATIONALITIES and start and words[start - 1] in ("a", "an"):  # "an Italian Cardinal"
        return end
    while end < len(written) and _joins(gaps[end - 1], words[end - 1]):
        further = end
        while further < min(end + 2, len(written) - 1) and words[further] in _JOINERS and gaps[further] == " ":
            further += 1
        if not begins(further):
            break
        end = further + 1
    return start if end == start + 1 and words[start] == "the" else end


def _joins(gap: str, word: str) -> bool:
    """Whether a name may continue over what stands between two words; `word` is the first of them."""
    return gap in ("- ", " & ") or not gap.strip(" \"'\u201c\u201d") or (gap == ". " and len(word) == 1)


def name_kind(words: Sequence[str]) -> Kind:
    """The kind of a name, as far as its spelling tells."""
    if len(words) == 1 and words[0] in NATIONALITIES:
        return "nationality"
    if words[-1] in ORGANISATION_WORDS:
        return "organisation"
    if words[0] == "the":
        return "title"
    if words[-1] in PLACE_WORDS:
        return "place"
    return "person" if 2 <= len(words) <= 4 and words[0] not in NATIONALITIES else "name"


@lru_cache(maxsize=16384)
def read_question(text: str, subject: str | None = None) -> ReadQuestion:
    """Find the names in a question, and the relations to follow from them.

    Args:
        text: the question.
        subject: the name from which it starts, as `fold_words` writes it, if that is known; None: the longest name.
    """
    sentence = read_sentence(text)
    words = list(sentence.words)
    names = [span for span in sentence.spans if span.kind not in ("year", "number")]
    start = end = 0
    if subject is not None and subject in sentence.text:
        start = len(sentence.text[: sentence.text.index(subject)].split())
        end = start + len(subject.split())
    elif names:
        longest = max(names, key=lambda span: len(span.key))
        start, end = longest.start, longest.end
    others = [f" {span.key} " for span in names if not start <= span.start < end]
    steps: list[QuestionStep] = []
    before = "".join(f"{word} " for word in words[:start])
    while end and (match := _STEP.search(before)):
        steps.append(make_step(match[1].split()))
        before = before[: match.start()]
    before = _APPOSITION.sub("", before) if end and not steps else before
    last = make_step([*before.split(), *words[end:]])
    if last.words or not steps:
        steps.append(last)
    elif steps[-1].kind is None:
        steps[-1] = replace(steps[-1], kind=last.kind)
    name = " ".join(words[start:end])
    written = next((span.text for span in names if (span.start, span.end) == (start, end)), name)
    return ReadQuestion(
        written,
        (f" {name} ", *others) if name else tuple(others),
        tuple(steps),
        frozenset(words) - FUNCTION_WORDS,
        sentence.text,
        bool(words) and words[0] in AUXILIARIES,
    )


def make_step(words: Sequence[str]) -> QuestionStep:
    """The step that is expressed by some words of a question."""
    content = tuple(word for word in words if word not in FUNCTION_WORDS)
    relations = frozenset(group for word in content for group in RELATIONS_OF.get(word, ()))
    return QuestionStep(content, frozenset(map(_stem, content)), relations, _asked_kind(words, content))


def _asked_kind(words: Sequence[str], content: Sequence[str]) -> Kind | None:
    """What some words ask for: "which town" and "the twin town" a place, "who" a person."""
    asking = next((word for word in words if word in QUESTION_WORDS), None)
    if asking is None:  # "twin town of"
        return next((KIND_OF[word] for word in reversed(content) if word in KIND_OF), None)
    if asking in ("what", "which"):  # "in which town was", "what is the capital of"
        near = [word for word in words[words.index(asking) + 1 :] if word not in FUNCTION_WORDS][:2]
        return next((KIND_OF[word] for word in near if word in KIND_OF), None)
    if asking == "how":
        return "number" if {"many", "much", "old", "long", "far"} & set(words) else None
    return KIND_OF.get(asking)


def kind_fit(kind: Kind, wanted: Kind | None) -> float:
    """How well a kind of candidate fits what is asked for, in [0, 1]."""
    if kind == wanted:
        return 1.0
    if wanted is None:
        return 0.6
    if {"year", "number", "nationality"} & {kind, wanted}:
        return 0.3 if {kind, wanted} == {"year", "number"} else 0.0
    if kind == "name":
        return 0.7
    return 0.5 if {kind, wanted} == {"person", "organisation"} else 0.25


def find_evidence(reading: Reading, subject: str, step: QuestionStep, question: ReadQuestion) -> list[Evidence]:
    """The best that a document says for each candidate.

    Args:
        reading: the document.
        subject: the name of the subject, as `fold_words` writes it: only what is said about it counts. "": every
            sentence counts, by the words that it has in common with the question.
        step: the relation to follow.
        question: the question.
    """
    best: dict[str, Evidence] = {}
    about = reading.title == subject
    for number, sentence in enumerate(reading.sentences):
        if not sentence.spans:
            continue
        if about:
            strength = 1.0
        elif subject:
            strength = NAMED if subject in sentence.text else 0.0
        else:
            strength = UNRELATED * _common(question, reading, sentence)
        if not strength:
            continue
        places, other = _relation_places(sentence, step)
        later = 0.01 * min(number, 5)  # the first sentence is most often about the subject
        for span in sentence.spans:
            if f" {span.key} " in subject:
                continue
            relation = 0.1 if other else 0.5
            if places:
                distance = min([max(place - span.end, span.start - place - 1, 0) for place in places])
                relation = 1.0 - 0.04 * min(distance, 10)
            relation -= later
            fit = kind_fit(span.kind, step.kind)
            if not span.certain:
                fit *= 0.5
            if f" {span.key} " in question.text:  # the answer is rarely in the question
                fit *= 0.3
            score = strength * fit * (0.2 + 0.8 * relation)
            if span.key not in best or score > best[span.key].score:
                best[span.key] = Evidence(span, strength, relation, fit, score)
    return list(best.values())


def _common(question: ReadQuestion, reading: Reading, sentence: Sentence) -> float:
    """The share of the question's words that a sentence or its document's title has."""
    if not question.words:
        return 0.0
    return len(question.words & {*sentence.words, *reading.title_words}) / len(question.words)


def _relation_places(sentence: Sentence, step: QuestionStep) -> tuple[list[int], bool]:
    """Positions of the words that express a relation, and whether other words express another one."""
    places = []
    other = False
    for place, (stem, groups) in enumerate(zip(sentence.stems, sentence.relations, strict=True)):
        if stem in step.stems or (groups and not groups.isdisjoint(step.relations)):
            places.append(place)
        elif groups:
            other = True
    return places, other


def _stem(word: str) -> str:
    """A word without its ending, to recognise its other forms."""
    return _ENDING.sub("", word)
