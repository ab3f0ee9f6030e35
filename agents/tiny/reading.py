"""Base text for the tiny models: documents followed by notes on what they state, made from synthetic train worlds.

It teaches what a pretrained language model brings along: to copy the object of a stated fact out of context, and to
see that a fact is not there. Nothing of the test split enters: the worlds are train worlds, whose names no test world
has.
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
    """A train world opened for reading: its passages, what each states, and which share a word in their titles."""

    facts: WorldFacts
    passages: list[Document]
    stated: list[tuple[Fact, ...]]
    numbers: dict[str, int]
    """Source of a passage -> its number."""
    by_word: dict[str, list[int]] = field(repr=False)
    by_relation: dict[str, list[int]] = field(repr=False)
    """Relation of a passage's first fact -> passages."""

    def stated_by(self, documents: Sequence[Document]) -> dict[tuple[str, str], str]:
        """(relation name, subject) -> object, for everything that these documents state."""
        return {(r.name, s): o for d in documents for r, s, o in self.stated[self.numbers[d.source]]}


def open_library(seed: int, passages: int = 6000) -> Library:
    """The train world of a seed, opened for reading.

    Args:
        seed: seed of the world, as in `WorldConfig.seed`. The wording of its passages is not that of `make_world`.
        passages: number of passages.

    Raises:
        ConfigError: when `passages` is out of the range of `WorldConfig`.
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
    """The words of a name that tell it apart: all but the article."""
    return [word for word in title.split() if word != "The"]


def notes_text(library: Library, rng: np.random.Generator, *, documents: int, notes: int) -> list[Segment]:
    """Some documents, half of them with similar titles, then notes: "The author of X is Y." (or "... is not here.").

    Only what follows "is" is trained on: which fact a note is about cannot be known.

    Args:
        library: the world that the documents are taken from.
        rng: every choice.
        documents: how many documents, at most as many as the library has.
        notes: how many notes; about 70 % of them are about a fact that the documents state.

    Returns:
        The documents as the protocol "zerosearch" shows them, then two segments a note.
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
    """What to look up, hop by hop: "Find the author of X.", or "Find the author of X, then the teacher."."""
    return f"Find the {path[0].noun} of {subject}" + "".join(f", then the {hop.noun}" for hop in path[1:]) + "."


def need_text(question: str, path: Sequence[Relation], subject: str) -> list[Segment]:
    """A question (not trained on) and what to look up for it (trained on).

    It does not begin as an episode's prompt does: a policy that samples would fall into this kind of text.
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
    """A fact these passages may well not state: of a similar name, or another fact of a present one."""
    at = int(chosen[int(rng.integers(len(chosen)))])
    words = title_words(library.passages[at].title)
    if rng.random() < 0.5:
        pool = library.by_word[words[int(rng.integers(len(words)))]]
        at = pool[int(rng.integers(len(pool)))]
    kind = library.stated[at][0][0].subject
    relations = [relation.name for relation in RELATIONS if relation.subject == kind]
    return relations[int(rng.integers(len(relations)))], library.passages[at].title
