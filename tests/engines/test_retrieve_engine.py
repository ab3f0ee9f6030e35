from __future__ import annotations

import asyncio
import json
import logging
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from http_fakes import Script, huge, stall
from retrieve_fakes import FAST, Server, engine, passages, shaped
from sim_fakes import ask

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.engines import check_engine, make_engine
from zerosearch_env.engines.cache import ResultCache
from zerosearch_env.engines.remote.retrieve import RetrieveEngine
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.retrieve_api.dialects import DIALECTS


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROSEARCH_RETRIEVE_TOKEN", raising=False)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_asked_and_read(dialect: str) -> None:
    server = Server(dialect)
    with ServerThread(server) as thread:
        client = engine(thread.url, dialect=dialect, encoding="json")
        results = client.search([ask(top_k=3), ask("another", top_k=3), ask(top_k=3, noisy=True)])
        client.close()
    for result, query in zip(results[:2], ("capital of France", "another"), strict=True):
        assert result.failure is None
        texts = [f"{d.title} {d.text}".strip() for d in result.documents]
        assert texts == [f"{title} {text}" for title, text in passages(query, 3)]
    noisy = results[2].documents
    assert len(noisy) == 3
    assert not any("Paris" in document.text for document in noisy)
    assert not set(noisy) & set(results[0].documents)
    row = DIALECTS[dialect]
    assert {call.path for call in server.calls} == {"/v1" + row.paths[0]}
    assert len(server.calls) == (2 if row.batch else 3)
    if dialect in ("search-r1", "verl", "skyrl", "gem", "rllm", "research", "search-r1-rerank"):
        assert [document.score for document in results[0].documents] == [9.0, 8.0, 7.0]
        assert results[0].documents[0].source == "0"
    if dialect == "asearcher":
        assert results[0].documents[1].source == "https://x/1"


@pytest.mark.slow
def test_it_keeps_the_promises_of_an_engine() -> None:
    for dialect in ("search-r1", "skyrl"):
        with ServerThread(Server(dialect)) as thread:
            client = engine(thread.url, dialect=dialect)
            check_engine(client)
            check_engine(client, [ask(), ask("other", seed=9, top_k=5)])
            client.close()


def test_queries_go_in_bounded_batches() -> None:
    server = Server()
    with ServerThread(server) as thread:
        client = engine(thread.url, batch_size=4)
        client.search([ask(f"query {i}") for i in range(10)] + [ask("query 0")])
        assert sorted(len(call.body["queries"]) for call in server.calls) == [2, 4, 4], "equal searches are sent once"

        async def main() -> None:
            await asyncio.gather(*(client.asearch(ask(f"later {i}")) for i in range(4)))

        asyncio.run(main())
        assert len(server.calls[-1].body["queries"]) == 4, "concurrent callers share a request"
        client.close()


def test_queries_are_cleaned_and_bounded() -> None:
    server = Server()
    with ServerThread(server) as thread:
        client = engine(thread.url, max_query_chars=10, max_document_chars=12)
        results = client.search([ask("</search><b>one\x00two\u200b three four"), ask("<x>")])
        client.close()
    assert server.calls[0].body["queries"] == ["one two th"]
    assert results[0].documents[1].text == "On one two t"
    assert results[1].documents == ()
    assert results[1].failure is None
    assert client.stats().empty_searches == 1


def test_results_without_text_fail_their_search_alone() -> None:
    async def textless(call: Call) -> Reply:
        rows = {"none": [], "blank": [{"id": "1", "contents": " "}], "good": [{"id": "2", "contents": "a text"}]}
        return Reply({"result": [rows[query] for query in call.body["queries"]]})

    with ServerThread(textless) as thread:
        client = engine(thread.url)
        none, blank, good = client.search([ask("none"), ask("blank"), ask("good")])
        client.close()
    assert (none.failure, none.documents) == (None, ())
    assert str(blank.failure).endswith("/retrieve: results without any title or text")
    assert good.documents[0].text == "a text"


