from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from zerosearch_env.engines.corpus import bm25
from zerosearch_env.engines.corpus.bm25 import Bm25Index, word_hash
from zerosearch_env.engines.corpus.build import build_index
from zerosearch_env.engines.ranking import SCALE


def zipf_texts(count: int, length: int, vocabulary: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocabulary + 1)
    ids = rng.choice(vocabulary, size=(count, length), p=weights / weights.sum())
    return [" ".join(f"w{i}" for i in row) for row in ids]


def brute_force(index: Bm25Index, query: str) -> NDArray[np.int64]:
    """Every passage's score by adding up all impacts."""
    sums = np.zeros(index.size, dtype=np.int64)
    for word in query.split():
        for number in np.flatnonzero(index.words == word_hash(word)):
            part = slice(index.starts[number], index.starts[number + 1])
            sums[index.passages[part]] += index.impacts[part]
    return sums


@pytest.fixture(params=[0, bm25._SMALL], ids=["pruned", "small"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank as in a large corpus, and as in a small one."""
    monkeypatch.setattr(bm25, "_SMALL", request.param)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return zipf_texts(3000, 20, 800, seed=1)


@pytest.fixture(scope="module")
def index(texts: list[str]) -> Bm25Index:
    return build_index(texts)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune as early and as often as possible, so that small corpora exercise every branch."""
    monkeypatch.setattr(bm25, "_LONG", 8)
    monkeypatch.setattr(bm25, "_MARGIN", 1)
    monkeypatch.setattr(bm25, "_FEW", 0)


@pytest.mark.parametrize("scan", [0, 10**9], ids=["sort touched", "scan all"])
@pytest.mark.parametrize("walk", [0, 32, 10**9], ids=["look up", "either", "walk"])
@pytest.mark.parametrize("columns", [0, 5, 10**9], ids=["no columns", "some columns", "all columns"])
@pytest.mark.usefixtures("eager")
def test_pruning_never_changes_a_result(
    texts: list[str], monkeypatch: pytest.MonkeyPatch, scan: int, walk: int, columns: int
) -> None:
    index = build_index(texts[:600])
    monkeypatch.setattr(bm25, "_FREQUENT", 10**9 if columns else 8)
    monkeypatch.setattr(bm25, "_COLUMN_BYTES", columns * index.size * 4)
    monkeypatch.setattr(bm25, "_SCAN_PER_POSTING", scan)
    monkeypatch.setattr(bm25, "_WALK_PER_LOOKUP", walk)
    rng = random.Random(scan + walk)
    queries = [" ".join(rng.choices(rng.choice(texts).split(), k=rng.randint(1, 12))) for _ in range(30)]
    for depth in (1, 5, 45, 5000):
        for query, ranking in zip(queries, index.rank(queries, depth), strict=True):
            sums = brute_force(index, query)
            expected = np.lexsort((np.arange(len(sums)), -sums))[:depth]
            expected = expected[sums[expected] > 0]
            assert ranking.ids.tolist() == expected.tolist()
            assert ranking.scores.tolist() == sums[expected].tolist()


def test_scores_are_those_of_bm25s(texts: list[str], index: Bm25Index) -> None:
    bm25s = pytest.importorskip("bm25s")

    library = bm25s.BM25()
    library.index([text.split() for text in texts], show_progress=False)
    queries = [" ".join(text.split()[3:10]) for text in texts[::60]]
    _, scores = library.retrieve([query.split() for query in queries], k=7, show_progress=False)
    ours = np.array([ranking.scores for ranking in index.rank(queries, 7)]) / SCALE
    np.testing.assert_allclose(ours, scores, atol=8 / SCALE)


def test_the_head_of_a_ranking_depends_on_nothing_else(index: Bm25Index, texts: list[str]) -> None:
    queries = [" ".join(text.split()[:6]) for text in texts[:40]]
    together = index.rank(queries, 5)
    for query, ranking, deeper in zip(queries, together, index.rank(queries[::-1], 50)[::-1], strict=True):
        alone = index.rank([" ".join(reversed(query.split()))], 5)[0]
        assert ranking.ids.tolist() == alone.ids.tolist() == deeper.ids[:5].tolist()
        assert ranking.scores.tolist() == alone.scores.tolist() == deeper.scores[:5].tolist()


def test_repeated_words_count_as_often_as_they_occur(index: Bm25Index) -> None:
    once, twice = index.rank(["w7", "w7 w7"], 3)
    assert twice.ids.tolist() == once.ids.tolist()
    assert twice.scores.tolist() == [2 * score for score in once.scores.tolist()]


def test_ties_are_broken_by_position() -> None:
    index = build_index(["same words here"] * 5 + ["other text"])
    assert index.rank(["words"], 3)[0].ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("query", ["", "unknown", "?!", "\ud800"])
def test_a_query_without_a_known_word_ranks_nothing(index: Bm25Index, query: str) -> None:
    ranking = index.rank([query], 5)[0]
    assert ranking.ids.shape == ranking.scores.shape == (0,)


def test_very_long_queries_are_cut_and_do_not_overflow(index: Bm25Index) -> None:
    first, second = index.rank(["w1 " * 100_000, "w1 " * bm25.MAX_QUERY_WORDS], 5)
    assert first.scores.tolist() == second.scores.tolist()
    assert min(first.scores.tolist()) > 0


@pytest.mark.parametrize("texts", [[], ["", "  "], ["only one"]])
def test_tiny_corpora(texts: list[str]) -> None:
    index = build_index(texts)
    assert index.size == len(texts)
    assert len(index.rank(["only words"], 4)[0].ids) == (texts == ["only one"])


def test_an_index_survives_pickling_with_its_speed(index: Bm25Index) -> None:
    copy = pickle.loads(pickle.dumps(index))
    # numpy's fast path of `add.at` compares dtypes by identity
    assert copy.impacts.dtype is np.dtype(np.int32)
    assert copy.rank(["w3 w50"], 5)[0].ids.tolist() == index.rank(["w3 w50"], 5)[0].ids.tolist()
