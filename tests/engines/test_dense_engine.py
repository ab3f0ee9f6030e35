"""The dense engine over an encoder without a network: ranks, noise, masks, ties, errors."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

pytest.importorskip("faiss", reason="faiss is not installed (extra dense)")

from dense_fakes import PASSAGES, HashEncoder, LengthReranker, ask

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import DenseEngine, check_engine, make_engine
from zerosearch_env.engines.dense import parts as dense_parts
from zerosearch_env.engines.dense.build import BuildOptions, build_index
from zerosearch_env.engines.dense.index import embed_queries
from zerosearch_env.engines.dense.manifest import KINDS
from zerosearch_env.engines.dense.source import BuiltIndex
from zerosearch_env.errors import ConfigError, DataError, EngineError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.types import Document, SearchRequest


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One index of each kind over PASSAGES."""
    root = tmp_path_factory.mktemp("dense")
    for kind in KINDS:
        build_index(PASSAGES, root / kind, HashEncoder(), BuildOptions(kind=kind))
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> DenseEngine:
    return DenseEngine(folders["flat"], encoder=HashEncoder())


def build(folder: Path, passages: Sequence[Document], **options: object) -> DenseEngine:
    build_index(passages, folder, HashEncoder())
    return DenseEngine(folder, encoder=HashEncoder(), **options)  # type: ignore[arg-type]


def one(engine: DenseEngine, request: SearchRequest) -> tuple[Document, ...]:
    return engine.search([request])[0].documents


def sources(documents: Sequence[Document]) -> list[str]:
    return [document.source for document in documents]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_conforms(folders: dict[str, Path], kind: str) -> None:
    engine = DenseEngine(folders[kind], encoder=HashEncoder())
    requests = [
        ask(f"Where was {d.title} born?", d.text.split()[-1].rstrip("."), top_k=3 + i % 3, seed=i)
        for i, d in enumerate(PASSAGES[:40])
    ]
    check_engine(engine, requests)


def test_useful_documents_are_the_nearest_by_exact_cosines(engine: DenseEngine) -> None:
    encoder = HashEncoder()
    query = "Where was Cora number 3 born?"
    vectors = encoder.encode_queries([f"{d.title}\n{d.text}" for d in PASSAGES]).astype(float)
    asked = encoder.encode_queries([query])[0].astype(float)
    cosines = vectors @ asked / np.linalg.norm(vectors, axis=1) / np.linalg.norm(asked)
    result = engine.search([ask(query)])[0]
    assert sources(result.documents) == [PASSAGES[i].source for i in np.argsort(-cosines.round(4), kind="stable")[:5]]
    assert [d.score for d in result.documents] == pytest.approx(sorted(cosines, reverse=True)[:5], abs=1e-4)
    assert result.documents[0] == replace(PASSAGES[27], score=result.documents[0].score)
    assert (result.engine, result.failure) == ("dense", None)
    assert result.latency_s > 0


def test_noisy_documents_are_lower_ranks_without_answer(engine: DenseEngine) -> None:
    request = ask("Where was Cora number 3 born?", "Crewe")
    useful = set(sources(one(engine, request)))
    ranks = sources(one(engine, replace(request, top_k=60)))
    drawn = set()
    for seed in range(30):
        noisy = one(engine, replace(request, seed=seed, noisy=True))
        assert len(noisy) == 5
        assert useful.isdisjoint(sources(noisy))
        assert not any(contains_answer(f"{d.title} {d.text}", ("Crewe",)) for d in noisy)
        places = [ranks.index(source) for source in sources(noisy)]
        assert places == sorted(places)
        assert max(places) < 45
        drawn.add(tuple(places))
    assert len(drawn) >= 28


def test_a_mask_mixes_slot_by_slot(engine: DenseEngine) -> None:
    request = ask("Where was Cora number 3 born?", "Crewe", seed=9)
    useful, noisy = one(engine, request), one(engine, replace(request, noisy=True))
    mask = (True, False, False, True, False)
    mixed = one(engine, replace(request, noisy=mask))
    assert mixed == tuple(noisy[j] if flag else useful[j] for j, flag in enumerate(mask))
    with pytest.raises(ConfigError, match="2 flags for top_k=5"):
        engine.search([ask("x", noisy=(True, False))])


