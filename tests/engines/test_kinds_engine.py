"""`KindsEngine`: every kind around every engine, what it guarantees, and what it passes on unchanged."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from dense_fakes import PASSAGES, TOWNS, HashEncoder
from retrieve_fakes import Server
from retrieve_fakes import engine as retrieve_engine
from sim_fakes import FakeBackend

from zerosearch_benchmarks.speed.chat_server import ServerThread
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world import WorldConfig, make_world
from zerosearch_env.engines import BatchedEngine, SearchEngine, check_engine, engine_parts, make_engine
from zerosearch_env.engines.corpus.engine import CorpusEngine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.engines.kinds.engine import KindsEngine
from zerosearch_env.engines.kinds.makers import WITHOUT_ANSWERS
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.testing import STRANGE_QUERIES
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.game.answers import contains_answer, documents_contain_answer
from zerosearch_env.game.noise_kinds import KINDS, NoiseKinds, read_noise_kinds
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.types import Document, Paragraph, Question, SearchRequest, SearchResult

SHARED = os.environ.get("ZEROSEARCH_SHARED_DATA", "")
OTHERS = [kind for kind in KINDS if kind != "distractor"]
ALL = read_noise_kinds(OTHERS)
WORLD = make_world(WorldConfig(passages=600), "test")


def ask(question: Question, kind: str, seed: int = 0, query: str = "", **changes: object) -> SearchRequest:
    request = SearchRequest(
        query or question.text,
        question.text,
        question.answers,
        noisy=True,
        top_k=5,
        seed=seed,
        paragraphs=question.paragraphs,
        steps=question.steps,
        noise_kind=kind,
        episode_seed=seed // 10,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def with_paragraphs(question: Question) -> Question:
    """The question with ten paragraphs of the world, one of which states the answer."""
    assert WORLD.passages is not None
    stating = [p for p in WORLD.passages if contains_answer(p.text, question.answers)][:1]
    others = [p for p in WORLD.passages if not contains_answer(f"{p.title} {p.text}", question.answers)][:9]
    chosen = tuple(Paragraph(p.title, p.text, p in stating) for p in (*stating, *others))
    return replace(question, paragraphs=chosen)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[SearchEngine, Sequence[Question]]]]:
    """Each engine, with questions that it can answer."""
    pytest.importorskip("faiss", reason="faiss is not installed (extra dense)")
    from zerosearch_env.engines import DenseEngine
    from zerosearch_env.engines.dense.build import build_index

    folder = tmp_path_factory.mktemp("dense") / "index"
    build_index(PASSAGES, folder, HashEncoder())
    towns = [Question(str(i), f"Where was {p.title} born?", (TOWNS[i % 5],)) for i, p in enumerate(PASSAGES[:40])]
    cities = [
        Question(str(i), f"What is capital {i}?", (name,)) for i, name in enumerate(["Paris", "Rome", "Oslo", "Bern"])
    ]
    world = list(WORLD.questions[::15])
    with ServerThread(Server()) as server:
        remote = retrieve_engine(server.url, dialect="search-r1", encoding="json")
        made: dict[str, tuple[SearchEngine, Sequence[Question]]] = {
            "corpus": (make_engine("corpus", dataset=WORLD), world),
            "paragraphs": (make_engine("corpus", dataset=WORLD), list(map(with_paragraphs, world[:8]))),
            "dense": (DenseEngine(folder, encoder=HashEncoder()), towns),
            "simulated": (SimulatedEngine(FakeBackend()), world),
            "retrieve": (remote, cities),
        }
        yield {
            name: (KindsEngine(engine, ALL, WORLD.questions if name == "paragraphs" else questions), questions)
            for name, (engine, questions) in made.items()
        }
        for engine, _ in made.values():
            engine.close()


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["corpus", "paragraphs", "dense", "simulated", "retrieve"])
def test_every_kind_around_every_engine(
    engines: dict[str, tuple[SearchEngine, Sequence[Question]]], name: str, kind: str
) -> None:
    engine, questions = engines[name]
    mask = (True, False, True, False, False)
    wholes = [ask(question, kind, seed) for seed, question in enumerate(questions[:8])]
    masked = [replace(request, noisy=mask) for request in wholes]
    useful = engine.search([replace(request, noisy=False) for request in wholes])
    results = engine.search([*wholes, *masked])
    for request, result in zip([*wholes, *masked], results, strict=True):
        assert result.failure is None, result
        assert len(result.documents) <= request.top_k
        for wrong in result.wrong_answers:
            assert documents_contain_answer(result.documents, (wrong,))
            assert not contains_answer(wrong, request.answers)
        if request.noisy is True and kind in WITHOUT_ANSWERS:
            assert not documents_contain_answer(result.documents, request.answers)
        assert (result.message is not None) == (kind == "outage" and request.noisy is True)
        assert bool(result.documents) == (request.noisy is not True or kind not in ("empty", "outage"))
    for request, result, plain in zip(masked, results[len(wholes) :], useful, strict=True):
        kept = [document for document, noise in zip(plain.documents, mask, strict=False) if not noise]
        assert all(document in result.documents for document in kept)
        if kind == "empty":
            assert list(result.documents) == kept
        elif len(result.documents) == len(plain.documents) == 5:
            assert [result.documents[1], *result.documents[3:]] == kept
            if kind in WITHOUT_ANSWERS:
                assert not documents_contain_answer((result.documents[0], result.documents[2]), request.answers)
    again = engine.search([*masked[::-1], *wholes[::-1]])[::-1]
    assert [(r.documents, r.message) for r in again] == [(r.documents, r.message) for r in results]
    assert [(r.documents, r.message) for r in (engine.search([r])[0] for r in wholes[:2])] == [
        (r.documents, r.message) for r in results[:2]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(WITHOUT_ANSWERS - {"outage"}))
def test_kinds_without_answers_pass_the_checks_of_engines(kind: str) -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    check_engine(engine, [ask(question, kind, seed) for seed, question in enumerate(WORLD.questions[::60])])


def test_searches_without_noise_and_distractors_are_those_of_the_engine() -> None:
    class Kept(CorpusEngine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            self.results = super().search(requests)
            self.requests = list(requests)
            return self.results

    inner = Kept(WORLD.passages or ())
    engine = KindsEngine(inner, ALL, WORLD.questions)
    requests = [
        ask(WORLD.questions[0], "distractor"),
        ask(WORLD.questions[1], "injection", noisy=False),
        ask(WORLD.questions[2], "mixed", noisy=(False,) * 5),
        ask(WORLD.questions[3], "distractor", noisy=(True, False, True, True, True)),
    ]
    results = engine.search(requests)
    assert all(made is found for made, found in zip(results, inner.results, strict=True))
    assert all(sent is asked for sent, asked in zip(inner.requests, requests, strict=True))
    only = read_noise_kinds("distractor")
    assert add_noise_kinds(inner, only, WORLD.questions) is inner


def test_a_batch_of_all_kinds_is_one_call_of_the_engine() -> None:
    class Counting(CorpusEngine):
        calls: list[int] = []  # noqa: RUF012

        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            self.calls.append(len(requests))
            return super().search(requests)

    engine = KindsEngine(Counting(WORLD.passages or ()), ALL, WORLD.questions)
    kinds = [kind for kind in OTHERS if kind != "irrelevant"]  # whose documents may state the answer by chance
    engine.search([ask(WORLD.questions[7], kind, seed) for seed, kind in enumerate(kinds)])
    assert Counting.calls == [len(kinds) - 2]  # `empty` and `outage` ask nothing
    engine.search([ask(WORLD.questions[7], kind) for kind in ("empty", "outage")])
    assert len(Counting.calls) == 1


def test_asearch_agrees_with_search() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    requests = [ask(WORLD.questions[20 * seed], kind, seed) for seed, kind in enumerate(OTHERS)]

    async def gather() -> list[SearchResult]:
        return await asyncio.gather(*map(engine.asearch, requests))

    awaited = asyncio.run(gather())
    found = engine.search(requests)
    assert [(r.documents, r.message, r.wrong_answers) for r in awaited] == [
        (r.documents, r.message, r.wrong_answers) for r in found
    ]


def test_all_searches_of_an_episode_agree_on_the_wrong_answer() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    for question in WORLD.questions[:40]:
        requests = [ask(question, kind, seed) for kind in ("counterfactual", "mixed", "injection") for seed in range(4)]
        stated = {text for result in engine.search(requests) for text in result.wrong_answers}
        assert len(stated) == 1
    several = {engine.search([ask(question, "injection", 10 * e)])[0].wrong_answers for e in range(12)}
    assert len(several) > 3


def test_counterfactual_documents_are_useful_ones_with_another_answer() -> None:
    question = WORLD.questions[0]
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    true, false = engine.search([ask(question, "counterfactual", noisy=False), ask(question, "counterfactual")])
    (wrong,) = false.wrong_answers
    stating = [contains_answer(f"{d.title} {d.text}", question.answers) for d in true.documents]
    assert any(stating)
    for states, before, after in zip(stating, true.documents, false.documents, strict=True):
        assert states == (before != after) == contains_answer(after.text, (wrong,))
        assert after.text == before.text.replace(question.answers[0], wrong)
        assert (before.source, before.score) == (after.source, after.score)


def test_answers_of_steps_are_replaced_unless_the_query_names_them() -> None:
    question = next(question for question in WORLD.questions if question.steps)
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    (step,) = question.steps
    assert question.metadata is not None
    subject = str(question.metadata["subject"])
    for kind in ("counterfactual", "incomplete"):
        (first,) = engine.search([ask(question, kind, query=subject)])
        assert not documents_contain_answer(first.documents, (step,))
        (second,) = engine.search([ask(question, kind, query=f"about {step}")])
        assert documents_contain_answer(second.documents, (step,))


def test_mixed_shows_true_and_false_documents_side_by_side() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    first_is_false = 0
    questions = [question for question in WORLD.questions if not question.steps][:30]
    for seed, question in enumerate(questions):
        (result,) = engine.search([ask(question, "mixed", seed)])
        (wrong,) = result.wrong_answers
        true = [d for d in result.documents if contains_answer(d.text, question.answers)]
        false = [d for d in result.documents if contains_answer(d.text, (wrong,))]
        assert true
        assert false
        assert {d.source for d in true} & {d.source for d in false}
        places = [result.documents.index(documents[0]) for documents in (true, false)]
        first_is_false += places[1] < places[0]
    assert 5 < first_is_false < 25


def test_every_kind_answers_strange_queries() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    masks: list[bool | tuple[bool, ...]] = [True, (False, True, True, False, True)]
    requests = [
        ask(WORLD.questions[0], kind, noisy=mask, query=query or " ")
        for kind in OTHERS
        for mask in masks
        for query in STRANGE_QUERIES
    ]
    assert {result.failure for result in engine.search(requests)} == {None}


def test_garbled_documents_lose_the_answer_in_the_stated_share() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    questions = [question for question in WORLD.questions if not question.steps][:100]
    plain = engine.search([ask(question, "garbled", noisy=False) for question in questions])
    for kind, low, high in (("garbled:0", 0, 0), ("garbled", 0.35, 0.65), ("garbled:1", 1, 1)):
        found = engine.search([ask(question, kind, seed) for seed, question in enumerate(questions)])
        lost = [
            not contains_answer(f"{after.title} {after.text}", question.answers)
            for question, before, result in zip(questions, plain, found, strict=True)
            for document, after in zip(before.documents, result.documents, strict=True)
            if contains_answer(f"{document.title} {document.text}", question.answers)
        ]
        assert low <= sum(lost) / len(lost) <= high


def test_yes_and_no_are_claimed() -> None:
    questions = [*WORLD.questions, Question("y", "Are both of them towns?", ("yes",))]
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, questions)
    for kind in ("counterfactual", "mixed", "injection"):
        (result,) = engine.search([ask(questions[-1], kind, 3)])
        assert result.wrong_answers == ("no",)
        assert documents_contain_answer(result.documents, ("no",))
        assert not documents_contain_answer(result.documents, ("yes",))
    (cut,) = engine.search([ask(questions[-1], "incomplete", 3)])
    assert all(document.text.endswith("...") for document in cut.documents)


def test_an_address_that_names_the_answer_is_cut() -> None:
    passages = [Document(f"Film {i}", f"Film {i} is by Ada Ash.", f"https://x.org/wiki/Ada_Ash?{i}") for i in range(20)]
    questions = [Question("1", "Who made film 1?", ("Ada Ash",)), Question("2", "Who made it?", ("Bo Bell",))]
    engine = KindsEngine(CorpusEngine(passages), read_noise_kinds("counterfactual"), questions)
    (result,) = engine.search([ask(questions[0], "counterfactual")])
    assert {document.source for document in result.documents} == {"https://x.org"}


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("kind", ["injection", "markup", "outage"])
def test_an_observation_stays_one_block(name: str, kind: str) -> None:
    """No attack and no debris closes the block of the documents, opens a turn, or acts."""
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    protocol = PROTOCOLS[name]
    plain = protocol.render_documents((Document("Title", "Text."),), "query")
    for result in engine.search([ask(WORLD.questions[seed % 9], kind, seed) for seed in range(60)]):
        shown = (
            protocol.render_documents(result.documents, "query")
            if result.message is None
            else protocol.show_message(result.message, "query")
        )
        for mark in ("<information>", "</information>", "<result>", "</result>", "<tool_response>", "</tool_response>"):
            assert shown.count(mark) == plain.count(mark)
        for mark in ("<answer>", "</think>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<search>"):
            assert shown.count(mark) == plain.count(mark)
        for mark in ("<|begin_of_documents|>", "<|end_of_documents|>"):
            assert shown.count(mark) == plain.count(mark)


def test_parts_of_the_engine_are_forwarded() -> None:
    class Inner(BatchedEngine):
        waits = True
        required_fields = ("question",)

        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            return [SearchResult((), failure="down") for _ in requests]

        def identity(self) -> dict[str, str]:
            return {"data": "abc"}

        def check_top_k(self, top_k: int, *, noise: bool = False) -> None:
            raise ConfigError(f"too few for {top_k}")

        def try_out(self, questions: Sequence[Question], top_k: int) -> str | None:
            return "fit"

    inner = Inner()
    engine = KindsEngine(inner, read_noise_kinds("mixed"), WORLD.questions)
    parts = engine_parts(engine)
    assert parts.waits
    assert set(parts.required_fields) == {"question", "answers"}
    assert parts.identity() == {"data": "abc"}
    assert parts.try_out((), 5) == "fit"
    assert parts.stats() is None
    assert not parts.is_quick([])
    assert engine.engine is inner
    with pytest.raises(ConfigError, match="too few for 3"):
        parts.check_top_k(3)
    results = engine.search([ask(WORLD.questions[0], kind) for kind in OTHERS])
    assert {
        result.failure for result, kind in zip(results, OTHERS, strict=True) if kind not in ("empty", "outage")
    } == {"down"}
    engine.close()
    with pytest.raises(EngineError, match="KindsEngine is closed"):
        engine.search([])
    with pytest.raises(EngineError, match="Inner is closed"):
        asyncio.run(inner.asearch(ask(WORLD.questions[0], "mixed")))
    engine.close()


def test_wrong_results_of_the_engine_fail_their_searches() -> None:
    class Wrong(BatchedEngine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            return ["no result"] * len(requests)  # type: ignore[list-item]

    engine = KindsEngine(Wrong(), read_noise_kinds("markup"), WORLD.questions)
    (result,) = engine.search([ask(WORLD.questions[0], "markup")])
    assert result.failure is not None
    assert "Wrong returned a value of type str" in result.failure


def test_engines_pickle_and_copy() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    requests = [ask(WORLD.questions[5], kind, 9) for kind in OTHERS]
    expected = [result.documents for result in engine.search(requests)]
    for other in (pickle.loads(pickle.dumps(engine)), copy.deepcopy(engine)):
        assert [result.documents for result in other.search(requests)] == expected


def test_a_request_without_answers_gets_distractors() -> None:
    engine = KindsEngine(make_engine("corpus", dataset=WORLD), ALL, WORLD.questions)
    for kind in ("counterfactual", "mixed", "injection", "incomplete"):
        blank = ask(WORLD.questions[0], kind, answers=())
        assert (
            engine.search([blank])[0].documents == engine.search([replace(blank, noise_kind="distractor")])[0].documents
        )


@pytest.mark.parametrize(
    ("kind", "questions", "message"),
    [
        ("irrelevant", WORLD.questions[:1], "'irrelevant' shows documents for another question, and the dataset has 1"),
        (
            "counterfactual",
            [Question("1", "Is it?", ("yes",))] * 3,
            "'counterfactual'.*yes and no.*'distractor'",
        ),
        ("mixed", [Question("1", "Is it?", ("no",))] * 3, "'mixed'.*except yes and no"),
        ("injection", [Question("1", "Who?", ("Ada Ash",))] * 3, "'injection'.*no answer of another question"),
    ],
)
def test_kinds_that_a_dataset_cannot_give(kind: str, questions: Sequence[Question], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_noise_kinds(make_engine("corpus", dataset=WORLD), read_noise_kinds(kind), questions)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="ZEROSEARCH_SHARED_DATA is not set")
@pytest.mark.parametrize("name", ["nq_open_dev", "hotpotqa_dev_qa", "wikiq_one_hop_test", "wikiq_two_hop_train"])
def test_real_questions_meet_no_gold_answer(name: str) -> None:
    """500 questions, 125 of each file, over real passages: the guarantee, and what the other kinds keep in sight."""
    dataset = load_dataset(str(Path(SHARED) / f"{name}.jsonl"), "test")
    inner = make_engine(f"corpus:{Path(SHARED) / 'wikipedia_passages.jsonl'}")
    engine = KindsEngine(inner, ALL, dataset.questions)
    questions = dataset.questions[:: max(1, len(dataset.questions) // 125)][:125]
    sight: dict[str, int] = {}
    for kind in ("useful", *OTHERS):
        requests = [
            ask(question, "distractor" if kind == "useful" else kind, seed, noisy=kind != "useful")
            for seed, question in enumerate(questions)
        ]
        results = engine.search(requests)
        assert [result.failure for result in results] == [None] * len(questions)
        stated = [
            documents_contain_answer(result.documents, question.answers)
            for result, question in zip(results, questions, strict=True)
        ]
        sight[kind] = sum(stated)
        if kind in WITHOUT_ANSWERS:
            assert not any(stated)
        elif kind in ("markup", "redundant"):
            assert sight[kind] >= sight["useful"]
    assert sight["garbled"] < 0.8 * sight["useful"] or sight["useful"] < 10


def test_an_engine_that_has_the_kinds_is_not_wrapped_again() -> None:
    engine = add_noise_kinds(make_engine("corpus", dataset=WORLD), "counterfactual", WORLD.questions)
    assert add_noise_kinds(engine, "counterfactual", WORLD.questions) is engine
    assert add_noise_kinds(engine, "distractor", WORLD.questions) is engine
    assert add_noise_kinds(engine, "redundant", WORLD.questions) is not engine
    assert add_noise_kinds(engine, "counterfactual", WORLD.questions[:50]) is not engine


def test_kinds_of_all_stages_are_prepared() -> None:
    staged = NoiseKinds((*read_noise_kinds("distractor").stages, *read_noise_kinds("irrelevant").stages))
    engine = add_noise_kinds(make_engine("corpus", dataset=WORLD), staged, WORLD.questions)
    assert isinstance(engine, KindsEngine)
    (result,) = engine.search([ask(WORLD.questions[0], "irrelevant", 4)])
    assert len(result.documents) == 5
