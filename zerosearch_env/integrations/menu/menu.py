"""`Menu`: an episode as a finite menu of actions and a fixed number of features, read from what the policy sees.

    0                   search the question
    1 .. k              search with candidate 1 .. k and the words of the question's next step
    k+1 .. 2k           answer candidate 1 .. k
    2k+1                abstain

Candidates are names and numbers in the documents that answer a step of the question (`reading.py`). If the question has
several steps, candidates for the last one (final) and for earlier ones (bridges) alternate, the best first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from ...game.rules import Rules
from ...types import ActionKind, Document
from .reading import Evidence, QuestionStep, Reading, find_evidence, read_document, read_question

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

FEATURES = ("turn", "last turn", "steps", "documents", "new", "on subject", "best final", "best bridge", "agreement")
"""The features of an episode, each in [0, 1]."""
CANDIDATE_FEATURES = (
    *("present", "hop", "score", "lead", "subject", "relation", "kind", "support", "seen now", "searched"),
    "in question",
)
"""The features of one candidate, each in [0, 1]."""
_BRIDGES = 2
"""How many of the best candidates of a step are followed to the next, besides those that were searched for."""
_ABSTENTION = "I don't know"
"""The answer that abstains if the rules know none."""
_YES_NO = ("yes", "no")


def action_count(candidates: int) -> int:
    """The number of actions of a menu with so many candidates."""
    return 2 * candidates + 2


def feature_count(candidates: int) -> int:
    """The number of features of a menu with so many candidates."""
    return len(FEATURES) + candidates * len(CANDIDATE_FEATURES)


@dataclass(slots=True)
class Candidate:
    """A possible answer to a step of the question, with its best evidence."""

    text: str
    key: str
    hop: int
    """Index of the step that it answers."""
    score: float = 0.0
    """The best score of its evidence; this and the next three are in [0, 1], see `Evidence`."""
    subject: float = 0.0
    relation: float = 0.0
    fit: float = 0.0
    certain: bool = True
    """Whether it is a name for certain (`Span.certain`)."""
    documents: set[int] = field(default_factory=set)
    """Positions of the documents that offer it."""


@dataclass(slots=True)
class _Found:
    """The evidence about one subject for one step, in the first `read` documents."""

    evidence: list[tuple[int, Evidence]] = field(default_factory=list)
    read: int = 0


_SCORE = attrgetter("score")


class Menu:
    """The menu of one episode. It reads the question and the documents' titles and texts, and nothing else.

    Args:
        question: the text of the question.
        rules: the rules of the episode: its length, and how to abstain.
        candidates: number of candidates on the menu.

    Example:
        >>> menu = Menu("Where was Al Berg born?", make_rules(), candidates=2)
        >>> menu.action(0)
        ('search', 'Where was Al Berg born?')
        >>> menu.observe([Document("Al Berg", "Al Berg was born in Kara Falls. He was a pupil of Cora Hartley.")])
        >>> menu.action(3)
        ('answer', 'Kara Falls')
    """

    def __init__(self, question: str, rules: Rules, candidates: int) -> None:
        self.question = question
        self.max_turns = rules.max_turns
        self.abstention = next(iter(rules.abstentions), _ABSTENTION)
        """The answer that abstains."""
        self.size = candidates
        self.turn = 0
        self.candidates: list[Candidate] = []
        """The candidates on the menu, at most `size`."""
        self._read = read_question(question)
        self._documents: dict[tuple[str, str], int] = {}
        self._readings: list[Reading] = []
        self._found: dict[tuple[str, QuestionStep], _Found] = {}
        self._searched: set[str] = set()
        self._last: list[int] = []
        self._new = 0

    @property
    def steps(self) -> int:
        """The number of steps of the question: the hops that its words show."""
        return len(self._read.steps)

    def searched(self, number: int) -> bool:
        """Whether a search was made with the candidate of this number, from 0."""
        return self.candidates[number].key in self._searched

    def action(self, index: int) -> tuple[ActionKind, str]:
        """What an entry of the menu does: ("search", query), ("answer", text), or ("invalid", "") if it is empty."""
        if index == 0:
            return "search", self.question
        if index == 2 * self.size + 1:
            return "answer", self.abstention
        number = (index - 1) % self.size
        if number >= len(self.candidates):
            return "invalid", ""
        candidate = self.candidates[number]
        if index > self.size:
            return "answer", candidate.text
        return "search", self._query(candidate)

    def mask(self) -> Bools:
        """Which entries have an effect now, shape (actions,). In the last turn only answers have."""
        present = np.arange(self.size) < len(self.candidates)
        may_search = self.turn < self.max_turns
        return np.concatenate([[may_search], present & may_search, present, [True]])

    def take(self, index: int) -> tuple[ActionKind, str]:
        """Choose an entry: `action`, and remember what was searched for. Afterwards comes `observe`."""
        kind, content = self.action(index)
        if kind == "search" and index > 0:
            self._searched.add(self.candidates[index - 1].key)
        return kind, content

    def observe(self, documents: Sequence[Document] | None) -> None:
        """Read the documents that a turn has found.

        Args:
            documents: the documents of the search; None if the turn was not a search.
        """
        self.turn += 1
        if documents is None:
            return
        self._last, before = [], len(self._readings)
        for document in documents:
            key = (document.title, document.text)
            if key not in self._documents:
                self._documents[key] = len(self._readings)
                self._readings.append(read_document(*key))
                self._find_subject(self._readings[-1].title)
            self._last.append(self._documents[key])
        self._new = len(self._readings) - before
        self.candidates = self._choose()

    def features(self) -> Floats:
        """The observation, shape (features,), each in [0, 1]; see `FEATURES` and `CANDIDATE_FEATURES`."""
        count = len(self._last)
        last = set(self._last)
        steps = len(self._read.steps)
        finals = [c for c in self.candidates if c.hop == steps - 1]
        bridges = [c for c in self.candidates if c.hop < steps - 1]
        subjects = {*self._read.subjects, *(f" {key} " for key in self._searched)}
        offered = sum(len(c.documents) for c in finals)
        values = [
            min(self.turn / self.max_turns, 1.0) if self.max_turns else 1.0,
            self.turn >= self.max_turns,
            min(steps - 1, 2) / 2,
            min(count, 5) / 5,
            self._new / count if count else 0.0,
            sum(self._readings[i].title in subjects for i in self._last) / count if count else 0.0,
            max((c.score for c in finals), default=0.0),
            max((c.score for c in bridges), default=0.0),
            len(finals[0].documents) / offered if offered else 0.0,
        ]
        for candidate in self.candidates:
            rivals = [c.score for c in self.candidates if c.hop == candidate.hop and c is not candidate]
            values += [
                1.0,
                (candidate.hop + 1) / steps,
                candidate.score,
                min(max(0.5 + candidate.score - max(rivals, default=0.0), 0.0), 1.0),
                candidate.subject,
                candidate.relation,
                candidate.fit,
                min(len(candidate.documents), 3) / 3,
                bool(candidate.documents & last),
                candidate.key in self._searched,
                f" {candidate.key} " in self._read.text,
            ]
        features = np.zeros(feature_count(self.size), np.float32)
        features[: len(values)] = values
        return features

    def _query(self, candidate: Candidate) -> str:
        steps = self._read.steps
        step = steps[min(candidate.hop + 1, len(steps) - 1)]
        return " ".join([*step.words, candidate.text])

    def _find_subject(self, title: str) -> None:
        """Read the question again if a title in it is longer than the subject that its spelling showed."""
        known = self._read.subjects[0] if self._read.subjects else ""
        if len(title) > max(len(known), 3) and title in self._read.text and known.strip() in title:
            self._read = read_question(self.question, title)

    def _choose(self) -> list[Candidate]:
        """The candidates that go on the menu, from all documents so far."""
        steps = self._read.steps
        subjects = dict.fromkeys(self._read.subjects, 1.0)
        found: list[list[Candidate]] = []
        for hop, step in enumerate(steps):
            last = hop == len(steps) - 1
            if last:  # what was searched for may be a bridge that the question does not show
                for key in self._searched:
                    subjects.setdefault(f" {key} ", 0.8)
            candidates = self._answer(step, subjects, hop)
            found.append(candidates)
            names = [c for c in candidates if c.certain]
            follow = names[:_BRIDGES] + [c for c in names[_BRIDGES:] if c.key in self._searched]
            subjects = {f" {c.key} ": c.score**0.5 for c in follow}
        best: dict[str, Candidate] = {}
        for candidate in chain.from_iterable(found):
            if candidate.key not in best or candidate.score > best[candidate.key].score:
                best[candidate.key] = candidate
        finals = self._finals(c for c in found[-1] if best[c.key] is c)
        bridges = (c for c in chain.from_iterable(reversed(found[:-1])) if best[c.key] is c)
        mixed = (c for pair in zip_longest(finals, bridges) for c in pair if c is not None)
        return list(islice(mixed, self.size))

    def _finals(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        if self._read.yes_no:
            for word in _YES_NO:
                yield Candidate(word, word, len(self._read.steps) - 1, 0.5, 0.5, 0.5, 1.0)
        yield from candidates

    def _answer(self, step: QuestionStep, subjects: Mapping[str, float], hop: int) -> list[Candidate]:
        """The candidates for one step, the best first.

        Args:
            step: the step.
            subjects: what it may start from, each with a weight in [0, 1].
            hop: index of the step.
        """
        best: dict[str, Candidate] = {}
        for subject, weight in (*subjects.items(), ("", 1.0)):
            for position, evidence in self._evidence(subject, step):
                span = evidence.span
                candidate = best.get(span.key)
                if candidate is None:
                    candidate = best[span.key] = Candidate(span.text, span.key, hop)
                candidate.documents.add(position)
                if weight * evidence.score > candidate.score:
                    candidate.score = weight * evidence.score
                    candidate.subject = weight * evidence.subject
                    candidate.relation, candidate.fit = evidence.relation, evidence.fit
                    candidate.certain = span.certain
        return sorted(best.values(), key=_SCORE, reverse=True)

    def _evidence(self, subject: str, step: QuestionStep) -> list[tuple[int, Evidence]]:
        """What all documents say about a subject, each with the position of the document, which is read only once."""
        found = self._found.setdefault((subject, step), _Found())
        for position in range(found.read, len(self._readings)):
            evidence = find_evidence(self._readings[position], subject, step, self._read)
            found.evidence += [(position, item) for item in evidence]
        found.read = len(self._readings)
        return found.evidence