def test_noise_is_drawn_by_the_seed_from_the_lower_ranks() -> None:
    with ServerThread(Server()) as thread:
        client = engine(thread.url, noise_depth=12)
        drawn = [client.search([ask(noisy=True, seed=seed)])[0].documents for seed in range(12)]
        again = client.search([ask(noisy=True, seed=3)])[0].documents
        mixed = client.search([ask(noisy=(True, False, True), seed=3)])[0].documents
        useful = client.search([ask()])[0].documents
        client.close()
    ranks = [[int(document.title.split()[1]) for document in documents] for documents in drawn]
    assert drawn[3] == again
    assert len({tuple(row) for row in ranks}) > 6
    assert all(row == sorted(row) and row[0] >= 3 and row[-1] < 15 for row in ranks)
    assert not any(rank % 4 == 0 for row in ranks for rank in row)
    assert mixed == (again[0], useful[1], again[2])


def test_too_few_clean_documents_are_asked_for_in_longer_lists() -> None:
    async def late(call: Call) -> Reply:
        counts.append(call.body["topk"])
        texts = ["Paris" if rank < 14 else f"rank {rank}" for rank in range(call.body["topk"])]
        return Reply({"result": [[{"contents": f'"t{rank}"\n{text}'} for rank, text in enumerate(texts)]]})

    counts: list[int] = []
    with ServerThread(late) as thread:
        client = engine(thread.url, noise_depth=4)
        (result,) = client.search([ask(noisy=True)])
        assert counts == [7, 14, 28]
        assert [document.title for document in result.documents] == ["t14", "t15", "t16"]
        bounded = engine(thread.url, noise_depth=4, max_pages=2)
        (short,) = bounded.search([ask(noisy=True)])
        assert short.documents == ()
        assert "only 0 of 3 noisy documents" in str(short.failure)
        assert "max_pages=2" in str(short.failure)
        client.close()
        bounded.close()


@pytest.mark.parametrize(("held", "failure"), [(0, None), (2, "no further results"), (5, "no further results")])
def test_short_rankings(held: int, failure: str | None) -> None:
    with ServerThread(Server(held=held)) as thread:
        client = engine(thread.url)
        useful, noisy = client.search([ask(), ask(noisy=True)])
        client.close()
    assert len(useful.documents) == min(3, held)
    assert useful.failure is None
    assert noisy.documents == ()
    assert (noisy.failure is None) if failure is None else (failure in str(noisy.failure))


def test_an_episode_sees_that_nothing_was_found() -> None:
    with ServerThread(Server(held=0)) as thread:
        spec = {"kind": "retrieve", "argument": thread.url, "http": FAST}
        env = gym.make("ZeroSearch-v0", search_engine=spec, noise_level=0.5)
        assert env.spec is not None
        json.loads(env.spec.to_json())
        env.reset(seed=0)
        observation, _, terminated, truncated, info = env.step("<search>anything</search>")
        env.close()
    assert not terminated
    assert not truncated
    assert "No documents were found." in observation
    assert info["documents"] == ()


def test_the_server_makes_the_noise_where_it_is_told_everything() -> None:
    bodies: list[Any] = []

    async def handler(call: Call) -> Reply:
        bodies.append(call.body)
        rows = [
            [{"contents": f'"{query}"\n{"wrong" if flag is True or (flag and flag[0]) else answers[0]}'}]
            for query, answers, flag in zip(call.body["queries"], call.body["answers"], call.body["noisy"], strict=True)
        ]
        return Reply({"result": rows})

    with ServerThread(handler) as thread:
        client = engine(thread.url, send_context=True)
        useful, noisy, mixed = client.search(
            [ask(top_k=2), ask(top_k=2, noisy=True), ask(top_k=2, noisy=(True, False), seed=2**64 - 1)]
        )
        client.close()
    (body,) = bodies
    assert [result.documents[0].text for result in (useful, noisy, mixed)] == ["Paris", "wrong", "wrong"]
    assert body["questions"] == ["What is the capital of France?"] * 3
    assert body["answers"] == [["Paris", "City of Light"]] * 3
    assert body["noisy"] == [False, True, [True, False]]
    assert body["seed"] == [5, 5, 2**64 - 1]
    assert body["topk"] == 2


def test_noise_with_an_answer_is_not_passed_on() -> None:
    with ServerThread(Script(Reply({"result": [{"contents": "It is Paris."}]}))) as thread:
        client = engine(thread.url, dialect="gem", encoding="json", send_context=True)
        (result,) = client.search([ask(noisy=True)])
        client.close()
    assert result.documents == ()
    assert "gold answer" in str(result.failure)


