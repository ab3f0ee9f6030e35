"""Base text for the tiny models: documents from synthetic train worlds, followed by notes on the facts they state.

It teaches two skills that a pretrained language model already has: to copy the object of a stated fact from the
context, and to notice that a fact is missing. No test data is used: only train worlds, which share no names with any
test world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zerosearch_env.datasets.world.make import WorldConfig, WorldFacts, make_facts, make_passages, passage_facts
from zerosearch_env.datasets.world.text import BY_NAME, RELATIONS, Relation
from zerosearch_env.protocols import get_protocol
from zerosearch_env.randomness import mix
from zerosearch_env.types import Document

from ..sft.rows import Segment

Fact = tuple[Relation, str, str]
"""Relation, subject, object."""


@dataclass(frozen=True)
class Library:
    """A train world prepared for reading: its passages, the facts each states, and indices by word and relation."""

    facts: WorldFacts
    passages: list[Document]
    stated: list[tuple[Fact, ...]]
    numbers: dict[str, int]
    """Source of a passage -> its number."""
    by_word: dict[str, list[int]] = field(repr=False)
    by_relation: dict[str, list[int]] = field(repr=False)
    """Relation of a passage's first fact -> numbers of passages."""

    def stated_by(self, documents: Sequence[Document]) -> dict[tuple[str, str], str]:
        """(relation name, subject) -> object, for all facts that the documents state."""
        return {(r.name, s): o for d in documents for r, s, o in self.stated[self.numbers[d.source]]}


def open_library(seed: int, passages: int = 6000) -> Library:
    """Make the train world of a seed and prepare it for reading.

    Args:
        seed: seed of the world, as in `WorldConfig.seed`. Its passages are worded differently from `make_world`'s.
        passages: number of passages.

    Raises:
        ConfigError: `passages` is out of the range allowed by `WorldConfig`.
    """
    facts = make_facts(WorldConfig(seed=seed, passages=passages), "train")
    texts = list(make_passages(facts, mix(seed, 0, 7)))
    stated = passage_facts(facts)
    by_word: dict[str, list[int]] = {}
    by_relation: dict[str, list[int]] = {}
    for number, passage in enumerate(texts):
        for word in title_words(passage.title):
            by_word.setdefault(word, []).append(number)
        by_relation.setdefault(stated[number][0][0].name, []).append(number)
    return Library(facts, texts, stated, {p.source: n for n, p in enumerate(texts)}, by_word, by_relation)


def title_words(title: str) -> list[str]:
    """The words of a name, without the article."""
    return [word for word in title.split() if word != "The"]


def notes_text(library: Library, rng: np.random.Generator, *, documents: int, notes: int) -> list[Segment]:
    """Documents, half of them with similar titles, then notes: "The author of X is Y." (or "... is not here.").

    Only the words after "is" are trained on, since the subject of a note cannot be predicted.

    Args:
        library: the world that the documents are taken from.
        rng: source of all random choices.
        documents: number of documents, at most as many as the library has.
        notes: number of notes; about 70 % of them are about a fact that the documents state.

    Returns:
        The documents as rendered by the protocol "zerosearch", then two segments per note.
    """
    chosen = _similar_passages(library, rng, documents)
    texts = [library.passages[i] for i in chosen]
    segments: list[Segment] = [(get_protocol("zerosearch").render_documents(texts, ""), False)]
    present = library.stated_by(texts)
    keys = list(present)
    for _ in range(notes):
        if rng.random() < 0.7:
            relation, subject = keys[int(rng.integers(len(keys)))]
        else:
            relation, subject = _near_miss(library, rng, chosen)
        segments.append((f"The {BY_NAME[relation].noun} of {subject} is", False))
        segments.append((f" {present.get((relation, subject), 'not here')}.\n", True))
    return segments


def plan_text(path: Sequence[Relation], subject: str) -> str:
    """The plan of the searches, hop by hop: "Find the author of X.", or "Find the author of X, then the teacher."."""
    return f"Find the {path[0].noun} of {subject}" + "".join(f", then the {hop.noun}" for hop in path[1:]) + "."


def need_text(question: str, path: Sequence[Relation], subject: str) -> list[Segment]:
    """A question (not trained on) and the plan of its searches (trained on).

    It begins differently from an episode's prompt, so that a sampling policy does not fall into this kind of text.
    """
    return [(f"To look up: {question}\n", False), (f"{plan_text(path, subject)}\n", True)]


def _similar_passages(library: Library, rng: np.random.Generator, count: int) -> list[int]:
    first = int(rng.integers(len(library.passages)))
    chosen = [first]
    while len(chosen) < count:
        draw = rng.random()
        if draw < 0.5:
            words = title_words(library.passages[first].title)
            pool: Sequence[int] = library.by_word[words[int(rng.integers(len(words)))]]
        elif draw < 0.85:
            pool = library.by_relation[library.stated[first][0][0].name]
        else:
            pool = range(len(library.passages))
        candidate = pool[int(rng.integers(len(pool)))]
        if candidate not in chosen:
            chosen.append(candidate)
    return [chosen[i] for i in rng.permutation(count)]


def _near_miss(library: Library, rng: np.random.Generator, chosen: Sequence[int]) -> tuple[str, str]:
    """A fact that these passages probably do not state: about a similar name, or another relation of a present one."""
    at = int(chosen[int(rng.integers(len(chosen)))])
    words = title_words(library.passages[at].title)
    if rng.random() < 0.5:
        pool = library.by_word[words[int(rng.integers(len(words)))]]
        at = pool[int(rng.integers(len(pool)))]
    kind = library.stated[at][0][0].subject
    relations = [relation.name for relation in RELATIONS if relation.subject == kind]
    return relations[int(rng.integers(len(relations)))], library.passages[at].title