@pytest.mark.parametrize(("noisy", "needed"), [(False, 5), (True, 10)])
def test_an_index_too_small_is_the_error_of_the_corpus_engine(tmp_path: Path, noisy: bool, needed: int) -> None:
    small = build(tmp_path / "small", PASSAGES[: needed - 1])
    with pytest.raises(ConfigError, match=rf"has {needed - 1} passages and top_k=5 needs at least {needed}"):
        small.search([ask("Ada", noisy=noisy)])
    assert len(one(build(tmp_path / "enough", PASSAGES[:needed]), ask("Ada", noisy=noisy))) == 5


def test_a_pool_full_of_answers_is_left_for_farther_ranks(tmp_path: Path) -> None:
    golden = [Document("", f"river town bridge Rhine {i}", f"g{i}") for i in range(150)]
    others = [Document("", f"cloud mountain {i}", f"o{i}") for i in range(30)]
    engine = build(tmp_path / "index", [*golden, *others], pool=5)
    noisy = one(engine, ask("river town bridge", "Rhine", noisy=True))
    assert len(noisy) == 5
    assert {source[0] for source in sources(noisy)} == {"o"}
    assert noisy == one(engine, ask("river town bridge", "Rhine", noisy=True))


def test_a_corpus_of_answers_gives_a_shorter_result(tmp_path: Path) -> None:
    passages = [Document("", f"river Rhine {i}", str(i)) for i in range(30)]
    engine = build(tmp_path / "index", [*passages, Document("", "the sea", "sea")])
    assert sources(one(engine, ask("river", "Rhine", noisy=True))) == ["sea"]


def test_ties_are_broken_by_position_in_any_batch(tmp_path: Path) -> None:
    twins = [Document("", "one and the same passage", str(i)) for i in range(700)]
    engine = build(tmp_path / "index", [Document("", "an unlike thing", "x"), *twins])
    request = ask("the same passage")
    assert sources(one(engine, request)) == ["0", "1", "2", "3", "4"]
    alone = one(engine, replace(request, noisy=True))
    fresh = DenseEngine(tmp_path / "index", encoder=HashEncoder())
    crowd = [ask(f"query {i}") for i in range(50)]
    assert fresh.search([*crowd, replace(request, noisy=True)])[-1].documents == alone


def test_more_ties_than_faiss_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerosearch_env.engines.dense.index._DEEPEST", 100)
    test_ties_are_broken_by_position_in_any_batch(tmp_path)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_approximate_kinds_find_what_the_exact_one_finds(folders: dict[str, Path], kind: str) -> None:
    requests = [ask(f"Where was {d.title} born?") for d in PASSAGES]
    exact = DenseEngine(folders["flat"], encoder=HashEncoder()).search(requests)
    found = DenseEngine(folders[kind], encoder=HashEncoder()).search(requests)
    shared = [len({*sources(a.documents)} & {*sources(b.documents)}) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) >= 4.5


def test_too_few_lists_are_completed_by_an_exact_search(folders: dict[str, Path]) -> None:
    index = BuiltIndex(folders["ivf"]).open(nprobe=1)
    queries = embed_queries(index.manifest, HashEncoder(), ["Cora number 3", "zzz"])
    assert [len(ranking.ids) for ranking in index.rank(queries, 110)] == [110, 110]


def test_a_reranker_decides_the_first_ranks(folders: dict[str, Path]) -> None:
    judge = LengthReranker()
    engine = DenseEngine(folders["flat"], encoder=HashEncoder(), reranker=judge, rerank_from=20)
    request = ask("Where was Cora number 3 born?", "Crewe")
    plain = DenseEngine(folders["flat"], encoder=HashEncoder())
    head = one(plain, replace(request, top_k=20))
    lengths = sorted(len(f"{d.title} {d.text}") for d in head)
    assert [-(d.score or 0) for d in one(engine, request)] == lengths[:5]
    assert set(sources(one(engine, request))) <= set(sources(head))
    noisy = [one(engine, replace(request, noisy=True, seed=seed)) for seed in range(20)]
    assert all(set(sources(documents)).isdisjoint(sources(one(engine, request))) for documents in noisy)
    assert {d.score is None for documents in noisy for d in documents if d.source not in sources(head)} == {True}
    assert {d.score is None for documents in noisy for d in documents if d.source in sources(head)} == {False}
    assert judge.asked == 20
    check_engine(engine, [replace(request, seed=seed, top_k=4) for seed in range(4)])
    with pytest.raises(ConfigError, match="rerank_from=20 must be at least top_k=21"):
        engine.search([replace(request, top_k=21)])


