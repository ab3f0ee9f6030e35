"""The searches with which `zerosearch simulator evaluate` tests a simulator.

In the built-in world, every hop of a question and its answer are known, and each hop gives one search: "Where was the
author of X born?" gives "author of X" and "birthplace of Y". In a file from `extract`, each pair gives one search, with
the documents that the real engine returned.
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
    """One search for testing a simulator."""

    query: str
    question: str
    answers: tuple[str, ...]
    """Gold answers of the question."""
    hop_answers: tuple[str, ...] | None = None
    """Answers to the query itself; None if unknown."""
    documents: tuple[Document, ...] = ()
    """The real engine's documents; empty if it was not asked."""
    steps: tuple[str, ...] = ()
    """Answers of all steps of the question except the last, if known."""

    @property
    def on_the_way(self) -> bool:
        """Whether it asks for an intermediate fact, and not for the answer to the question."""
        return self.hop_answers is not None and set(self.hop_answers).isdisjoint(self.answers)

    def request(self, query: str, noisy: bool, top_k: int, seed: int) -> SearchRequest:
        """A search request for this question."""
        return SearchRequest(query, self.question, self.answers, noisy, top_k, seed, steps=self.steps)


def world_probes(questions: Sequence[Question]) -> list[Probe]:
    """One search for every hop of every question of the built-in world.

    Raises:
        ConfigError: the metadata of a question do not name its relations.
    """
    probes = []
    for question in questions:
        metadata = question.metadata or {}
        if not {"relations", "subject", "chain"} <= set(metadata):
            raise ConfigError(f"question {question.id!r} is not from the built-in world: pass --input PAIRS instead")
        subject = metadata["subject"]
        for name, entity in zip(metadata["relations"], metadata["chain"], strict=True):
            relation = BY_NAME[name]
            hop_answers = (entity, *aliases(relation.object, entity))
            query = f"{relation.noun} of {subject}"
            probes.append(Probe(query, question.text, question.answers, hop_answers, steps=question.steps))
            subject = entity
    return probes


def pair_probes(pairs: Sequence[Pair]) -> list[Probe]:
    """One search per pair; duplicates with the same documents are removed."""
    distinct: dict[object, Pair] = {}
    for pair in pairs:
        distinct.setdefault((question_key(pair.question), pair_key(pair, label=False)), pair)
    return [Probe(p.query, p.question, p.answers, None, p.documents) for p in distinct.values()]


def choose(probes: Sequence[Probe], count: int, seed: int) -> list[Probe]:
    """The first `count` probes in a seeded order that keeps the probes of a question together.

    With the same seed, a larger count gives a superset.

    Args:
        probes: all probes.
        count: maximum number of probes, at least 1.
        seed: random seed of the order.
    """
    return sorted(probes, key=lambda probe: mix(seed, text_seed(question_key(probe.question))))[:count]


def at_level(probes: Sequence[Probe], level: float, *, top_k: int, seed: int) -> list[tuple[Probe, SearchRequest]]:
    """The probes, each with its request at a noise level.

    Draws are coupled: probe i is noisy iff its uniform draw, which does not depend on the level, is below the level. A
    probe that is noisy at one level is therefore noisy at every higher one.
    """
    searches = []
    for i, probe in enumerate(probes):
        noisy = uniform(seed, i, 0) < level
        searches.append((probe, probe.request(probe.query, noisy, top_k, mix(seed, i, 1))))
    return searches


def template_documents(request: SearchRequest) -> tuple[Document, ...]:
    """The documents of a fixed template: the baseline that a simulator must beat in style."""
    documents = []
    for number in range(1, request.top_k + 1):
        text = f"This is result {number} for the search {request.query}."
        if request.noise_mask[number - 1]:
            text += " It has some information on the topic, but not the information that you are looking for."
        else:
            text += f" The answer to the question {request.question} is {request.answers[0]}."
        documents.append(Document("", text))
    return tuple(documents)
