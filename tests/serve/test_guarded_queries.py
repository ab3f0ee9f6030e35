"""Clients that send nothing but queries: noisy results are free of the answers of the server's questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import CorpusEngine, make_engine
from zerosearch_env.engines.base import SearchEngine
from zerosearch_env.game.answers import documents_contain_answer
from zerosearch_env.retrieve_api.bodies import parse
from zerosearch_env.serve.questions import KnownQuestions
from zerosearch_env.serve.searches import RequestDefaults
from zerosearch_env.types import Document, Question

Pairs = Sequence[tuple[str, tuple[str, ...]]]


def leaks(engine: SearchEngine, questions: Sequence[Question], pairs: Pairs, top_k: int) -> int:
    """How many noisy results state an answer of the question that the query was written for."""
    defaults = RequestDefaults(top_k=top_k, noise=1.0, questions=questions)
    results = engine.search(defaults.make(parse({"queries": [query for query, _ in pairs]})))
    assert all(result.failure is None and len(result.documents) == top_k for result in results)
    return sum(
        documents_contain_answer(result.documents, answers) for result, (_, answers) in zip(results, pairs, strict=True)
    )


def test_queries_for_every_step_of_the_built_in_questions() -> None:
    data = load_dataset("world", "train", world=WorldConfig(passages=400))
    engine = make_engine("corpus", dataset=data)
    pairs = [(title, question.answers) for question in data.questions for title in question.supporting]
    assert len(pairs) >= 300
    assert leaks(engine, (), pairs, 10) > 0.08 * len(pairs)
    assert leaks(engine, data.questions, pairs, 10) == 0


@pytest.mark.slow
def test_queries_that_agents_wrote(shared_data: Path) -> None:
    """3,169 queries of 1,314 episodes on HotpotQA; the passages are what a search engine gave them, and others."""
    with open(shared_data / "real_search_trajectories.jsonl", encoding="utf-8") as file:
        episodes = [json.loads(line) for line in file]
    snippets = [text for episode in episodes for search in episode["searches"] for text in search["documents"]]
    with open(shared_data / "wikipedia_passages.jsonl", encoding="utf-8") as file:
        snippets += [json.loads(line)["contents"] for line in file]
    engine = CorpusEngine([Document("", text, str(number)) for number, text in enumerate(dict.fromkeys(snippets))])
    questions = load_dataset(shared_data / "hotpotqa_dev_qa.jsonl").questions
    pairs = [(search["query"], tuple(episode["answers"])) for episode in episodes for search in episode["searches"]]
    known = KnownQuestions(questions)
    assert len(pairs) == 3169
    assert sum(known.in_query(query) is not None for query, _ in pairs) < 0.01 * len(pairs)
    before, after = leaks(engine, (), pairs, 3), leaks(engine, questions, pairs, 3)
    assert before > 0.025 * len(pairs)
    assert after < 0.0025 * len(pairs)