def test_the_reranker_of_one_query_asks_once(folders: dict[str, Path]) -> None:
    judge = LengthReranker()
    engine = DenseEngine(folders["flat"], encoder=HashEncoder(), reranker=judge)
    engine.search([ask("Ada", seed=seed, noisy=seed % 2 == 0) for seed in range(10)])
    engine.search([ask("Ada", seed=99)])
    assert judge.asked == 50


def test_an_engine_can_be_sent_to_another_process(engine: DenseEngine) -> None:
    requests = [ask("Where was Cora number 3 born?", "Crewe", seed=3, noisy=flag) for flag in (False, True)]
    copy = pickle.loads(pickle.dumps(engine))
    assert [r.documents for r in copy.search(requests)] == [r.documents for r in engine.search(requests)]
    assert asyncio.run(copy.asearch(requests[0])).documents == one(engine, requests[0])
    assert list(pickle.loads(pickle.dumps(engine.passages)))[:3] == PASSAGES[:3]


def test_a_closed_engine_says_so(folders: dict[str, Path]) -> None:
    engine = DenseEngine(folders["flat"], encoder=HashEncoder())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.search([ask("x")])


def test_another_encoder_is_refused_and_both_are_named(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"built with the encoder 'hash'.*but 'other' .*is another one\. Pass"):
        DenseEngine(folders["flat"], encoder=HashEncoder("other", salt="x"))
    with pytest.raises(ConfigError, match="its files have changed since"):
        DenseEngine(folders["flat"], encoder=HashEncoder(salt="x"))
    with pytest.raises(ConfigError, match="'wide'"):
        DenseEngine(folders["flat"], encoder=HashEncoder("wide", dimension=32))
    DenseEngine(folders["flat"], encoder=HashEncoder("moved elsewhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 0}, "pool must be a whole number of at least 1, got 0"),
        ({"rerank_from": True}, "rerank_from must be"),
        ({"nprobe": -1}, "nprobe must be"),
        ({"poool": 3}, "Did you mean 'pool'"),
        ({"index": "twice"}, "given twice"),
    ],
)
def test_unusable_options(folders: dict[str, Path], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine({"kind": "dense", "argument": str(folders["flat"]), **options})


def test_an_engine_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs an index.*zerosearch index build"):
        make_engine("dense")
    with pytest.raises(DataError, match=r"does not exist.*zerosearch index build"):
        make_engine(f"dense:{tmp_path / 'nothing'}")


@pytest.mark.slow
def test_engines_of_one_description_share_what_is_loaded(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, *, device: str | None) -> HashEncoder:
        loaded.append(name)
        return HashEncoder(name)

    monkeypatch.setattr(dense_parts, "SentenceEncoder", load)
    first, second = (make_engine(f"dense:{folders['flat']}") for _ in range(2))
    assert first.search([ask("Ada")])[0].documents == second.search([ask("Ada")])[0].documents
    assert loaded == ["hash"]
    first.close()
    second.close()
    gc.collect()
    make_engine(f"dense:{folders['flat']}").close()
    assert loaded == ["hash", "hash"]


def test_episodes_of_the_world_run_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("world", world=WorldConfig(passages=300))
    build_index(data.passages or (), tmp_path / "world", HashEncoder())
    engine = DenseEngine(tmp_path / "world", encoder=HashEncoder())
    env = gymnasium.make("ZeroSearch-v0", dataset=data, search_engine=engine, noise_level=1.0)
    _, start = env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(f"<search>{start['question']}</search>")
    assert (terminated, truncated) == (False, False)
    assert len(info["documents"]) == 5
    assert info["answer_in_documents"] is False
    env.close()
