"""What a question needs, fact by fact: how each fact is called, how it is asked for, and where documents state it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from zerosearch_env.game.answers import answer_spans, contains_answer
from zerosearch_env.types import Document, Question, full_text

_NAME = r"[^\W\d_a-z][\w'\u2019.-]*"
_NAMES = re.compile(rf"{_NAME}(?: (?:(?:of|the|and|de|la|van|von) )?{_NAME})*")
"""A run of capitalised words: "Simon of Utrecht"."""
_NUMBERS = re.compile(r"\b\d+\b")
_WORDS = re.compile(r"\w[\w'\u2019.-]*\w|\w")
# Words of a question that say nothing about its subject
_FUNCTION_WORDS = frozenset(
    "a an and are as at be been by can could did do does for from had has have he her him his how i if in into is it "
    "its may me of on or she should so than that the their them they this to was we were what when where which who "
    "whom whose why will with would you your name called".split()
)

_MONTHS = "january february march april may june july august september october november december"
_NO_ANSWERS = _FUNCTION_WORDS | {*_MONTHS.split()}
# A comma inside a date, as in "May 1, 1950", ends no clause.
_CLAUSE_ENDS = re.compile(r"[.;:()\[\]\"\u201c\u201d\n]|\s[-\u2013\u2014]\s|,(?!\s?\d{4})")


@dataclass(frozen=True)
class Fact:
    """One fact that a question needs."""

    question: str
    """The question for this fact alone."""
    answers: tuple[str, ...]
    """What documents may state; the first is the canonical form."""
    subject: str = ""
    """Whom or what it is about; "" if the dataset does not say."""
    relation: str = ""
    """What is asked about the subject, such as "birth year"; "" if the dataset does not say."""
    phrase: str = ""
    """What it is called inside a sentence, such as "the director of the film Vertigo"; "" without a relation."""

    @property
    def keywords(self) -> tuple[str, ...]:
        """Queries in keywords."""
        if self.relation and self.subject:
            return f"{self.subject} {self.relation}", f"{self.relation} of {self.subject}"
        return (" ".join(content_words(self.question)) or self.question,)

    @property
    def short_query(self) -> str:
        """A careless query of one word: the last one of the subject."""
        words = (self.subject or " ".join(content_words(self.question)) or self.question).split()
        return words[-1]

    def stated_by(self, documents: Sequence[Document]) -> tuple[Document, str] | None:
        """The first document about the subject that states the fact, and the form of the answer in it."""
        for document in documents:
            text = full_text(document)
            if self.about(document) and contains_answer(text, self.answers):
                form = next((a for a in self.answers if contains_answer(text, (a,))), self.answers[0])
                return document, form
        return None

    def about(self, document: Document) -> bool:
        """Whether the title of a document, or its text if it has none, names the subject.

        True if the dataset does not say what the subject is.
        """
        return not self.subject or contains_answer(document.title or document.text, (self.subject,))


def facts_of(question: Question) -> tuple[Fact, ...]:
    """The facts that a question needs, in the order in which they have to be found.

    There are several if the question's metadata has a `chain`, the answers of all steps. `relations` (one per step) and
    `subject`, or `relation` (of the last step) and `title`, say what each of them is about.
    """
    metadata = question.metadata or {}
    subject = bare_title(str(metadata.get("subject") or metadata.get("title") or ""))
    if subject and not contains_answer(question.text, (subject,)):
        subject = ""  # the title of an article that the question does not name
    final = str(metadata.get("relation") or "").replace("_", " ")
    steps = question.steps if subject else ()
    named = metadata.get("relations")
    relations = [str(each).replace("_", " ") for each in named] if isinstance(named, (list, tuple)) else []
    if len(relations) != len(steps) + 1:
        relations = ["" for _ in steps] + [final]
    subjects = (subject, *steps)
    forms = [*((step,) for step in steps), question.answers]
    phrases = [f"the {r} of {s}" if r and s else "" for r, s in zip(relations, subjects, strict=True)]
    texts = [question.text] + [f"{s} {' '.join(_rest(question.text, subject))}" for s in steps]
    inner = _inner_phrase(question.text, subject) if len(steps) == 1 else ""
    if inner and not phrases[0]:
        # "In which year was the director of the film X born?" asks for that director, and then for the year.
        phrases[0], texts[0] = inner, inner
        texts[1] = question.text.replace(inner, steps[0], 1)
    elif steps and phrases[0]:
        texts = [phrase.removeprefix("the ") for phrase in phrases]
    return tuple(
        Fact(text, answers, about, relation, phrase)
        for text, answers, about, relation, phrase in zip(texts, forms, subjects, relations, phrases, strict=True)
    )


def bare_title(title: str) -> str:
    """A title without quotation marks and without what tells it apart: "Charlie Brown (footballer, born 1873)"."""
    return re.sub(r"\s*\([^()]*\)$", "", title.strip(' "'))


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about, in order."""
    return [word for word in _WORDS.findall(text) if word.lower() not in _FUNCTION_WORDS]


def quote(document: Document, answer: str, *, before: int = 3, after: int = 2) -> str:
    """The answer as a document states it, with some words of the same clause around it.

    Args:
        document: a document that states the answer.
        answer: the form of the answer.
        before: maximum number of words before it.
        after: maximum number of words after it; none after a mark or a function word.
    """
    spans = answer_spans(document.text, (answer,))
    if not spans:
        return answer
    start, end = spans[0]
    begin = max((match.end() for match in _CLAUSE_ENDS.finditer(document.text) if match.end() <= start), default=0)
    clause = document.text[begin:start]
    following = _CLAUSE_ENDS.split(document.text[end : end + 80])[0]
    tail = following.split()[:after] if following[:1].isspace() else []
    kept = list(itertools.takewhile(lambda word: word.isalpha() and word not in _FUNCTION_WORDS, tail))
    return " ".join([*clause.split()[-before:], document.text[start:end], *kept])


def other_answers(answers: tuple[str, ...], documents: Sequence[Document], question: str) -> list[str]:
    """What somebody who reads carelessly could take for the answer: names or numbers of the documents.

    Args:
        answers: the gold answers, which are left out. Of a number, the others have as many digits; of a name of one
            word, they are words with the same ending, if there are any.
        documents: what was found.
        question: names that it mentions are left out.
    """
    answer = answers[0]
    texts = [text for document in documents for text in (bare_title(document.title), document.text)]
    if _NUMBERS.fullmatch(answer):
        found = [n for text in texts for n in _NUMBERS.findall(text) if len(n) == len(answer)]
    else:
        names = [name.strip(".'\u2019-") for text in texts for name in _NAMES.findall(text)]
        names = [n for n in names if n.lower() not in _NO_ANSWERS and not contains_answer(question, (n,))]
        similar = [n for n in names if n[-2:] == answer[-2:]] if len(answer.split()) == 1 else []
        found = similar or [n for n in names if len(n.split()) == len(answer.split())] or names
    return [each for each in dict.fromkeys(found) if not contains_answer(each, answers)]


def _rest(text: str, subject: str) -> list[str]:
    """The content words of a question without those of its subject."""
    own = {word.lower() for word in _WORDS.findall(subject)}
    return [word for word in content_words(text) if word.lower() not in own]


def _inner_phrase(text: str, subject: str) -> str:
    """The part of a question that stands for an entity, such as "the director of the film X"; "" if there is none."""
    match = re.search(rf"\bthe \w+(?: \w+)? of (?:the )?(?:\w+ )?{re.escape(subject)}", text)
    return match[0] if match else ""
