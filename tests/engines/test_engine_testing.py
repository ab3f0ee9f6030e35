from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from zerosearch_env.engines import ConstantEngine, CorpusEngine, FailingEngine, check_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import Document, SearchRequest, SearchResult

REQUEST = SearchRequest("river", "Which river?", ("Rhine",), noisy=False, top_k=2, seed=3)
PASSAGES = [Document(f"River {i}", f"The river number {i} flows.", f"p{i}") for i in range(60)]
PASSAGES[7] = Document("River 7", "The river number 7 is the Rhine.", "p7")


def test_constant_engine_cuts_its_documents_to_top_k() -> None:
    documents = [Document("", "one"), Document("", "two")]
    engine = ConstantEngine(documents)
    one, two, three = engine.search([replace(REQUEST, top_k=k) for k in (1, 2, 3)])
    assert [one.documents, two.documents, three.documents] == [(documents[0],), tuple(documents), tuple(documents)]
    assert engine.search([]) == []


def test_failing_engine_fails_after_a_number_of_requests() -> None:
    engine = FailingEngine("out of order", after=3, attempts=2)
    results = [*engine.search([REQUEST] * 2), *engine.search([REQUEST] * 2)]
    assert [result.failure for result in results] == [None, None, None, "out of order"]
    assert results[-1].documents == ()
    assert results[-1].attempts == 2


def test_failing_engine_closes_the_engine_inside() -> None:
    inner = ConstantEngine()
    FailingEngine(inner=inner).close()
    with pytest.raises(RuntimeError, match="closed"):
        inner.search([REQUEST])


def test_good_engines_conform() -> None:
    check_engine(ConstantEngine())
    check_engine(CorpusEngine(PASSAGES), [REQUEST])
    check_engine(CorpusEngine(PASSAGES))


class Twisted(CorpusEngine):
    """A good engine with one broken promise."""

    def __init__(self, twist: Callable[[Sequence[SearchRequest], list[SearchResult]], list[SearchResult]]) -> None:
        super().__init__(PASSAGES)
        self.twist = twist

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return self.twist(requests, super().search(requests))


def leaked(requests: Sequence[SearchRequest], results: list[SearchResult], flag: bool) -> list[SearchResult]:
    """Puts the answer into the first document of every wholly (or partly) noisy result."""
    gold = Document("", "It is the Rhine.")
    return [
        replace(result, documents=(gold, *result.documents[1:]))
        if request.noisy and (request.noisy is True) == flag
        else result
        for request, result in zip(requests, results, strict=True)
    ]


CALLS = iter(range(10**9))


@pytest.mark.parametrize(
    ("twist", "message"),
    [
        (lambda _, results: results[1:], "requests gave"),
        (lambda _, results: results[::-1], "documents"),
        (lambda _, results: [replace(r, failure="down") for r in results], "down"),
        (lambda _, results: [replace(r, documents=list(r.documents)) for r in results], "tuple"),
        (lambda _, results: [replace(r, documents=r.documents * 2) for r in results], "documents for top_k"),
        (lambda q, results: leaked(q, results, True), "holds a gold answer"),
        (lambda q, results: leaked(q, results, False), "slot 0 holds a gold answer"),
        (lambda _, results: [replace(r, documents=(Document("", str(next(CALLS))),)) for r in results], "other doc"),
    ],
    ids=["count", "order", "failure", "type", "top_k", "leak", "masked leak", "random"],
)
def test_broken_promises_are_found(
    twist: Callable[[Sequence[SearchRequest], list[SearchResult]], list[SearchResult]], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_engine(Twisted(twist), [REQUEST])


def test_the_suite_needs_a_request() -> None:
    with pytest.raises(AssertionError, match="at least one request"):
        check_engine(ConstantEngine(), [])


def test_a_corpus_too_small_is_no_matter_of_conformance() -> None:
    with pytest.raises(ConfigError, match="top_k=2"):
        check_engine(CorpusEngine(PASSAGES[:1]), [REQUEST])
