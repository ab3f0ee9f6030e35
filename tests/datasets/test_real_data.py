"""Real questions and passages, where their folder is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from zerosearch_env.datasets import load_corpus, load_dataset
from zerosearch_env.engines import check_engine, make_engine
from zerosearch_env.types import SearchRequest

SENSIBLE = [
    ("Who was the mother of Lothair II?", "Lothair II"),
    ("teutberga queen of lotharingia", "Teutberga"),
    ("Theodred II bishop of Elmham", "Theodred II (Bishop of Elmham)"),
    ("margrave Lambert of Tuscany", "Lambert, Margrave of Tuscany"),
]


@pytest.mark.parametrize(
    ("file", "count", "last"),
    [
        ("nq_open_dev.jsonl", 3610, "nq_open_dev-3610"),
        ("hotpotqa_dev_qa.jsonl", 7405, "hotpotqa-dev-7404"),
    ],
)
def test_every_real_question_is_read(shared_data: Path, file: str, count: int, last: str) -> None:
    data = load_dataset(shared_data / file, "dev")
    assert (len(data.questions), data.skipped_rows) == (count, 0)
    assert data.questions[-1].id == last
    assert len({question.id for question in data.questions}) == count
    assert all(question.text and question.answers for question in data.questions)


def test_real_answers(shared_data: Path) -> None:
    first = load_dataset(shared_data / "nq_open_dev.jsonl", limit=1).questions[0]
    assert first.text == "when was the last time anyone was on the moon"
    assert first.answers == ("14 December 1972 UTC", "December 1972")


@pytest.mark.slow
def test_real_passages_answer_sensible_queries(shared_data: Path) -> None:
    path = shared_data / "wikipedia_passages.jsonl"
    corpus = load_corpus(path)
    assert len(corpus) == 6119
    assert all(passage.title and passage.text for passage in corpus)
    engine = make_engine(f"corpus:{path}")
    requests = [SearchRequest(query, query, ("Waldrada",), False, 5, i) for i, (query, _) in enumerate(SENSIBLE)]
    for (_, title), result in zip(SENSIBLE, engine.search(requests), strict=True):
        assert title in [document.title for document in result.documents]
    titles = corpus[::97]
    results = engine.search([SearchRequest(passage.title, "?", ("x",), False, 5, 0) for passage in titles])
    found = sum(p.title in [d.title for d in result.documents] for p, result in zip(titles, results, strict=True))
    assert found / len(titles) > 0.95
    check_engine(engine, requests)
