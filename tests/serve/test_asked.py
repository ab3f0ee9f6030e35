"""Bodies to records: every spelling, the extra fields, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_env.llm.http.codecs import JSON, MSGPACK, Codec
from zerosearch_env.retrieve_api.bodies import TOP_K_FIELDS, ParsedRequest, RequestedSearch, parse
from zerosearch_env.retrieve_api.codec import RequestError, codec_of, decode


@pytest.mark.parametrize("name", TOP_K_FIELDS)
def test_every_spelling_of_top_k(name: str) -> None:
    assert parse({"query": "q", name: 7}).top_k == 7
    assert parse({"query": "q", name: 7.0}).top_k == 7
    assert parse({"query": "q", name: None}).top_k is None


@pytest.mark.parametrize("name", ["return_scores", "return_score"])
def test_scores(name: str) -> None:
    assert parse({"query": "q", name: True}).scores is True
    assert parse({"query": "q", name: False}).scores is False
    assert parse({"query": "q"}).scores is None


def test_defaults() -> None:
    assert parse({"query": "q"}) == ParsedRequest((RequestedSearch("q"),), single=True, top_k=None, scores=None)
    assert parse({"queries": []}) == ParsedRequest((), single=False, top_k=None, scores=None)


def test_extra_fields() -> None:
    one = parse({"query": "q", "question": "Q?", "answers": ["a", "b"], "noisy": True, "seed": 5}).searches
    assert one == (RequestedSearch("q", "Q?", ("a", "b"), True, 5),)
    shared = parse({"queries": ["q", "r"], "question": "Q?", "answers": ["a"], "noisy": [True, False]}).searches
    assert shared == (RequestedSearch("q", "Q?", ("a",), True), RequestedSearch("r", "Q?", ("a",), False))
    many = parse(
        {
            "queries": ["q", "r"],
            "questions": ["Q?", "R?"],
            "answers": [["a"], []],
            "noisy": [[True], False],
            "seed": [1, 2],
        }
    ).searches
    assert many == (RequestedSearch("q", "Q?", ("a",), (True,), 1), RequestedSearch("r", "R?", (), False, 2))
    assert parse({"query": "q", "noisy": [True, False]}).searches[0].noisy == (True, False)
    assert parse({"query": "q", "answers": "a"}).searches[0].answers == ("a",)
    assert parse({"queries": ["q"], "questions": ["Q?"], "answers": ["a"]}).searches[0].answers == ("a",)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "either 'queries'"),
        ({"topk": 3}, r"got the fields \['topk'\]"),
        ({"query": "q", "queries": ["q"]}, "got both"),
        ({"query": "q", "noise_level": 0.5}, r"request 'noise_level'\. Did you mean 'noisy'\?"),
        ({"query": "q", "top_K": 3}, r"Did you mean 'top_k'\?"),
        ({"query": "q", "answer": ["a"]}, r"Did you mean 'answers'\?"),
        ({"query": "q", 7: 1}, "unknown field of a request 7"),
        ({"query": 3}, "'query' must be a string or a list of strings, got 3"),
        ({"queries": ["a", None]}, "got None at position 1"),
        ({"query": "q", "topk": 0}, "'topk' must be a whole number of at least 1, got 0"),
        ({"query": "q", "topk": 1.5}, "'topk'"),
        ({"query": "q", "topk": float("inf")}, "'topk'"),
        ({"query": "q", "topk": "3"}, "'topk'"),
        ({"query": "q", "k": True}, "'k'"),
        ({"query": "q", "return_scores": "yes"}, "'return_scores' must be true or false"),
        ({"query": "q", "question": ["Q?"]}, "use 'questions' for a list"),
        ({"query": "q", "question": "Q?", "questions": ["Q?"]}, "got both"),
        ({"queries": ["q", "r"], "questions": ["Q?"]}, "expected 2, got 1"),
        ({"queries": ["q", "r"], "answers": [["a"]]}, "expected 2, got 1"),
        ({"queries": ["q", "r"], "answers": ["a", ["b"]]}, "got both"),
        ({"queries": ["q", "r"], "questions": ["Q", "R"], "answers": ["a"]}, "a list of strings for each query"),
        ({"query": "q", "answers": 3}, "'answers' must be a list"),
        ({"query": "q", "noisy": 1}, "'noisy'"),
        ({"query": "q", "noisy": [1]}, "true or false for each document"),
        ({"queries": ["q"], "noisy": [True, True]}, "expected 1, got 2"),
        ({"query": "q", "seed": "1"}, "'seed'"),
        ({"queries": ["q"], "seed": [1, 2]}, "expected 1, got 2"),
    ],
)
def test_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        parse(body)
    assert refused.value.status == 400


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
LISTS = st.lists(SCALARS, max_size=4)


@given(
    st.dictionaries(
        st.sampled_from(["query", "queries", "topk", "question", "questions", "answers", "noisy", "seed", "x"]),
        SCALARS | LISTS | st.lists(SCALARS | LISTS | st.lists(LISTS, max_size=2), max_size=3),
    )
)
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    try:
        asked = parse(body)
    except RequestError:
        return
    assert all(isinstance(query, str) for query in asked.queries)


def test_encodings() -> None:
    msgpack = pytest.importorskip("msgpack", reason="msgpack is not installed (extra serve)")
    body = {"query": "\ud800 é", "topk": 3}
    packed = msgpack.packb(body, unicode_errors="surrogatepass")
    assert codec_of(None, packed) is MSGPACK
    assert codec_of("application/x-www-form-urlencoded", b' {"a": 1}') is JSON
    assert codec_of("application/json; charset=utf-8", packed) is JSON
    assert codec_of("application/msgpack", b"{}") is MSGPACK
    assert codec_of(None, b"") is JSON
    assert decode(packed, MSGPACK) == body
    assert msgpack.unpackb(MSGPACK.encode(body), unicode_errors="surrogatepass") == body
    assert json.loads(JSON.encode(body)) == body


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b'{"query": ', b"[1, 2]", b"null", b"[" * 100_000, b"\x81\x90\x01"])
def test_bad_bodies(body: bytes, codec: Codec) -> None:
    pytest.importorskip("msgpack", reason="msgpack is not installed (extra serve)")
    with pytest.raises(RequestError) as refused:
        decode(body, codec)
    assert (refused.value.status, refused.value.kind) == (400, "bad_body")
