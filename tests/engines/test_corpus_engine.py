from __future__ import annotations

import asyncio
import gc
import json
import pickle
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import CorpusEngine, check_engine, make_engine
from zerosearch_env.engines.corpus.passages import PassageIndex
from zerosearch_env.engines.ranking import Ranking
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.types import Dataset, Document, Paragraph, Question, SearchRequest, SearchResult

NAMES = ["Ada", "Bea", "Cora", "Dora", "Elsa", "Fay", "Gil", "Hal", "Ivo", "Jon"]
TOWNS = ["Arlon", "Brest", "Crewe", "Delft", "Essen"]
PASSAGES = [
    Document(
        f"{name} {number}", f"{name} {number} was born in the town of {TOWNS[(i + number) % 5]}.", f"p{i}-{number}"
    )
    for i, name in enumerate(NAMES)
    for number in range(12)
]


def ask(
    query: str, *answers: str, top_k: int = 5, seed: int = 0, noisy: bool | tuple[bool, ...] = False
) -> SearchRequest:
    return SearchRequest(query, f"{query}?", answers or ("Nowhere",), noisy=noisy, top_k=top_k, seed=seed)


@pytest.fixture(scope="module")
def engine() -> CorpusEngine:
    return CorpusEngine(PASSAGES)


@pytest.fixture(scope="module")
def world() -> Dataset:
    return load_dataset("world", world=WorldConfig(passages=600))


def titles(documents: Sequence[Document]) -> list[str]:
    return [document.title for document in documents]


def one(engine: CorpusEngine, request: SearchRequest) -> tuple[Document, ...]:
    return engine.search([request])[0].documents


def test_useful_documents_are_the_best_matches_with_falling_scores(engine: CorpusEngine) -> None:
    result = engine.search([ask("born where: Cora 3")])[0]
    assert result.documents[0] == replace(PASSAGES[27], score=result.documents[0].score)
    scores = [document.score or 0.0 for document in result.documents]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    assert (result.engine, result.failure, len(result.documents)) == ("corpus", None, 5)
    assert result.latency_s > 0


def test_noisy_documents_are_on_topic_and_hold_neither_answer_nor_useful_document(engine: CorpusEngine) -> None:
    useful = set(titles(one(engine, ask("Where was Cora 3 born?", "Crewe"))))
    for seed in range(30):
        noisy = one(engine, ask("Where was Cora 3 born?", "Crewe", seed=seed, noisy=True))
        assert len(noisy) == 5
        assert useful.isdisjoint(titles(noisy))
        assert not any(contains_answer(f"{d.title} {d.text}", ("Crewe",)) for d in noisy)
        assert all((document.score or 0) > 0 for document in noisy)
        scores = [document.score or 0 for document in noisy]
        assert scores == sorted(scores, reverse=True)


def test_the_seed_alone_decides_the_noise(engine: CorpusEngine) -> None:
    requests = [ask("Where was Cora 3 born?", "Crewe", seed=seed, noisy=True) for seed in range(20)]
    results = [result.documents for result in engine.search(requests)]
    assert results == [one(engine, request) for request in requests]
    assert len({tuple(titles(documents)) for documents in results}) >= 18


def test_a_title_counts_as_part_of_a_passage() -> None:
    town = [Document("Delft", f"A town with {i} canals.", str(i)) for i in range(3)]
    engine = CorpusEngine([*town, *(Document("Town", f"A town with {i} canals.", f"t{i}") for i in range(10))])
    assert titles(one(engine, ask("Delft", top_k=2))) == ["Delft", "Delft"]
    assert set(titles(one(engine, ask("town with canals", "Delft", top_k=4, noisy=True)))) == {"Town"}


def test_a_mask_mixes_slot_by_slot(engine: CorpusEngine) -> None:
    request = ask("Where was Cora 3 born?", "Crewe", seed=9)
    useful = one(engine, request)
    noisy = one(engine, replace(request, noisy=True))
    for mask in [(False,) * 5, (True,) * 5, (True, False, False, True, False), (False, True, True, True, True)]:
        mixed = one(engine, replace(request, noisy=mask))
        assert mixed == tuple(noisy[j] if flag else useful[j] for j, flag in enumerate(mask))


def test_a_mask_of_another_length_is_an_error(engine: CorpusEngine) -> None:
    with pytest.raises(ConfigError, match="2 flags for top_k=5"):
        engine.search([ask("x", noisy=(True, False))])


