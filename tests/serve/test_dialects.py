"""Every dialect: told by the form of its request, answered in its shape. No server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.http.codecs import JSON, MSGPACK
from zerosearch_env.retrieve_api.bodies import parse
from zerosearch_env.retrieve_api.dialects import DIALECTS, PATHS, choose_dialect, get_dialect, render, score_of
from zerosearch_env.types import Document

ONE = (Document("A Mill", "Old.", "p1", 3.5), Document("", "No title.", "", None))
TWO = (Document("B", "New.", "77", float("nan")),)

P1 = {"id": "p1", "contents": '"A Mill"\nOld.'}
P2 = {"id": "2", "contents": '""\nNo title.'}
SCORED = [{"document": P1, "score": 3.5}, {"document": P2, "score": 0.5}]
ADDRESSED = [{**P1, "url": "p1"}, {**P2, "url": ""}]
B = {"id": "77", "contents": '"B"\nNew.'}

# (path, request, forced dialect, dialect, answer)
SINGLE: list[tuple[str, dict[str, Any], str | None, str, Any]] = [
    ("/retrieve", {"query": "q", "topk": 2, "return_scores": True}, None, "skyrl", {"result": [SCORED]}),
    ("/retrieve", {"query": "q", "topk": 2}, None, "skyrl", {"result": [SCORED]}),
    ("/retrieve", {"query": "q", "topk": 2, "return_scores": False}, None, "skyrl", {"result": [ADDRESSED]}),
    ("/retrieve", {"query": "q"}, None, "skyrl", {"result": [SCORED]}),
    ("/retrieve", {"query": "q", "topk": 2, "return_scores": True}, "gem", "gem", {"result": SCORED}),
    ("/retrieve", {"query": "q", "return_scores": False}, "gem", "gem", {"result": [P1, P2]}),
    (
        "/retrieve",
        {"query": "q", "top_k": 2},
        None,
        "zerosearch-wiki",
        [{"text": "A Mill Old."}, {"text": "No title."}],
    ),
    (
        "/retrieve",
        {"query": "q", "top_k": 2, "k": 2},
        None,
        "rllm",
        {"query": "q", "method": "zerosearch", "results": SCORED, "num_results": 2},
    ),
    (
        "/retrieve",
        {"query": "q", "top_k": 2},
        "rllm",
        "rllm",
        {"query": "q", "method": "zerosearch", "results": SCORED, "num_results": 2},
    ),
    ("/search", {"query": "q", "top_n": 2}, None, "research", [P1, P2]),
    ("/search", {"query": "q", "top_n": 2, "return_score": True}, None, "research", [[P1, P2], [3.5, 0.5]]),
    ("/retrieve", {"query": "q", "top_n": 2}, None, "research", [P1, P2]),
]
BATCH: list[tuple[str, dict[str, Any], str | None, str, Any]] = [
    (
        "/retrieve",
        {"queries": ["q", "r"], "topk": 2, "return_scores": True},
        None,
        "search-r1",
        {"result": [SCORED, [{"document": B, "score": 1.0}]]},
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"], "topk": 2, "return_scores": False},
        None,
        "search-r1",
        {"result": [ADDRESSED, [{**B, "url": "77"}]]},
    ),
    ("/retrieve", {"queries": ["q", "r"]}, None, "search-r1", {"result": [ADDRESSED, [{**B, "url": "77"}]]}),
    (
        "/retrieve",
        {"queries": ["q", "r"], "topk_retrieval": 10, "topk_rerank": 2, "return_scores": True},
        None,
        "search-r1",
        {"result": [SCORED, [{"document": B, "score": 1.0}]]},
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"], "topk_retrieval": 10, "topk_rerank": 2},
        "search-r1-rerank",
        "search-r1-rerank",
        {"result": [ADDRESSED, [{**B, "url": "77"}]]},
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"], "topk": 2, "return_scores": True},
        "verl",
        "verl",
        {"result": [SCORED, [{"document": B, "score": 1.0}]]},
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"]},
        "search-r1-proxy",
        "search-r1-proxy",
        {
            "result": [
                [{"document": {"contents": P1["contents"]}}, {"document": {"contents": P2["contents"]}}],
                [{"document": {"contents": B["contents"]}}],
            ]
        },
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"], "topk": 2, "return_scores": True},
        "asearcher",
        "asearcher",
        {"result": [ADDRESSED, [{**B, "url": "77"}]]},
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"]},
        "rllm",
        "rllm",
        {"method": "zerosearch", "batch_size": 2, "result": [SCORED, [{"document": B, "score": 1.0}]]},
    ),
    (
        "/queries",
        {"queries": ["q", "r"], "k": 2},
        None,
        "r1-searcher",
        {"queries": ["q", "r"], "answers": [["1 A Mill Old.", "2 No title."], ["77 B New."]]},
    ),
    ("/batch_search", {"query": ["q", "r"], "top_n": 2}, None, "research", [[P1, P2], [B]]),
    (
        "/batch_search",
        {"query": ["q", "r"], "top_n": 2, "return_score": True},
        None,
        "research",
        [[[P1, P2], [B]], [[3.5, 0.5], [1.0]]],
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"]},
        "zerosearch-wiki",
        "zerosearch-wiki",
        [[{"text": "A Mill Old."}, {"text": "No title."}], [{"text": "B New."}]],
    ),
    (
        "/retrieve",
        {"queries": ["q", "r"]},
        "gem",
        "gem",
        {"result": [[{**row} for row in SCORED], [{"document": B, "score": 1.0}]]},
    ),
]


@pytest.mark.parametrize(("path", "body", "forced", "name", "answer"), [*SINGLE, *BATCH])
def test_request_to_response(path: str, body: dict[str, Any], forced: str | None, name: str, answer: Any) -> None:
    dialect = choose_dialect(path, body, JSON, forced)
    assert dialect.name == name
    asked = parse(body)
    response = render(dialect, asked, [ONE, TWO][: len(asked.searches)])
    assert response == answer
    json.dumps(response, allow_nan=False)


def test_every_dialect_is_in_the_table() -> None:
    assert {row[3] for row in [*SINGLE, *BATCH]} == set(DIALECTS)
    assert set(PATHS) == {"/retrieve", "/queries", "/search", "/batch_search"}


def test_msgpack_tells_gem_from_skyrl() -> None:
    body = {"query": "q", "topk": 3, "return_scores": True}
    assert choose_dialect("/retrieve", body, MSGPACK).name == "gem"
    assert choose_dialect("/retrieve", body, MSGPACK, "skyrl").name == "skyrl"
    assert choose_dialect("/retrieve", {"queries": ["q"]}, MSGPACK).name == "search-r1"


def test_a_path_of_its_own_beats_the_forced_dialect() -> None:
    assert choose_dialect("/queries", {"queries": ["q"]}, JSON, "gem").name == "r1-searcher"


def test_one_query_in_a_list_stays_a_list() -> None:
    asked = parse({"queries": ["q"], "topk": 2, "return_scores": True})
    assert render(DIALECTS["search-r1"], asked, [ONE]) == {"result": [SCORED]}
    assert render(DIALECTS["gem"], asked, [ONE]) == {"result": [SCORED]}
    assert render(DIALECTS["research"], parse({"query": "q"}, single=False), [ONE]) == [[P1, P2]]


def test_a_title_is_one_line() -> None:
    asked = parse({"queries": ["q"], "return_scores": True})
    response = render(DIALECTS["search-r1"], asked, [(Document("Two\nlines", "x\ny", "d"),)])
    assert response["result"][0][0]["document"]["contents"] == '"Two lines"\nx\ny'


def test_scores_keep_the_order_where_the_engine_has_none() -> None:
    documents = [Document("", "", "", None)] * 3
    assert [score_of(document, rank) for rank, document in enumerate(documents, 1)] == [1.0, 0.5, pytest.approx(1 / 3)]


def test_unknown_dialects_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'skyrl'"):
        get_dialect("skylr")
