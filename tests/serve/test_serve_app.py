"""A real server on a free port: every dialect there and back, errors, bounds, the token, and the counters."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from env_fakes import MISBEHAVIOURS, BadEngine
from prometheus_client.parser import text_string_to_metric_families

from zerosearch_env.errors import ConfigError
from zerosearch_env.retrieve_api.dialects import DIALECTS

BODIES: dict[str, dict[str, Any]] = {
    "search-r1": {"queries": ["q", "r"], "topk": 2, "return_scores": True},
    "verl": {"queries": ["q", "r"], "topk": 2, "return_scores": True},
    "search-r1-rerank": {"queries": ["q", "r"], "topk_retrieval": 20, "topk_rerank": 2},
    "search-r1-proxy": {"queries": ["q", "r"]},
    "asearcher": {"queries": ["q", "r"], "topk": 2, "return_scores": False},
    "skyrl": {"query": "q", "topk": 2, "return_scores": True},
    "gem": {"query": "q", "topk": 2, "return_scores": True},
    "zerosearch-wiki": {"query": "q", "top_k": 2},
    "rllm": {"query": "q", "top_k": 2, "k": 2},
    "r1-searcher": {"queries": ["q", "r"], "k": 2},
    "research": {"query": "q", "top_n": 2},
}
CONTENTS = '"Title 1"\nabout q'
FIRST: dict[str, Callable[[Any], Any]] = {
    "search-r1": lambda answer: answer["result"][0][0]["document"]["contents"],
    "verl": lambda answer: answer["result"][0][0]["document"]["contents"],
    "search-r1-rerank": lambda answer: answer["result"][0][0]["contents"],
    "search-r1-proxy": lambda answer: answer["result"][0][0]["document"]["contents"],
    "asearcher": lambda answer: answer["result"][0][0]["contents"],
    "skyrl": lambda answer: answer["result"][0][0]["document"]["contents"],
    "gem": lambda answer: answer["result"][0]["document"]["contents"],
    "rllm": lambda answer: answer["results"][0]["document"]["contents"],
    "research": lambda answer: answer[0]["contents"],
    "zerosearch-wiki": lambda answer: answer[0]["text"],
    "r1-searcher": lambda answer: answer["answers"][0][0],
}


def test_every_dialect_there_and_back(start: Any) -> None:
    server = start()
    for name, dialect in DIALECTS.items():
        reply = server.post(f"/{name}{dialect.paths[-1]}", BODIES[name])
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), name
        assert "about q" in FIRST[name](reply.json)
        assert FIRST[name](reply.json).endswith("\nabout q") or name in ("zerosearch-wiki", "r1-searcher")
    # Without the name in front of the path the form decides; where forms are shared, a default does.
    for name in set(DIALECTS) - {"verl", "search-r1-proxy", "gem"}:
        assert (
            server.post(DIALECTS[name].paths[-1], BODIES[name]).json
            == server.post(f"/{name}{DIALECTS[name].paths[-1]}", BODIES[name]).json
        )
    assert {request.top_k for call in server.engine.calls for request in call} == {2, 3}


def test_msgpack_without_a_content_type(start: Any) -> None:
    msgpack = pytest.importorskip("msgpack", reason="msgpack is not installed (extra serve)")
    reply = start().request("POST", "/retrieve", msgpack.packb(BODIES["gem"]))
    assert (reply.status, reply.headers["content-type"]) == (200, "application/msgpack")
    assert msgpack.unpackb(reply.body)["result"][0]["document"]["contents"] == CONTENTS


def test_the_server_can_force_a_dialect(start: Any) -> None:
    server = start(dialect="gem")
    assert FIRST["gem"](server.post("/retrieve", BODIES["skyrl"]).json) == CONTENTS
    assert server.post("/queries", BODIES["r1-searcher"]).json["queries"] == ["q", "r"]
    assert FIRST["rllm"](server.post("/rllm/retrieve", BODIES["zerosearch-wiki"]).json) == CONTENTS
    assert server.get("/health").json == {"status": "ok", "engine": "RecordingEngine", "dialect": "gem"}
    assert server.get("/rllm/health").status == 200


def test_no_queries_need_no_engine(start: Any) -> None:
    """Search-R1 asks for nothing in a turn in which nobody searches."""
    server = start()
    assert server.post("/retrieve", {"queries": [], "topk": 3, "return_scores": True}).json == {"result": []}
    assert server.engine.calls == []


def test_noise(start: Any) -> None:
    server = start(noise_level=0.5)
    body = {"queries": [f"q{n}" for n in range(40)], "topk": 1, "seed": 3}
    first, again = server.post("/retrieve", body).json, server.post("/retrieve", body).json
    assert first == again
    noisy = sum("noise" in row[0]["contents"] for row in first["result"])
    assert 8 < noisy < 32
    assert "noise" in server.post("/retrieve", {"query": "q", "topk": 1, "noisy": True}).body.decode()
    assert server.get("/stats").json["noisy_searches"] == 2 * noisy + 1


def test_kinds_of_noise(start: Any) -> None:
    server = start(noise_level=1.0, noise_kind=("outage",))
    (row,) = server.post("/retrieve", {"queries": ["q"], "topk": 2, "return_scores": True}).json["result"]
    assert len(row) == 1  # the words of a failed tool
    assert "about q" not in row[0]["document"]["contents"]
    assert "about q" in server.post("/retrieve", {"query": "q", "topk": 2, "noisy": False}).body.decode()
    with pytest.raises(ConfigError, match="Did you mean 'outage'"):
        start(noise_kind=("outtage",))
    with pytest.raises(ConfigError, match="counterfactual"):
        start(noise_kind=("counterfactual",))  # there is no dataset


def test_question_and_answers_reach_the_engine(start: Any, recording: Any) -> None:
    engine = recording()
    engine.required_fields = ("question", "answers")
    server = start(engine)
    reply = server.post("/retrieve", {"query": "q", "topk": 1})
    assert reply.status == 400
    assert "needs 'answers' and 'question' with every query" in reply.json["error"]
    assert server.post("/retrieve", {"query": "q", "topk": 1, "question": "Q?", "answers": ["a", "b"]}).status == 200
    assert [(request.question, request.answers) for request in engine.calls[0]] == [("Q?", ("a", "b"))]


def test_the_question_is_found_and_unguarded_noise_is_counted(start: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [("q1", "Who wrote the novel Dracula?", "Bram Stoker"), ("q2", "Wer war Goethes Mutter für Köln?", "Textor")]
    lines = [json.dumps({"id": number, "question": text, "answers": [answer]}) for number, text, answer in rows]
    data.write_text("\n".join(lines))
    server = start(dataset=str(data), noise_level=1.0)

    def answers(query: str, header: str = "", **fields: Any) -> tuple[str, ...]:
        headers = {"ZeroSearch-Question": header} if header else {}
        assert server.post("/retrieve", {"query": query, **fields}, **headers).status == 200
        return server.engine.calls[-1][0].answers

    stoker, textor = ("Bram Stoker",), ("Textor",)
    assert answers("who wrote the novel dracula") == answers("Question: Who wrote the novel Dracula? Answer:") == stoker
    assert answers("Dracula", header="q1") == answers("x", header="Who wrote the novel Dracula?") == stoker
    assert answers("x", header=quote("Wer war Goethes Mutter für Köln?")) == textor
    assert answers("x", question="q2") == answers("x", question="wer war Goethes Mutter für Köln") == textor
    assert server.get("/stats").json["unguarded_noisy_searches"] == 0
    assert answers("Dracula author") == ()
    assert server.engine.calls[-1][0].guarded == stoker
    assert server.get("/stats").json["unguarded_noisy_searches"] == 0
    assert answers("zebra") == server.engine.calls[-1][0].guarded == ()
    assert server.get("/stats").json["unguarded_noisy_searches"] == 1
    assert b"zerosearch_unguarded_noisy_searches_total 1.0" in server.get("/metrics").body


def test_the_host_of_a_loopback_server_is_checked(start: Any) -> None:
    server = start()
    for path, method in (("/retrieve", "POST"), ("/health", "GET"), ("/stats", "GET"), ("/metrics", "GET")):
        reply = server.request(method, path, b'{"query": "q"}' if method == "POST" else None, {"Host": "evil.example"})
        assert (reply.status, reply.json["kind"]) == (421, "wrong_host")
        for host in ("localhost", f"127.0.0.1:{server.port}", "[::1]:80", "app.localhost"):
            assert server.request(method, path, b'{"query": "q"}', {"Host": host}).status == 200
    assert start(host="0.0.0.0").request("GET", "/health", None, {"Host": "evil.example"}).status == 200


def test_concurrent_requests_share_engine_calls(start: Any, recording: Any, together: Any) -> None:
    server = start(recording())
    server.engine.released.clear()

    def release() -> None:
        while not server.engine.calls or server.service.metrics.in_flight < 40:
            time.sleep(0.005)
        server.engine.released.set()

    asks = [lambda n=n: server.post("/retrieve", {"query": f"q{n}", "topk": 1}) for n in range(40)]
    *replies, _ = together([*asks, release])
    for number, reply in enumerate(replies):
        assert reply.json["result"][0][0]["document"]["contents"] == f'"Title 1"\nabout q{number}'
    assert len(server.engine.calls) <= 3
    stats = server.get("/stats").json
    assert stats["searches_per_engine_call"] == pytest.approx(40 / len(server.engine.calls), abs=0.001)


@pytest.mark.parametrize(
    ("query", "status", "kind", "text"),
    [
        ("fail", 502, "engine", "the search for 'fail' failed: the simulator answered 500"),
        ("down", 502, "engine", "the simulator cannot be reached"),
        ("boom", 502, "engine", "RecordingEngine raised KeyError"),
        ("short", 502, "engine", "returned 0 results for 2 requests"),
        ("refuse", 400, "refused_by_engine", "top_k is larger than the corpus"),
    ],
)
def test_a_failed_search_is_never_an_empty_result(start: Any, query: str, status: int, kind: str, text: str) -> None:
    server = start()
    reply = server.post("/retrieve", {"queries": ["fine", query], "topk": 1})
    assert (reply.status, reply.json["kind"]) == (status, kind)
    # a batch that raised is searched apart, so the count may be that of the half
    assert text.partition(" for 2")[0] in reply.json["error"]
    assert server.post("/retrieve", {"query": "fine"}).status == 200
    assert server.get("/stats").json["errors"] == {kind: 1}


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_the_server_survives_whatever_an_engine_does_wrong(start: Any, misbehaviour: str) -> None:
    server = start(BadEngine(misbehaviour))
    assert server.get("/health").json["status"] == "ok"
    for _ in range(2):
        reply = server.post("/retrieve", {"query": "bad"})
        rejected = misbehaviour == "an invalid request"
        assert (reply.status, reply.json["kind"]) == ((400, "refused_by_engine") if rejected else (502, "engine"))
        assert "BadEngine" in reply.json["error"] or misbehaviour == "a failure of the engine"
    health = server.get("/health")
    assert (health.status, health.json["status"]) == ((200, "ok") if rejected else (503, "failing"))
    assert rejected or health.json["error"] in reply.json["error"]
    assert server.post("/retrieve", {"query": "good"}).status == 200
    assert (server.get("/health").status, server.get("/health").json["status"]) == (200, "ok")


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_engine_cannot_end_the_server(start: Any, recording: Any, signal: type[BaseException]) -> None:
    class ExitingEngine(recording):
        def search(self, requests: Any) -> Any:
            raise signal("out")

    server = start(ExitingEngine())
    for _ in range(2):
        reply = server.post("/retrieve", {"query": "q"})
        assert (reply.status, reply.json["error"]) == (
            502,
            f"ExitingEngine raised {signal.__name__}: out",
        )


def test_an_engine_that_hangs(start: Any, recording: Any) -> None:
    engine = recording()
    engine.released.clear()
    server = start(engine, request_timeout_s=0.05)
    assert server.post("/retrieve", {"query": "q"}).status == 504
    assert server.post("/retrieve", {"query": "r"}).status == 504
    health = server.get("/health")
    assert (health.status, health.json["status"]) == (503, "stuck")
    assert "has not returned for" in health.json["error"]
    engine.released.set()
    deadline = time.monotonic() + 10
    while server.get("/health").status == 503 or server.post("/retrieve", {"query": "q"}).status == 504:
        assert time.monotonic() < deadline


def test_one_bad_request_does_not_take_its_company_down(start: Any, recording: Any, together: Any) -> None:
    server = start(recording(seconds=0.02), max_wait_ms=50)
    queries = ["a", "refuse", "b", "fail", "c", "boom", "d"]
    replies = together([lambda query=query: server.post("/retrieve", {"query": query}) for query in queries])
    assert [reply.status for reply in replies] == [200, 400, 200, 502, 200, 502, 200]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/retrieve", b"{", 400, "not valid JSON"),
        ("/retrieve", b"", 400, "not valid JSON"),
        ("/retrieve", b"[]", 400, "must be an object"),
        ("/retrieve", b'{"topk": 3}', 400, "'query'"),
        ("/retrieve", b'{"query": "q", "topk": 101}', 400, "at most 100"),
        ("/retrieve", b'{"query": "q", "topk": 1e999}', 400, "whole number"),
        ("/nowhere", b"{}", 404, "Expected POST to /retrieve, /queries, /batch_search, /search, or GET of /health"),
        ("/skylr/retrieve", b'{"query": "q"}', 404, "Did you mean 'skyrl'?"),
        ("/health", b"{}", 405, "Expected POST to /retrieve"),
    ],
)
def test_bad_requests(start: Any, path: str, body: bytes, status: int, message: str) -> None:
    server = start()
    reply = server.post(path, body)
    assert reply.status == status
    assert message in reply.json["error"]
    assert server.engine.calls == []


def test_token(start: Any) -> None:
    server = start(token="s3cret")
    body = {"query": "q"}
    for header in ("", "Bearer", "Bearer wrong", "Bearer s3cret2", "Basic !!", "Basic eDp3cm9uZw==", "s3cret"):
        reply = server.post("/retrieve", body, Authorization=header)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), header
        assert "s3cret" not in reply.json["error"]
    assert server.post("/retrieve", body, Authorization="Bearer s3cret").status == 200
    assert server.post("/retrieve", body, Authorization="Basic eDpzM2NyZXQ=").status == 200  # x:s3cret
    assert [server.get(path).status for path in ("/health", "/stats", "/metrics")] == [200, 401, 401]
    assert server.get("/metrics", Authorization="Bearer s3cret").status == 200


def test_body_bound(start: Any) -> None:
    server = start(max_body_bytes=1000)
    fits = json.dumps({"query": "q" * 900}).encode()
    assert server.post("/retrieve", fits).status == 200
    for size in (1001, 3000):
        reply = server.post("/retrieve", b"x" * size)
        assert (reply.status, reply.json["kind"]) == (413, "too_large")
    # without a length, in chunks, and without end: the server hangs up
    with socket.create_connection(("127.0.0.1", server.port), 10) as endless:
        endless.sendall(b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert _sent_until_refused(endless) < 100_000
    assert server.get("/health").status == 200


def _sent_until_refused(connection: socket.socket) -> int:
    for number in range(100_000):
        try:
            connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        except OSError:  # reset or broken pipe, as the system has it
            return number
    return 100_000


def test_clients_that_leave(start: Any, recording: Any) -> None:
    server = start(recording(seconds=0.05))
    body = json.dumps({"query": "q"}).encode()
    head = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    for sent in (b"POST /retr", head % len(body), head % len(body) + body[:5], head % len(body) + body):
        with socket.create_connection(("127.0.0.1", server.port), 10) as leaving:
            leaving.sendall(sent)
    deadline = time.monotonic() + 10
    while server.service.metrics.in_flight or not server.engine.calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert server.post("/retrieve", {"query": "q"}).status == 200


def test_a_result_that_takes_too_long(start: Any, recording: Any) -> None:
    engine = recording()
    engine.released.clear()
    server = start(engine, request_timeout_s=0.1)
    reply = server.post("/retrieve", {"query": "q"})
    assert (reply.status, reply.json["error"]) == (504, "the search engine gave no result in 0.1 s")
    engine.released.set()
    assert server.post("/retrieve", {"query": "q"}).status == 200


def test_metrics(start: Any) -> None:
    server = start()
    server.post("/retrieve", {"queries": ["a", "b", "c"]})
    server.post("/retrieve", b"{")
    reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(reply.body.decode())
    values = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    assert values["zerosearch_requests_total", "search-r1", "200"] == 1
    assert values["zerosearch_errors_total", "bad_body"] == 1
    assert values["zerosearch_searches_total",] == 3
    assert values["zerosearch_noisy_searches_total",] == 0
    assert values["zerosearch_engine_calls_total",] == 1
    assert values["zerosearch_waiting_searches",] == values["zerosearch_requests_in_flight",] == 0
    assert values["zerosearch_engine_batch_size_bucket", "2"] == 0
    assert values["zerosearch_engine_batch_size_bucket", "4"] == 1
    assert values["zerosearch_engine_batch_size_sum",] == 3
    assert values["zerosearch_engine_seconds_count",] == 1
    assert values["zerosearch_request_seconds_bucket", "+Inf"] == values["zerosearch_request_seconds_count",] == 2


def test_quick_searches_are_answered_counted_and_refused_like_others(start: Any, recording: Any) -> None:
    engine = recording()
    engine.is_quick = lambda requests: len(requests) == 1
    threads: set[str] = set()
    search = engine.search
    engine.search = lambda requests: threads.add(threading.current_thread().name) or search(requests)
    server = start(engine)
    assert server.post("/retrieve", {"queries": ["a", "b"], "topk": 1}).status == 200
    reply = server.post("/retrieve", {"query": "boom"})
    assert (reply.status, reply.json["kind"]) == (502, "engine")
    assert server.get("/health").json["status"] == "failing"
    assert server.post("/retrieve", {"query": "refuse"}).status == 400
    assert server.post("/retrieve", {"query": "c"}).status == 200
    assert server.get("/health").json["status"] == "ok"
    stats = server.get("/stats").json
    assert (stats["searches"], stats["engine_calls"]) == (5, 5)
    assert threads == {server.thread.name}


def test_a_kept_connection_serves_many_requests(start: Any) -> None:
    server = start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for body in (b'{"query": "a"}', b"{", b'{"query": "b"}'):
        connection.request("POST", "/retrieve", body)
        connection.getresponse().read()
    connection.close()
    assert [call[0].query for call in server.engine.calls] == ["a", "b"]


def test_a_request_under_way_is_finished(start: Any, recording: Any, together: Any) -> None:
    engine = recording()
    engine.released.clear()
    server = start(engine)

    def stop() -> None:
        while not engine.calls:
            time.sleep(0.005)
        server.server.should_exit = True
        time.sleep(0.2)
        engine.released.set()

    reply, _ = together([lambda: server.post("/retrieve", {"query": "q"}), stop])
    assert reply.status == 200
    server.stop()
    assert engine.closed.is_set()


def test_the_wait_for_a_request_under_way_is_bounded(start: Any, recording: Any, together: Any) -> None:
    engine = recording()
    engine.released.clear()
    server = start(engine, grace_s=0.3)

    def stop() -> None:
        while not engine.calls:
            time.sleep(0.005)
        server.stop()

    reply, _ = together([lambda: server.post("/retrieve", {"query": "q"}), stop])
    assert (reply.status, reply.json["kind"]) == (503, "cut_off")
    engine.released.set()