@pytest.mark.parametrize(
    ("reply", "message", "attempts"),
    [
        (Reply({"detail": "token hush-hush"}, 401), r"answered 401.*token \*\*\*", 1),
        (Reply({}, 403), "answered 403", 1),
        (Reply({}, 404), "answered 404", 1),
        (Reply({}, 429), "answered 429", 2),
        (Reply({}, 429, {"Retry-After": "60"}), "would have to wait 60", 1),
        (Reply({}, 500), "answered 500", 2),
        (Reply(b"<html>busy</html>"), "not JSON.*<html>", 1),
        (Reply(b'{"result": ['), "not JSON", 1),
        (Reply({"error": "index not loaded"}), "index not loaded", 1),
        (Reply({"result": [[], [], []]}), "expected documents for 1 query", 1),
        (stall, "SocketTimeoutError", 2),
        (huge, "more than 300,000 bytes", 1),
    ],
)
def test_servers_that_misbehave(
    reply: Any, message: str, attempts: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZEROSEARCH_RETRIEVE_TOKEN", "hush-hush")
    caplog.set_level(logging.DEBUG)
    script = Script(reply)
    with ServerThread(script) as thread:
        http = FAST | {"read_s": 0.1 if reply is stall else 2.0, "max_body_bytes": 300_000}
        client = make_engine({"kind": "retrieve", "argument": thread.url, "http": http})
        (result,) = client.search([ask()])
        client.close()
    assert result.documents == ()
    assert result.failure is not None
    assert re.search(message, result.failure), result.failure
    assert result.attempts == len(script.calls) == attempts
    assert "hush" not in result.failure + repr(client) + caplog.text


def test_a_refused_connection() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        client = engine(f"http://127.0.0.1:{held.getsockname()[1]}")
        (result,) = client.search([ask()])
        client.close()
    assert "ClientConnectorError" in str(result.failure)
    assert result.attempts == 2


def test_one_query_that_the_server_refuses_takes_no_other_down() -> None:
    async def handler(call: Call) -> Reply:
        if "bad" in call.body["queries"]:
            return Reply({"detail": "cannot search that"}, 422)
        return Reply(shaped("search-r1", call.body["queries"], call.body["topk"], False))

    with ServerThread(handler) as thread:
        client = engine(thread.url)
        results = client.search([ask(query) for query in ("a", "b", "bad", "c", "d")])
        client.close()
    assert [result.failure is None for result in results] == [True, True, False, True, True]
    assert "cannot search that" in str(results[2].failure)


def test_replicas_and_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc")
    first, second = Server(), Server()
    with ServerThread(first) as a, ServerThread(second) as b:
        client = engine(f"{a.url}/retrieve,{b.url}/", token_env="MY_TOKEN")
        for number in range(4):
            assert client.search([ask(f"q{number}")])[0].failure is None
        client.close()
    assert len(first.calls) == len(second.calls) == 2
    assert {call.headers["authorization"] for call in first.calls} == {"Bearer abc"}
    assert {call.path for call in (*first.calls, *second.calls)} == {"/v1/retrieve"}


def test_addresses_and_paths() -> None:
    server = Server("research")
    with ServerThread(server) as thread:
        root = thread.url.removesuffix("/v1")
        for url, options, path in [
            (root, {}, "/batch_search"),
            (f"{root}/search", {}, "/batch_search"),
            (f"{root}/deep/batch_search", {}, "/deep/batch_search"),
            (f"{root}/mine", {"path": ""}, "/mine"),
            (root, {"path": "/other"}, "/other"),
        ]:
            client = engine(url, dialect="research", **options)
            assert client.search([ask()])[0].failure is None
            assert server.calls[-1].path == path
            client.close()


def test_the_cache_spares_requests_and_keeps_scores_and_sources(tmp_path: Path) -> None:
    server = Server(held=40)
    path = str(tmp_path / "cache")
    with ServerThread(server) as thread:
        requests = [ask(), ask(noisy=True, seed=1), ask(noisy=True, seed=2), ask("elsewhere", top_k=60)]
        client = engine(thread.url, cache=path)
        first = client.search(requests)
        sent = len(server.calls)
        client.close()
        again = engine(thread.url, cache=path)
        second = again.search(requests)
        assert len(server.calls) == sent
        assert [result.documents for result in second] == [result.documents for result in first]
        assert first[0].documents[0].score == 9.0
        assert again.stats().hit_rate == 1.0
        assert again.stats().requests == 0
        again.close()
    with ServerThread(server) as other:
        elsewhere = engine(other.url, cache=path)
        elsewhere.search([ask()])
        assert elsewhere.stats().cache_hits == 0
        elsewhere.close()
    with ResultCache(path) as cache:
        assert set(cache.describe().by_engine) == {"retrieve"}


def test_failures_are_not_cached(tmp_path: Path) -> None:
    script = Script(Reply({}, 404), Reply(shaped("search-r1", ["q"], 3, False)))
    with ServerThread(script) as thread:
        client = engine(thread.url, cache=str(tmp_path / "cache"))
        assert client.search([ask()])[0].failure is not None
        assert client.search([ask()])[0].failure is None
        client.close()


def test_copies_search_too_and_carry_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROSEARCH_RETRIEVE_TOKEN", "hush-hush")
    server = Server()
    with ServerThread(server) as thread:
        client = engine(thread.url)
        client.search([ask()])
        packed = pickle.dumps(client)
        assert b"hush" not in packed
        copy = pickle.loads(packed)
        assert copy.stats().searches == 0
        assert copy.search([ask()])[0].documents == client.search([ask()])[0].documents
        assert server.calls[-1].headers["authorization"] == "Bearer hush-hush"
        client.close()
        copy.close()
        client.close()
        with pytest.raises(EngineError, match="closed"):
            client.search([ask()])


def test_it_searches_inside_a_running_loop_and_can_be_cancelled() -> None:
    with ServerThread(Server()) as thread:
        client = engine(thread.url)

        async def main() -> None:
            assert client.search([ask()])[0].documents == (await client.asearch(ask())).documents

        asyncio.run(main())
        client.close()


@pytest.mark.parametrize(
    ("argument", "options", "message"),
    [
        ("", {}, "at least one address"),
        ("127.0.0.1:80", {}, "expected an address"),
        ("http://any:secret@127.0.0.1:80", {}, "must not hold a password"),
        ("http://h", {"dialect": "serch-r1"}, "Did you mean 'search-r1'"),
        ("http://h", {"batch_size": 0}, "batch_size"),
        ("http://h", {"noise_depth": -1}, "noise_depth"),
        ("http://h", {"max_pages": 1.5}, "max_pages"),
        ("http://h", {"encoding": "xml"}, "encoding"),
        ("http://h", {"token_env": "UNSET_TOKEN"}, "UNSET_TOKEN"),
        ("http://h", {"http": {"attempt": 3}}, "Did you mean 'attempts'"),
        ("http://h", {"dialekt": "verl"}, "Did you mean 'dialect'"),
    ],
)
def test_unusable_descriptions(argument: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_engine({"kind": "retrieve", "argument": argument, **options})
    assert "secret" not in str(caught.value)
    with ServerThread(Server()) as thread, pytest.raises(ConfigError, match="2 flags for top_k=3"):
        engine(thread.url).search([ask(noisy=(True, False))])


@pytest.mark.skipif(find_spec("msgpack") is None, reason="msgpack is not installed")
def test_gem_in_msgpack() -> None:
    import msgpack

    async def handler(call: Call) -> Reply:
        return Reply(msgpack.packb(shaped("gem", ["q"], 3, True)))

    with ServerThread(handler) as thread:
        client = engine(thread.url, dialect="gem")
        assert client._client.codec.name == "msgpack"
        client.close()


@pytest.fixture(scope="module")
def serve() -> Iterator[str]:
    """A real `zerosearch serve` over the world."""
    pytest.importorskip("uvicorn")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [sys.executable, "-m", "zerosearch_env.cli", "serve", "--engine", "corpus", "--port", str(port)]
    program = shutil.which("zerosearch", path=str(Path(sys.executable).parent))
    process = subprocess.Popen([program, *command[3:]] if program else command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.slow
def test_round_trip_with_our_own_server(serve: str, dialect: str) -> None:
    named = f"{serve}/{dialect}" if DIALECTS[dialect].paths == ("/retrieve",) and "rerank" not in dialect else serve
    for context in (False, True):
        client = RetrieveEngine([named], dialect=dialect, send_context=context)
        request = ask("Who founded the mill?", answers=("nobody at all",), question="Who founded the mill?")
        results = client.search([request, replace(request, noisy=True), replace(request, noisy=(True, False, True))])
        client.close()
        for result in results:
            assert result.failure is None
            assert len(result.documents) == 3
        assert results[2].documents[1] == results[0].documents[1]
        assert results[2].documents[0] == results[1].documents[0]
