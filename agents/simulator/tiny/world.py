"""Training data of the tiny simulation LLM: searches in a synthetic world, and the corpus engine's documents for them.

In a useful set, the passage that states the wanted fact is moved to the front, or inserted there if BM25 missed it, so
that a useful set is always useful for its query. The simulated engine shuffles the first documents again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from zerosearch_env.datasets.world.make import WorldConfig, make_questions
from zerosearch_env.datasets.world.text import BY_NAME, RELATIONS
from zerosearch_env.engines.corpus.engine import CorpusEngine
from zerosearch_env.types import Document, Question, SearchRequest

from ...tiny.reading import Library, open_library

QueryForm = Literal["fact", "short fact", "wh-question", "question", "name", "short name", "off the path"]

FORMS: dict[QueryForm, float] = {
    "fact": 0.42,
    "short fact": 0.16,
    "wh-question": 0.1,
    "question": 0.1,
    "name": 0.1,
    "short name": 0.04,
    "off the path": 0.08,
}
"""Probability of each form of a query, in this order: "author of The Amber Lantern", "author of Lantern", "Who wrote
The Amber Lantern?", the question itself, "The Amber Lantern", "Lantern", and a fact that the question does not need."""

COUNTS = {5: 0.6, 1: 0.15, 3: 0.07, 2: 0.05, 4: 0.05, 6: 0.02, 7: 0.02, 8: 0.02, 10: 0.02}
"""Number of documents per search -> probability."""


@dataclass(frozen=True)
class Search:
    """A search in an episode, with the step of the question that it is about."""

    request: SearchRequest
    form: QueryForm
    hop: int | None
    """The step that it asks for, from 0; None if it asks for all steps, or for something else."""
    required: tuple[str, ...]
    """Answers that useful documents must all state: those of the step; empty if the search is off the path."""
    facts: tuple[tuple[str, str], ...] = ()
    """The (relation, subject) pairs it asks for. If relation and subject do not fit, no passage states them."""


def draw_search(
    question: Question,
    rng: np.random.Generator,
    *,
    noisy: bool,
    top_k: int,
    other: str = "",
    form: QueryForm | None = None,
) -> Search:
    """A search as a policy might write it.

    Args:
        question: a question of the world; its metadata contain subject, relations and chain.
        rng: source of all random choices.
        noisy: `noisy` of the request.
        top_k: `top_k` of the request.
        other: a name that an off-path search may ask about.
        form: form of the query; None draws one from `FORMS`.
    """
    form = form or list(FORMS)[int(rng.choice(len(FORMS), p=list(FORMS.values())))]
    metadata = question.metadata or {}
    chain, path = metadata["chain"], [BY_NAME[name] for name in metadata["relations"]]
    hop: int | None = int(rng.integers(len(path)))
    subjects = (metadata["subject"], *chain)
    subject, relation = subjects[hop or 0], path[hop or 0]
    required: tuple[str, ...] = (chain[hop or 0],)
    last = subject.split()[-1]
    if form == "off the path":
        subject, hop, required = other or subject, None, ()
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
    facts: tuple[tuple[str, str], ...] = ((relation.name, subject),)
    if form == "question":
        hop, required = (None if len(path) > 1 else 0), chain
        facts = tuple((each.name, about) for each, about in zip(path, subjects, strict=False))
    query = {
        "fact": f"{relation.noun} of {subject}",
        "off the path": f"{relation.noun} of {subject}",
        "short fact": f"{relation.noun} of {last}",
        "wh-question": relation.questions[int(rng.integers(len(relation.questions)))] % {"s": subject},
        "question": question.text,
        "name": subject,
        "short name": last,
    }[form]
    seed = int(rng.integers(2**62))
    request = SearchRequest(query, question.text, question.answers, noisy, top_k, seed, steps=question.steps)
    return Search(request, form, hop, tuple(required), facts)


class SearchWriter:
    """Draws searches in one train world, with the documents that answer them.

    Args:
        seed: seed of the world.
        passages: number of passages in the world.
        noisy: share of noisy searches.
        blind: share of the two-hop questions in which the first answer is left out of the request, because most
            datasets do not contain it.
    """

    def __init__(self, seed: int, passages: int, *, noisy: float = 0.4, blind: float = 0.15) -> None:
        self.library: Library = open_library(seed, passages)
        config = WorldConfig(seed=seed, passages=passages, questions=passages)
        self.questions = list(make_questions(self.library.facts, config, "train", seed))
        self.engine = CorpusEngine(self.library.passages)
        self.noisy, self.blind = noisy, blind
        stated = enumerate(self.library.stated)
        self._passages = {(relation.name, subject): n for n, facts in stated for relation, subject, _ in facts}

    def draw(
        self, count: int, rng: np.random.Generator, *, few: bool = False
    ) -> list[tuple[Search, tuple[Document, ...]]]:
        """Draw `count` searches with their documents; with `few`, one or two documents each and fewer noisy sets."""
        counts, noise = ({1: 0.6, 2: 0.4}, self.noisy / 2) if few else (COUNTS, self.noisy)
        searches = []
        for i in rng.integers(len(self.questions), size=count).tolist():
            other = self.library.passages[int(rng.integers(len(self.library.passages)))].title
            top_k = list(counts)[int(rng.choice(len(counts), p=list(counts.values())))]
            noisy = bool(rng.random() < noise)
            search = draw_search(self.questions[i], rng, noisy=noisy, top_k=top_k, other=other)
            searches.append(search)
        # The real engine keeps the final answer out of noisy documents; here also the answers of earlier steps.
        requests = [
            replace(s.request, answers=(*s.request.answers, *s.request.steps)) if s.request.noisy else s.request
            for s in searches
        ]
        results = self.engine.search(requests)
        drawn = []
        for search, result in zip(searches, results, strict=True):
            documents = result.documents
            if not search.request.noisy:
                documents = self._answering_first(search, documents)
            if search.request.steps and rng.random() < self.blind:
                search = replace(search, request=replace(search.request, steps=()))
            drawn.append((search, documents))
        return drawn

    def _answering_first(self, search: Search, documents: tuple[Document, ...]) -> tuple[Document, ...]:
        numbers = [self._passages[fact] for fact in search.facts if fact in self._passages]
        first = [self.library.passages[number] for number in numbers][-len(documents) :]
        sources = {document.source for document in first}
        rest = [document for document in documents if document.source not in sources]
        return tuple([*first, *rest][: len(documents)])