@pytest.mark.parametrize("query", ["", "zzz qqq", "?!", "\ud800"])
def test_a_query_without_a_known_word_gets_passages_drawn_by_the_seed(engine: CorpusEngine, query: str) -> None:
    first, again, other = engine.search([ask(query, seed=1), ask(query, seed=1), ask(query, seed=2)])
    assert first.documents == again.documents != other.documents
    assert len(set(titles(first.documents))) == 5
    assert {document.score for document in first.documents} == {0.0}
    noisy = one(engine, ask(query, "Crewe", seed=1, noisy=True))
    assert set(titles(noisy)).isdisjoint(titles(first.documents))
    assert not any("Crewe" in document.text for document in noisy)


def test_a_query_with_few_matches_is_filled_up(engine: CorpusEngine) -> None:
    rare = CorpusEngine([*PASSAGES, Document("Quark", "A quark.", "q")])
    documents = one(rare, ask("quark"))
    assert documents[0].title == "Quark"
    assert [document.score for document in documents[1:]] == [0.0] * 4


def test_a_pool_full_of_answers_is_left_for_farther_ranks() -> None:
    # Two hundred passages match best and hold the answer; the three without it match worse; the rest not at all.
    golden = [Document("", f"river town bridge Rhine {i}", f"g{i}") for i in range(200)]
    weak = [Document("", f"a river of no name and of no length at all {i}", f"w{i}") for i in range(3)]
    unrelated = [Document("", f"cloud {i}", f"u{i}") for i in range(20)]
    engine = CorpusEngine([*golden, *weak, *unrelated], pool=5)
    sources = [d.source for d in one(engine, ask("river town bridge", "Rhine", noisy=True))]
    assert {source[0] for source in sources[:3]} == {"w"}
    assert {source[0] for source in sources[3:]} == {"u"}
    assert one(engine, ask("river town bridge", "Rhine", noisy=True)) == one(
        engine, ask("river town bridge", "Rhine", noisy=True)
    )


def test_a_corpus_of_answers_gives_a_shorter_result() -> None:
    engine = CorpusEngine(
        [Document("", f"river Rhine {i}", str(i)) for i in range(30)] + [Document("", "the sea", "sea")]
    )
    assert [d.source for d in one(engine, ask("river", "Rhine", noisy=True))] == ["sea"]


@pytest.mark.parametrize(("noisy", "needed"), [(False, 5), (True, 10), ((False,) * 4 + (True,), 10)])
def test_a_corpus_too_small_names_both_numbers(noisy: bool | tuple[bool, ...], needed: int) -> None:
    engine = CorpusEngine(PASSAGES[: needed - 1])
    with pytest.raises(ConfigError, match=rf"has {needed - 1} passages and top_k=5 needs at least {needed}"):
        engine.search([ask("Ada", noisy=noisy)])
    with pytest.raises(ConfigError, match="larger corpus or a smaller top_k"):
        engine.check_top_k(5, noise=bool(noisy))
    CorpusEngine(PASSAGES[:needed]).check_top_k(5, noise=bool(noisy))
    assert len(one(CorpusEngine(PASSAGES[:needed]), ask("Ada", noisy=noisy))) == 5


