"""`WrongAnswers`: for each question an answer that is wrong, and of the same type as the right one.

Numbers, years and dates get another value in the same form. Yes becomes no. Any other wrong answer is the right answer
of another question of the dataset: of the same relation, where the dataset names relations (the built-in world does),
else of a question that asks for the same ("which country"), of the same type and with as many words. Where few are that
similar, less similar ones are drawn.

A wrong answer is a function of the question and of a seed. It is never a gold answer, an answer of an intermediate step
or part of the question, and it neither contains a gold answer nor is contained in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...bounded_cache import BoundedCache
from ...errors import ConfigError, EngineError, sentence
from ...randomness import mix, text_seed
from ...types import Question
from .answer_types import NAMES, answer_class, answer_form, answer_key, asked_for, is_person
from .numbers import is_date, is_year, other_forms, shift_numbers, shift_year

MAX_QUESTIONS = 20_000
"""Number of questions whose answers are kept, evenly spaced over the dataset."""
_ENOUGH = 6
"""Least number of answers of a group; in a smaller one the wrong answers would soon be known."""
_TRIES = 32
_MAX_CHARS = 100
_CACHED = 4096
_CHECKED = 200
"""Number of questions for which a wrong answer is drawn at the start."""

_MARKS = re.compile(r"[\"*()\[\]{}<>|=_:;\u201c\u201d]|^[^\w'$\u00a3\u20ac]|[,;:\-\u2013]$|(?<=[a-z]{3})\.$")
"""What only a badly cut answer contains."""

_Group = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """A wrong answer, and what replaces each form of the right one."""

    text: str
    """The wrong answer: what replaces the first gold answer."""
    pairs: tuple[tuple[str, str], ...]
    """(form of the right answer, what replaces it)."""


class WrongAnswers:
    """Draws wrong answers for questions.

    Args:
        questions: the questions of the dataset, whose answers are the pool.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._relations: dict[str, tuple[str, ...]] = {}
        self._drawn: BoundedCache[tuple[str, tuple[str, ...], int, int], WrongAnswer] = BoundedCache(_CACHED)
        pools: dict[_Group, dict[str, None]] = {}
        stride = -(-len(questions) // MAX_QUESTIONS) or 1
        for number, question in enumerate(questions):
            relations = _relations_of(question)
            if relations:
                self._relations[question.text] = relations
            if number % stride or not question.answers:
                continue
            steps = (*question.steps, question.answers[0])
            for place, answer in enumerate(steps):
                last = place == len(steps) - 1
                if not _is_clean(answer):
                    continue
                for group in _groups(answer, question.text, relations, place, last=last):
                    pools.setdefault(group, {})[answer] = None
        self._pools = {group: list(answers) for group, answers in pools.items()}

    def __bool__(self) -> bool:
        """Whether there is any answer other than yes and no."""
        return bool(self._pools)

    def of(self, question: str, answers: tuple[str, ...], seed: int, *, step: int | None = None) -> WrongAnswer:
        """The wrong answer for a question.

        Args:
            question: the text of the question.
            answers: its gold answers, or the answer of one intermediate step.
            seed: determines which wrong answer is drawn.
            step: number of the intermediate step; None: the final answer.

        Raises:
            EngineError: the dataset has no other answer.
        """
        key = (question, answers, seed, -1 if step is None else step)
        wrong = self._drawn.get(key)
        if wrong is None:
            wrong = self._draw(
                question, answers, mix(text_seed(question), seed, *(() if step is None else (step,))), step
            )
            self._drawn.put(key, wrong)
        return wrong

    def check(self, questions: Sequence[Question], kind: str) -> None:
        """Check that the first questions have wrong answers.

        Args:
            questions: the questions that will be asked.
            kind: the kind of noise that needs them, for the message.

        Raises:
            ConfigError: there are no answers except yes and no, or a question has no wrong answer.
        """
        for number in range(min(len(questions), _CHECKED)):
            question = questions[number]
            if not question.answers:
                continue
            try:
                self.of(question.text, question.answers, 0)
            except EngineError as cause:
                raise ConfigError(
                    f"noise_kind={kind!r} needs wrong answers of the type of the right ones, and takes them from the "
                    f"other questions of the dataset: {sentence(cause)} Use a larger dataset, or a kind that needs no "
                    "wrong answers, such as 'distractor' or 'incomplete'."
                ) from cause

    def _draw(self, question: str, answers: tuple[str, ...], seed: int, step: int | None) -> WrongAnswer:
        first = next(filter(answer_key, answers), answers[0] if answers else "")
        form = answer_form(first)
        if form == "yes/no":
            text = "no" if answer_key(first) == "yes" else "yes"
            text = text.capitalize() if first[:1].isupper() else text
            return WrongAnswer(text, tuple((answer, text) for answer in answers))
        golds = {key for key in map(answer_key, answers) if key}
        if form in ("year", "date", "number"):
            shifted = _shifted(answers, first, golds, seed)
            if shifted is not None:
                return shifted
        relations = self._relations.get(question, ())
        place = len(relations) - 1 if step is None else step
        asked = f" {answer_key(question)} "
        groups = tuple(_groups(first, question, relations, place, last=step is None))
        # A group that is too small comes after all that are large enough, and any answer at all comes last.
        for similar, least in ((False, _ENOUGH), (False, 1), (True, 1)):
            for group in groups if least == 1 else groups[:-1]:
                pool = self._pools.get(group, ())
                if len(pool) < least:
                    continue
                for candidate in _seeded(pool, seed):
                    key = answer_key(candidate)
                    if f" {key} " not in asked and _is_other(key, golds, similar=similar):
                        return WrongAnswer(candidate, _pairs(answers, first, candidate))
        raise EngineError(f"no answer of another question can replace {first!r} of {question[:200]!r}")


def _relations_of(question: Question) -> tuple[str, ...]:
    """The relations that lead from the subject of a question to its answer, if the dataset names them."""
    metadata = question.metadata or {}
    relations = metadata.get("relations", metadata.get("relation"))
    if isinstance(relations, str):
        return (*(f"step {number}" for number in range(len(question.steps))), relations)
    return tuple(map(str, relations)) if isinstance(relations, (tuple, list)) else ()


def _groups(answer: str, question: str, relations: Sequence[str], place: int, *, last: bool) -> Iterator[_Group]:
    """The groups that an answer belongs to, the most similar ones first; the last group has every answer."""
    form, words = answer_form(answer), min(len(answer.split()), 6)
    family = "name" if form in NAMES else form
    the = answer[:4].lower() == "the "
    if 0 <= place < len(relations):
        yield "relation", relations[place], form, words
        yield "relation", relations[place], family
        yield "relation", relations[place]
        asked = ""
    elif last:
        asked = asked_for(question)
        if asked not in ("", "what", "which") and answer_class(answer, "") in ("", answer_class("", asked)):
            yield "asked", asked, form, words, the
    else:
        asked = ""
        yield "step", place, form, words
        yield "step", place, family
    kind = answer_class(answer, asked)
    if kind:
        yield "class", kind, form, words, the
        yield "class", kind, form, the
        yield "class", kind, family
    yield "form", form, words, the
    yield "form", form
    yield "family", family
    yield ()


def _is_clean(answer: str) -> bool:
    """Whether an answer fits into the text of a document, unlike the remains of a table or half a quotation."""
    return (
        0 < len(answer) <= _MAX_CHARS
        and _MARKS.search(answer) is None
        and bool(answer_key(answer))
        and answer_form(answer) != "yes/no"
    )


def _seeded(pool: Sequence[str], seed: int) -> Iterator[str]:
    """Answers in a seeded order: some draws, then, as a last resort, all."""
    for number in range(min(_TRIES, 2 * len(pool))):
        yield pool[mix(seed, 10, number) % len(pool)]
    yield from pool


def _is_other(key: str, golds: set[str], *, similar: bool) -> bool:
    """Whether no gold answer equals, contains or is part of an answer; unless `similar`, they share no long word."""
    if not key or any(f" {key} " in f" {gold} " or f" {gold} " in f" {key} " for gold in golds):
        return False
    if similar:
        return True
    known = {word for gold in golds for word in gold.split() if len(word) > 3}
    return known.isdisjoint(key.split())


def _shifted(answers: tuple[str, ...], first: str, golds: set[str], seed: int) -> WrongAnswer | None:
    """Another value for numbers, years and dates; None if each one that is tried contains a gold answer."""
    if len(answers) == 1 and is_year(first):
        text = str(shift_year(int(first), seed))
        return WrongAnswer(text, ((first, text),))
    date = any(map(is_date, answers))
    forms = [form for answer in answers for form in (answer, *other_forms(answer))]
    for attempt in range(_TRIES):
        draw = mix(seed, 20, attempt)
        text = shift_numbers(first, draw, date=date)
        pairs = tuple((form, shift_numbers(form, draw, date=date)) for form in forms)
        if all(_is_other(answer_key(wrong), golds, similar=True) for _, wrong in ((first, text), *pairs)):
            return WrongAnswer(text, tuple(pairs))
    text = shift_numbers(first, seed, date=date)
    if _is_other(answer_key(text), golds, similar=True):
        return WrongAnswer(text, tuple((form, text) for form in forms))
    return None


def _pairs(answers: tuple[str, ...], first: str, wrong: str) -> tuple[tuple[str, str], ...]:
    """What replaces each gold answer: a last name by a last name, any other form by the whole wrong answer."""
    person = is_person(first) and is_person(wrong)
    full = {answer.split()[-1] for answer in answers if is_person(answer)}
    return tuple((answer, wrong.split()[-1] if person and answer in full else wrong) for answer in answers)
