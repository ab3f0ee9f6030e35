"""Demonstrations for the warm start: a scripted, imperfect searcher plays real episodes in train worlds.

It knows the format, plans what to look up ("Find the author of X, then the teacher."), reads what is there, and has bad
habits that reinforcement learning can unlearn, since each good behaviour is shown as well, only less often:

- it mostly queries for the last word of a name instead of the whole name;
- it sometimes answers with what the first document says, whoever that is about;
- when its documents miss, it mostly answers from them all the same instead of searching again;
- after the first hop of a two-hop question it often stops and answers with what it has found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from zerosearch_env.datasets.world.text import BY_NAME, Relation
from zerosearch_env.engines import SearchEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.types import Document, SearchRequest

from ..sft.rows import Segment
from .reading import Library, plan_text, title_words


@dataclass(frozen=True)
class Habits:
    """How often the scripted searcher does what; all are probabilities."""

    short_query: float = 0.65
    """Query for the last word of the name only, in the first search."""
    short_next_query: float = 0.4
    """The same in the first search of a second hop."""
    careless: float = 0.3
    """Answer with what the first document says, although the fact is there."""
    search_again: float = 0.3
    """Search again when the documents miss; otherwise answer carelessly."""
    next_hop: float = 0.45
    """Go on to the second hop; otherwise answer with the object of the first."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value <= 1:
                raise ConfigError(f"habits.{entry.name} is a probability from 0 to 1, got {value!r}.")


@dataclass
class _Script:
    """Where the searcher stands in one episode."""

    episode: Episode
    path: tuple[Relation, ...]
    subject: str
    hop: int = 0
    short: bool = False

    @property
    def relation(self) -> Relation:
        return self.path[self.hop]

    @property
    def need(self) -> str:
        return f"{self.relation.noun} of {self.subject}"


def demonstrate(
    library: Library, engine: SearchEngine, episodes: Sequence[Episode], habits: Habits, rng: np.random.Generator
) -> list[list[Segment]]:
    """Play every episode to its end.

    Args:
        library: the world the episodes' questions are about.
        engine: searches that world's passages; its searches must not fail.
        episodes: fresh episodes of the protocol "zerosearch", with questions of `make_questions` (whose metadata name
            relations and subject); they are driven to their end.
        habits: how imperfect the searcher is.
        rng: its choices.

    Returns:
        For each episode its text in segments: the policy's turns are trained on, all else is not. Joined, they are
        the episode's `text`.
    """
    scripts, texts = [], []
    for episode in episodes:
        metadata = episode.question.metadata or {}
        path = tuple(BY_NAME[name] for name in metadata["relations"])
        short = bool(rng.random() < habits.short_query)
        scripts.append(_Script(episode, path, metadata["subject"], short=short))
        texts.append([(episode.prompt, False)])
    turns = [f"<think>{plan_text(s.path, _asked(s))}</think>{_search(s)}" for s in scripts]
    active = list(range(len(scripts)))
    while active:
        outcomes = [scripts[i].episode.advance(turns[i]) for i in active]
        for i in active:
            texts[i].append((turns[i], True))
        searching = [(i, o) for i, o in zip(active, outcomes, strict=True) if isinstance(o, SearchRequest)]
        results = engine.search([request for _, request in searching])
        active = []
        for (i, _), result in zip(searching, results, strict=True):
            step = scripts[i].episode.observe(result)
            texts[i].append((step.observation, False))
            turns[i] = _read(scripts[i], library, step.documents, habits, rng)
            active.append(i)
    return texts


def _asked(script: _Script) -> str:
    return title_words(script.subject)[-1] if script.short else script.subject


def _search(script: _Script) -> str:
    # The blank matters: to a byte-level tokenizer "Corin" and " Corin" differ, and documents hold the latter.
    return f"<search> {script.relation.noun} of {_asked(script)}</search>"


def _read(
    script: _Script, library: Library, documents: Sequence[Document], habits: Habits, rng: np.random.Generator
) -> str:
    """The turn after a search."""
    found = library.stated_by(documents).get((script.relation.name, script.subject))
    last = script.episode.last_turn
    if found is None and rng.random() < habits.search_again and not last:
        script.short = False
        return f"<think>The {script.need} is not here.</think>{_search(script)}"
    if found is None or rng.random() < habits.careless:
        return f"<think>Just guess.</think><answer> {_first_object(script.relation, library, documents)}</answer>"
    noted = f"The {script.need} is {found}."
    if script.hop + 1 < len(script.path) and not last and rng.random() < habits.next_hop:
        script.hop, script.subject = script.hop + 1, found
        script.short = bool(rng.random() < habits.short_next_query)
        return f"<think>{noted} Find the {script.need}.</think>{_search(script)}"
    return f"<think>{noted}</think><answer> {found}</answer>"


def _first_object(relation: Relation, library: Library, documents: Sequence[Document]) -> str:
    """What the first document says of the kind that is asked for; failing that, the first thing it says."""
    facts = [fact for document in documents for fact in library.stated[library.numbers[document.source]]]
    for other, _, object_ in facts:
        if other.object == relation.object:
            return object_
    return facts[0][2]