def test_many_concurrent_callers_share_few_searches(engine: CorpusEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    search = engine.search

    def counted(requests: Sequence[SearchRequest]) -> list:
        calls.append(len(requests))
        return search(requests)

    monkeypatch.setattr(engine, "search", counted)
    requests = [ask(f"Where was {NAMES[i % 10]} {i % 12} born?", seed=i, noisy=i % 2 == 0) for i in range(100)]

    async def main() -> list:
        return await asyncio.gather(*(engine.asearch(request) for request in requests))

    results = asyncio.run(main())
    assert [r.documents for r in results] == [r.documents for r in search(requests)]
    assert sum(calls) == 100
    assert len(calls) <= 8


def test_few_searches_in_a_small_corpus_are_quick_once_the_index_is_built() -> None:
    def ask(**more: Any) -> SearchRequest:
        return SearchRequest("mill", "", (), noisy=False, top_k=1, seed=0, **more)

    engine = CorpusEngine([Document("The mill", f"stands {n}") for n in range(10)])
    assert not engine.is_quick([ask()])
    engine.search([ask()])
    assert engine.is_quick([ask()] * 15)
    assert not engine.is_quick([ask()] * 100)
    assert not engine.is_quick([ask(paragraphs=(Paragraph("a", "b", supporting=True),))])

    class Slow(CorpusEngine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            return super().search(requests)

    slow = Slow(engine.passages)
    slow.search([ask()])
    assert not slow.is_quick([ask()])


def test_an_engine_can_be_sent_to_another_process(engine: CorpusEngine) -> None:
    requests = [ask("Where was Cora 3 born?", "Crewe", seed=3, noisy=flag) for flag in (False, True)]
    expected = [result.documents for result in engine.search(requests)]
    copy = pickle.loads(pickle.dumps(engine))
    assert [result.documents for result in copy.search(requests)] == expected
    assert asyncio.run(copy.asearch(requests[0])).documents == expected[0]


def test_the_world_conforms(world: Dataset) -> None:
    engine = make_engine("corpus", dataset=world)
    check_engine(
        engine,
        [
            SearchRequest(q.text, q.text, q.answers, noisy=False, top_k=3 + i % 3, seed=i)
            for i, q in enumerate(world.questions[:60])
        ],
    )


def test_world_answers_are_found_by_their_questions(world: Dataset) -> None:
    engine = make_engine("corpus", dataset=world)
    single = [q for q in world.questions if q.metadata and q.metadata["hops"] == 1]
    results = engine.search([SearchRequest(q.text, q.text, q.answers, False, 5, 0) for q in single])
    found = sum(
        any(contains_answer(d.text, q.answers) for d in result.documents)
        for q, result in zip(single, results, strict=True)
    )
    assert found / len(single) > 0.9


@pytest.mark.slow
def test_engines_of_one_dataset_share_an_index_that_goes_with_it() -> None:
    data = Dataset("d", "train", (), passages=PASSAGES)
    first, second = (make_engine("corpus", dataset=data) for _ in range(2))
    other = make_engine({"kind": "corpus", "k1": 0.9}, dataset=data)
    assert isinstance(first, CorpusEngine)
    assert isinstance(second, CorpusEngine)
    assert isinstance(other, CorpusEngine)
    assert first._index is second._index is not other._index
    first.close()
    assert len(one(second, ask("Ada"))) == 5
    assert not pickle.loads(pickle.dumps(data)).derived
    index = weakref.ref(first._index)
    del data, first, second, other
    gc.collect()
    assert index() is None


def write_corpus(path: Path, documents: Sequence[Document]) -> None:
    rows = [{"id": d.source, "contents": f'"{d.title}"\n{d.text}'} for d in documents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_corpus_file_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, PASSAGES)
    first = make_engine(f"corpus:{path}")
    second = make_engine({"kind": "corpus", "path": str(path)})
    assert isinstance(first, CorpusEngine)
    assert isinstance(second, CorpusEngine)
    assert first._index is second._index
    assert one(first, ask("Dora 4"))[0].source == "p3-4"
    write_corpus(path, PASSAGES[:50])
    third = make_engine(f"corpus:{path}")
    assert isinstance(third, CorpusEngine)
    assert len(third.passages) == 50


def test_what_cannot_be_searched(tmp_path: Path) -> None:
    bare = Dataset("bare", "train", (Question("1", "q", ("a",)),))
    with pytest.raises(ConfigError, match=r"'bare' has no passages.*corpus:FILE"):
        make_engine("corpus", dataset=bare)
    with pytest.raises(ConfigError, match="needs a dataset"):
        make_engine("corpus")
    with pytest.raises(ConfigError, match="given twice"):
        make_engine({"kind": "corpus", "argument": "a", "path": "b"})
    (tmp_path / "wikipedia.jsonl").touch()
    with pytest.raises(DataError, match=r"Did you mean 'wikipedia.jsonl'"):
        make_engine(f"corpus:{tmp_path}/wikpedia.jsonl")
    with pytest.raises(ConfigError, match="corpus is empty"):
        CorpusEngine([], paragraphs=False)


@pytest.mark.parametrize(
    "options", [{"pool": 0}, {"pool": 2.5}, {"pool": True}, {"k1": -1}, {"b": 1.1}, {"b": float("nan")}]
)
def test_unusable_options(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_engine({"kind": "corpus", **options}, dataset=Dataset("d", "train", (), passages=PASSAGES))


PARAGRAPHS = (
    Paragraph("Distractor 1", "The river Main is in Germany.", False),
    Paragraph("Support 1", "The Lorelei rock stands above the Rhine.", True),
    Paragraph("Distractor 2", "Rocks and rivers.", False),
    Paragraph("Support 2", "The Rhine is a river of 1,230 km.", True),
    Paragraph("Distractor 3", "The Rhine has a rock too.", False),
    Paragraph("Distractor 4", "The Lorelei is a poem about a rock.", False),
    Paragraph("Distractor 5", "Salt comes from the sea.", False),
)


def own(query: str, *, noisy: bool | tuple[bool, ...] = False, top_k: int = 4, seed: int = 0) -> SearchRequest:
    return SearchRequest(query, "Which river?", ("the Rhine",), noisy, top_k, seed, paragraphs=PARAGRAPHS)


def test_own_paragraphs_supporting_first_then_by_score(engine: CorpusEngine) -> None:
    documents = one(engine, own("How long is the river?"))
    assert titles(documents)[:2] == ["Support 2", "Support 1"]
    assert titles(documents)[2] == "Distractor 1"
    assert titles(one(engine, own("Lorelei rock")))[:3] == ["Support 1", "Support 2", "Distractor 4"]
    assert documents[0].source == "paragraph-3"


def test_own_distractors_are_the_noise(engine: CorpusEngine) -> None:
    drawn = {tuple(titles(one(engine, own("river", noisy=True, top_k=2, seed=seed)))) for seed in range(30)}
    assert len(drawn) > 4
    assert {title for pair in drawn for title in pair} == {f"Distractor {i}" for i in (1, 2, 4, 5)}


def test_own_paragraphs_mixed_never_repeat_a_document(engine: CorpusEngine) -> None:
    useful = one(engine, own("rock"))
    for seed in range(20):
        mask = (True, False, True, False)
        mixed = one(engine, own("rock", noisy=mask, seed=seed))
        assert (mixed[1], mixed[3]) == (useful[1], useful[3])
        assert len(set(titles(mixed))) == 4
        assert all(d.title.startswith("Distractor") and "Rhine" not in d.text for d in (mixed[0], mixed[2]))


def test_too_few_distractors_are_topped_up_from_the_passages(engine: CorpusEngine) -> None:
    documents = one(engine, own("river born town", noisy=True, top_k=6))
    assert len(documents) == 6
    assert [d.source.startswith("paragraph") for d in documents] == [True] * 4 + [False] * 2
    alone = one(CorpusEngine([]), own("river", noisy=True, top_k=6))
    assert sorted(titles(alone)) == [f"Distractor {i}" for i in (1, 2, 4, 5)]


def test_questions_with_paragraphs_make_a_corpus_of_them() -> None:
    fillers = tuple(Paragraph(f"Filler {i}", f"A river called number {i}.", False) for i in range(20))
    data = Dataset(
        "hotpot",
        "dev",
        (
            Question("1", "Which river?", ("Rhine",), paragraphs=PARAGRAPHS),
            Question("2", "q", ("a",), paragraphs=fillers),
        ),
    )
    engine = make_engine("corpus", dataset=data)
    assert isinstance(engine, CorpusEngine)
    assert len(engine.passages) == 27
    documents = one(engine, own("river", noisy=True, top_k=7))
    assert len(documents) == 7
    assert not any(d.title.startswith("Support") or "Rhine" in d.text for d in documents)
    check_engine(engine, [own("rock", seed=i) for i in range(3)])


def test_a_named_file_goes_before_own_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, PASSAGES)
    by_file = make_engine(f"corpus:{path}")
    assert isinstance(by_file, CorpusEngine)
    assert one(by_file, own("Ada 1"))[0].source == "p0-1"
    both = make_engine({"kind": "corpus", "path": str(path), "paragraphs": True})
    assert isinstance(both, CorpusEngine)
    assert one(both, own("Ada 1"))[0].source.startswith("paragraph")


@pytest.mark.parametrize("stating", [30, 200, 1500])
def test_noise_far_down_the_ranking_does_not_depend_on_how_deep_it_was_ranked(stating: int) -> None:
    passages = [Document(f"Mill {n}", "The mill mill mill stands in Paris.") for n in range(stating)]
    passages += [Document(f"Barn {n}", "A barn is near the mill." + " Grass grows." * (n % 7)) for n in range(400)]
    passages += [Document(f"Pond {n}", "Water is deep.") for n in range(100)]

    class Deepest(PassageIndex):
        def rank_to(self, query: str, depth: int) -> Ranking:
            return super().rank_to(query, len(self))

    question = SearchRequest("mill", "Where is the mill?", ("Paris",), noisy=True, top_k=5, seed=7)
    (one,) = CorpusEngine(PassageIndex(passages)).search([question])
    (other,) = CorpusEngine(Deepest(passages)).search([question])
    assert one.documents == other.documents
    assert [document.title.split()[0] for document in one.documents] == ["Barn"] * 5
