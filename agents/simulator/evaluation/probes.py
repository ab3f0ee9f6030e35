"""The searches that `zerosearch simulator evaluate` tries a simulator with.

Of the built-in world, where every hop of a question and its answer are known, each hop gives one: for "Where was the
author of X born?" first "author of X", then "birthplace of Y". Of an extract file each pair gives one, with the
documents that the real engine returned for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zerosearch_env.datasets.world.names import aliases
from zerosearch_env.datasets.world.text import BY_NAME
from zerosearch_env.errors import ConfigError
from zerosearch_env.randomness import mix, text_seed, uniform
from zerosearch_env.types import Document, Question, SearchRequest

from ..pairs.pair import Pair, pair_key, question_key


@dataclass(frozen=True, slots=True)
class Probe:
    """One search to try a simulator with."""

    query: str
    question: str
    answers: tuple[str, ...]
    """Gold answers of the question."""
    hop_answers: tuple[str, ...] | None = None
    """What the query itself asks for; None where that is not known."""
    documents: tuple[Document, ...] = ()
    """What the real engine returned for it; empty where it was not asked."""
    steps: tuple[str, ...] = ()
    """Answers of the question's steps before the last, where they are known."""

    @property
    def on_the_way(self) -> bool:
        """Whether it asks for something that the question's answer depends on, and not for the answer itself."""
        return self.hop_answers is not None and set(self.hop_answers).isdisjoint(self.answers)

    def request(self, query: str, noisy: bool, top_k: int, seed: int) -> SearchRequest:
        """A search of this question."""
        return SearchRequest(query, self.question, self.answers, noisy, top_k, seed, steps=self.steps)


def world_probes(questions: Sequence[Question]) -> list[Probe]:
    """A search for every hop of every question of the built-in world.

    Raises:
        ConfigError: a question does not say which relations it follows.
    """
    probes = []
    for question in questions:
        metadata = question.metadata or {}
        if not {"relations", "subject", "chain"} <= set(metadata):
            raise ConfigError(f"question {question.id!r} is not of the built-in world: give --input PAIRS instead")
        subject = metadata["subject"]
        for name, found in zip(metadata["relations"], metadata["chain"], strict=True):
            relation = BY_NAME[name]
            hop_answers = (found, *aliases(relation.object, found))
            query = f"{relation.noun} of {subject}"
            probes.append(Probe(query, question.text, question.answers, hop_answers, steps=question.steps))
            subject = found
    return probes


def pair_probes(pairs: Sequence[Pair]) -> list[Probe]:
    """A search for every pair; the same search with the same documents comes once."""
    kept: dict[object, Pair] = {}
    for pair in pairs:
        kept.setdefault((question_key(pair.question), pair_key(pair, label=False)), pair)
    return [Probe(p.query, p.question, p.answers, None, p.documents) for p in kept.values()]


def choose(probes: Sequence[Probe], count: int, seed: int) -> list[Probe]:
    """At most `count` of the probes, whole questions first, in a seeded order; more with the same seed contain fewer.

    Args:
        probes: as they were made.
        count: how many, at least 1.
        seed: of the order.
    """
    return sorted(probes, key=lambda probe: mix(seed, text_seed(question_key(probe.question))))[:count]


def at_level(probes: Sequence[Probe], level: float, *, top_k: int, seed: int) -> list[tuple[Probe, SearchRequest]]:
    """The probes, each with its request at a noise level.

    Probe i is noisy iff its own draw lies below the level: what is noisy at one level is noisy at every higher one.
    """
    searches = []
    for i, probe in enumerate(probes):
        noisy = uniform(seed, i, 0) < level
        searches.append((probe, probe.request(probe.query, noisy, top_k, mix(seed, i, 1))))
    return searches


def template_documents(request: SearchRequest) -> tuple[Document, ...]:
    """What a template without a model would write: the mark that a simulator has to beat in style."""
    documents = []
    for number in range(1, request.top_k + 1):
        text = f"This is result {number} for the search {request.query}."
        if request.noise_mask[number - 1]:
            text += " It has some information on the topic, but not the information that you are looking for."
        else:
            text += f" The answer to the question {request.question} is {request.answers[0]}."
        documents.append(Document("", text))
    return tuple(documents)
