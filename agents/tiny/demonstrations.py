"""Demonstrations for the warm start: a scripted, imperfect searcher plays real episodes in train worlds.

It knows the format, plans its searches ("Find the author of X, then the teacher.") and reads the documents. It has bad
habits that reinforcement learning can unlearn, because the matching good behaviour is also shown, only less often:

- it usually searches for the last word of a name instead of the whole name;
- it sometimes answers with a fact of the first document, even if that is about someone else;
- if the fact is not in the documents, it usually guesses from them instead of searching again;
- after the first hop of a two-hop question it often stops and answers with the intermediate result.

On request it sometimes answers "unknown" when it does not find the fact, so that a reward can decide when to abstain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from zerosearch_env.checks import check_number
from zerosearch_env.datasets.world.text import BY_NAME, Relation
from zerosearch_env.engines import SearchEngine
from zerosearch_env.engines.run import observe_searches
from zerosearch_env.game.episode import Episode
from zerosearch_env.types import Document, Step

from ..sft.rows import Segment
from .reading import Library, plan_text, title_words


@dataclass(frozen=True)
class Habits:
    """Probabilities of the scripted searcher's behaviours."""

    short_query: float = 0.65
    """Probability of searching for only the last word of the name, in the first search."""
    short_next_query: float = 0.4
    """The same for the first search of the second hop."""
    careless: float = 0.3
    """Probability of answering with a fact of the first document although the right fact was found."""
    search_again: float = 0.3
    """Probability of searching again if the fact is not in the documents; otherwise it guesses."""
    next_hop: float = 0.45
    """Probability of continuing with the second hop; otherwise it answers with the result of the first."""
    abstain: float = 0.0
    """Probability of answering "unknown" instead of guessing, if the fact is not in the documents."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_number(f"habits.{entry.name}", getattr(self, entry.name), least=0, most=1)


@dataclass
class _Script:
    """State of the searcher in one episode."""

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
        library: the world that the questions are about.
        engine: search engine over that world's passages; its searches must not fail.
        episodes: new episodes of the protocol "zerosearch" with questions made by `make_questions`, which puts
            relations and subject into their metadata. They are played to the end.
        habits: probabilities of the searcher's behaviours.
        rng: source of all random choices.

    Returns:
        The text of each episode as segments: the policy's turns are trained on, everything else is not. Their
        concatenation is the episode's `text`.
    """
    scripts, texts = [], []
    for episode in episodes:
        metadata = episode.question.metadata or {}
        path = tuple(BY_NAME[name] for name in metadata["relations"])
        short = bool(rng.random() < habits.short_query)
        scripts.append(_Script(episode, path, metadata["subject"], short=short))
        texts.append([(episode.prompt, False)])
    turns = [f"<think>{plan_text(s.path, _name_in_query(s))}</think>{_search(s)}" for s in scripts]
    active = list(range(len(scripts)))
    while active:
        outcomes = [scripts[i].episode.advance(turns[i]) for i in active]
        for i in active:
            texts[i].append((turns[i], True))
        searching = [i for i, outcome in zip(active, outcomes, strict=True) if not isinstance(outcome, Step)]
        steps = observe_searches(engine, [scripts[i].episode for i in searching])
        active = []
        for i, step in zip(searching, steps, strict=True):
            texts[i].append((step.observation, False))
            turns[i] = _read(scripts[i], library, step.documents, habits, rng)
            active.append(i)
    return texts


def _name_in_query(script: _Script) -> str:
    return title_words(script.subject)[-1] if script.short else script.subject


def _search(script: _Script) -> str:
    # The space matters: a byte-level tokenizer encodes "Corin" and " Corin" differently, and documents have the latter.
    return f"<search> {script.relation.noun} of {_name_in_query(script)}</search>"


def _read(
    script: _Script, library: Library, documents: Sequence[Document], habits: Habits, rng: np.random.Generator
) -> str:
    """The turn after a search."""
    answer = library.stated_by(documents).get((script.relation.name, script.subject))
    last = script.episode.last_turn
    if answer is None and rng.random() < habits.search_again and not last:
        script.short = False
        return f"<think>The {script.need} is not here.</think>{_search(script)}"
    # At 0 nothing is drawn: the demonstrations of the shipped model stay the same.
    if answer is None and habits.abstain and rng.random() < habits.abstain:
        return f"<think>The {script.need} is not here.</think><answer> unknown</answer>"
    if answer is None or rng.random() < habits.careless:
        return f"<think>Just guess.</think><answer> {_first_object(script.relation, library, documents)}</answer>"
    noted = f"The {script.need} is {answer}."
    if script.hop + 1 < len(script.path) and not last and rng.random() < habits.next_hop:
        script.hop, script.subject = script.hop + 1, answer
        script.short = bool(rng.random() < habits.short_next_query)
        return f"<think>{noted} Find the {script.need}.</think>{_search(script)}"
    return f"<think>{noted}</think><answer> {answer}</answer>"


def _first_object(relation: Relation, library: Library, documents: Sequence[Document]) -> str:
    """The first stated object of the wanted kind in the documents, or else the object of the very first fact."""
    facts = [fact for document in documents for fact in library.stated[library.numbers[document.source]]]
    for other, _, answer in facts:
        if other.object == relation.object:
            return answer
    return facts[0][2]
