"""Defaults, bounds, known questions and the noise of searches. No server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.game.noise import get_schedule
from zerosearch_env.game.noise_kinds import read_noise_kinds
from zerosearch_env.retrieve_api.bodies import parse
from zerosearch_env.retrieve_api.codec import RequestError
from zerosearch_env.serve.questions import KnownQuestions
from zerosearch_env.serve.searches import RequestDefaults, guarded_documents
from zerosearch_env.types import Document, Paragraph, Question, SearchRequest, SearchResult

MANY = [f"query {number}" for number in range(400)]


def make(maker: RequestDefaults, **body: Any) -> list[SearchRequest]:
    return maker.make(parse(body))


def noisy(requests: Sequence[SearchRequest]) -> list[bool]:
    return [bool(request.noisy) for request in requests]


def test_defaults_and_bounds() -> None:
    maker = RequestDefaults(top_k=4, max_top_k=6)
    assert [request.top_k for request in (*make(maker, query="q"), *make(maker, query="q", topk=6))] == [4, 6]
    with pytest.raises(RequestError, match="at most 6 documents per query, got 7"):
        make(maker, query="q", topk=7)
    with pytest.raises(RequestError, match="holds 2 flags for 4 documents"):
        make(maker, query="q", noisy=[True, False])


@pytest.mark.parametrize(
    "options", [{"top_k": 0}, {"top_k": 5, "max_top_k": 4}, {"noise": 1.5}, {"curriculum_searches": 0}]
)
def test_unusable_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RequestDefaults(**options)


def test_a_seed_gives_the_same_search_again() -> None:
    first = make(RequestDefaults(noise=0.5, seed=3), queries=MANY, seed=7)
    maker = RequestDefaults(noise=0.5, seed=3)
    make(maker, query="something before")
    assert make(maker, queries=MANY[::-1], seed=7)[::-1] == first
    assert make(maker, queries=MANY, seed=8) != first
    assert make(maker, queries=MANY, seed=7, question="Q?") != first
    assert make(RequestDefaults(noise=0.5, seed=4), queries=MANY, seed=7) != first


def test_without_a_seed_the_counter_counts() -> None:
    maker = RequestDefaults(noise=0.5)
    same = make(maker, queries=["q"] * 400)
    assert len({request.seed for request in same}) == 400
    assert 0.4 < sum(noisy(same)) / 400 < 0.6
    assert make(RequestDefaults(noise=0.5), queries=["q"] * 400) == same
    assert make(RequestDefaults(noise=0.5), query="q", seed=0)[0].seed != same[0].seed


def test_a_higher_level_adds_noise_and_takes_none_away() -> None:
    low, high = (noisy(make(RequestDefaults(noise=level), queries=MANY, seed=1)) for level in (0.25, 0.75))
    assert 0.15 < sum(low) / 400 < 0.35
    assert 0.65 < sum(high) / 400 < 0.85
    assert all(more for less, more in zip(low, high, strict=True) if less)
    assert not any(noisy(make(RequestDefaults(noise=0.0), queries=MANY)))
    assert all(noisy(make(RequestDefaults(noise=1.0), queries=MANY)))


def test_the_request_decides_where_it_says() -> None:
    maker = RequestDefaults(noise=1.0, top_k=2)
    assert [request.noisy for request in make(maker, queries=["q", "r"], noisy=[False, [True, False]])] == [
        False,
        (True, False),
    ]


def test_a_schedule_moves_with_the_searches() -> None:
    maker = RequestDefaults(noise=get_schedule("linear", start=0.0, end=1.0), curriculum_searches=400)
    assert maker.noise_level == 0.0
    drawn = noisy(make(maker, queries=MANY))
    assert sum(drawn[:200]) < sum(drawn[200:])
    assert maker.noise_level == 1.0
    make(maker, queries=MANY)
    assert maker.noise_level == 1.0


def test_kinds_of_noise_have_a_draw_of_their_own_and_stages() -> None:
    kinds = read_noise_kinds(["empty", {"outage": 0.25, "irrelevant": 0.75}])
    plain = make(RequestDefaults(noise=0.5, curriculum_searches=400), queries=MANY)
    drawn = make(RequestDefaults(noise=0.5, noise_kinds=kinds, curriculum_searches=400), queries=MANY)
    assert [(request.seed, request.noisy) for request in plain] == [(request.seed, request.noisy) for request in drawn]
    assert {request.noise_kind for request in plain} == {"distractor"}
    assert {request.noise_kind for request in drawn[:200]} == {"empty"}
    assert 0.15 < sum(request.noise_kind == "outage" for request in drawn[200:]) / 200 < 0.35


def test_searches_for_a_question_share_the_seed_of_their_wrong_answer() -> None:
    maker = RequestDefaults(seed=3)
    first, second = make(maker, queries=["q", "r"], question="Who?")
    (other,) = make(maker, query="q", question="When?")
    assert first.episode_seed == second.episode_seed != other.episode_seed
    assert first.seed != second.seed


def test_answers_of_known_questions_are_filled_in() -> None:
    own = (Paragraph("T", "text", True),)
    maker = RequestDefaults(
        questions=[Question("1", "Who?", ("Ada", "A."), paragraphs=own, metadata={"chain": ["Rome", "Ada"]})],
        required=["question", "answers"],
    )
    request = make(maker, query="q", question="Who?")[0]
    assert (request.question, request.answers, request.paragraphs) == ("Who?", ("Ada", "A."), own)
    assert request.steps == ("Rome",)
    assert make(maker, query="q", question="Who?", answers=["Bob"])[0].answers == ("Bob",)
    with pytest.raises(RequestError, match="needs 'answers' with every query"):
        make(maker, query="q", question="Where?")
    with pytest.raises(RequestError, match="needs 'answers' and 'question' with every query: send"):
        make(maker, query="q")


def test_a_known_question_is_found_by_its_text_or_id_and_in_a_query() -> None:
    known = KnownQuestions(
        [
            Question("1", "Who wrote the novel Dracula?", ("Bram Stoker",)),
            Question("2", "Who wrote the novel Dracula in 1897?", ("Stoker",)),
            Question("3", "WHO wrote the novel «Dracula»", ("B. Stoker",)),
            Question("4", "Who won?", ("Ada",)),
            Question("5", "《吸血鬼》是谁写的？", ("斯托克",)),
            Question("6", "??", ("Bo",)),
        ]
    )
    merged = known.named("who wrote the novel dracula")
    assert merged is not None
    assert merged.answers == ("Bram Stoker", "B. Stoker")
    assert known.named("2").text.endswith("1897?")  # type: ignore[union-attr]
    assert known.named("7") is None
    found = {
        "please: who wrote the novel Dracula in 1897, and why": ("Stoker",),
        "who wrote the novel Dracula first": merged.answers,
        "who won": ("Ada",),
        "who won the war": None,
        "《吸血鬼》是谁写的": ("斯托克",),
        "": None,
        "?": None,
    }
    for query, answers in found.items():
        question = known.in_query(query)
        assert (None if question is None else question.answers) == answers, query


def test_a_noisy_search_of_unknown_question_is_guarded_by_the_questions_near_its_query() -> None:
    far = [Question(f"f{n}", f"Which colour has house {n}?", (f"colour {n}",)) for n in range(50)]
    near = Question("1", "Who governs the birthplace of Al Berg?", ("Bo Lind",), metadata={"chain": ["Ulm", "Bo Lind"]})
    maker = RequestDefaults(questions=[near, *far])
    for query in ("Al Berg born", "mayor of Ulm"):
        (request,) = make(maker, query=query, noisy=True)
        assert (request.answers, request.guarded, request.question) == ((), ("Bo Lind",), "")
        assert request.forbidden == ("Bo Lind",)
    assert len(make(maker, query="which colour", noisy=True)[0].guarded) == 32
    assert make(maker, query="zebra", noisy=True)[0].guarded == ()
    assert make(maker, query="Al Berg born", noisy=False)[0].guarded == ()
    assert make(maker, query="Al Berg born", noisy=[False, True], topk=2)[0].guarded == ("Bo Lind",)
    # With answers of its own, or of a question that is found, a search needs no others.
    assert make(maker, query="Al Berg born", noisy=True, answers=["x"])[0].guarded == ()
    assert make(maker, query="Who governs the birthplace of Al Berg", noisy=True)[0].guarded == ()
    # These kinds are made from useful documents, and may state the answer.
    kept = RequestDefaults(questions=[near], noise_kinds=read_noise_kinds(["garbled:0.5"]))
    assert make(kept, query="Al Berg born", noisy=True)[0].guarded == ()


def test_what_an_engine_leaves_of_guarded_answers_is_cut_out() -> None:
    request = SearchRequest("q", "", (), True, 2, 0, guarded=("Bo Lind",))
    clean, stating = Document("Ulm", "A town."), Document("Ulm", "Its mayor is Bo Lind.")
    result = SearchResult((clean, stating, stating))
    assert guarded_documents(request, result) == (clean, Document("Ulm", "Its mayor is ..."))
    assert guarded_documents(replace(request, noisy=(True, False)), result) == (clean, stating)
    assert guarded_documents(replace(request, guarded=()), result) == (clean, stating)
    with pytest.raises(EngineError, match="consists of answers to questions"):
        guarded_documents(request, SearchResult((Document("", "Bo Lind"),)))
