from __future__ import annotations

import asyncio
import pickle
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from http_fakes import Script, cut, huge, stall

from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.llm import HttpOptions, JsonClient, JsonReply
from zerosearch_env.llm.http.client import StatusError
from zerosearch_env.llm.http.replicas import Replica, ReplicaSet
from zerosearch_env.llm.http.retries import backoff, is_retryable_status, parse_retry_after

FAST = {"backoff_s": 0.005, "backoff_cap_s": 0.01, "connect_s": 2.0, "read_s": 2.0, "total_s": 5.0, "attempts": 3}


def options(**changes: Any) -> HttpOptions:
    return HttpOptions(**(FAST | changes))


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def post(client: JsonClient, count: int = 1, body: Any = None) -> list[JsonReply | BaseException]:
    async def main() -> list[JsonReply | BaseException]:
        try:
            calls = (client.request("POST", "/x", body={"n": n} if body is None else body) for n in range(count))
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await client.aclose()

    return asyncio.run(main())


def failure(client: JsonClient) -> EngineError:
    (error,) = post(client)
    assert isinstance(error, EngineError), error
    return error


def test_an_answer_is_parsed_and_says_who_gave_it() -> None:
    script = Script(Reply({"ok": 1}))
    with ServerThread(script) as server:
        (reply,) = post(JsonClient([server.url + "/"], options(), headers={"X-Key": "secret"}), body={"é": "\ud800"})
        assert reply == JsonReply({"ok": 1}, 1, server.url)
    (call,) = script.calls
    assert (call.method, call.path, call.body) == ("POST", "/v1/x", {"é": "\ud800"})
    assert call.headers["x-key"] == "secret"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    script = Script(Reply({}, status), Reply({}, status), Reply({"ok": 1}))
    with ServerThread(script) as server:
        (reply,) = post(JsonClient([server.url], options()))
    assert isinstance(reply, JsonReply)
    assert reply.attempts == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply({"error": "bad key"}, 401), "answered 401.*bad key.*Is the key right"),
        (Reply({"error": "no such model"}, 404), "answered 404.*no such model.*model's name"),
        (Reply({}, 302, {"Location": "http://127.0.0.1/"}), "Redirects are not followed"),
        (Reply({}, 422), "answered 422"),
        (Reply(b'{"a": ', 200), "not JSON"),
        (Reply(b"[" * 200_000, 200), "not JSON"),
        (Reply(b"<html><body>Bad gateway</body></html>"), "not JSON.*<html>"),
        (Reply(b""), r"not JSON.*\(nothing\)"),
        (Reply(b"\xff\xfe\x00"), "not JSON"),
    ],
)
def test_what_no_retry_mends_fails_at_once(reply: Reply, message: str) -> None:
    script = Script(reply)
    with ServerThread(script) as server:
        error = failure(JsonClient([server.url], options(), headers={"Authorization": "Bearer hush"}))
    assert error.attempts == len(script.calls) == 1
    assert re.search(message, str(error))
    assert "hush" not in str(error)
    assert isinstance(error.__cause__, (StatusError, ValueError))


def test_an_error_that_stays_names_attempts_and_last_cause() -> None:
    script = Script(Reply({"e": "first"}, 500), Reply({"e": "last"}, 503))
    with ServerThread(script) as server:
        error = failure(JsonClient([server.url], options()))
    assert error.attempts == len(script.calls) == 3
    assert "after 3 attempts" in str(error)
    assert "503" in str(error)
    assert "last" in str(error)
    assert "503" in str(error.__cause__)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_kept(date: bool) -> None:
    when = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%a, %d %b %Y %H:%M:%S GMT") if date else "0.1"
    assert 0.1 <= (parse_retry_after(when) or 0) <= 2
    script = Script(Reply({}, 429, {"Retry-After": "0.1"}), Reply({"ok": 1}))
    with ServerThread(script) as server:
        (reply,) = post(JsonClient([server.url], options()))
    assert isinstance(reply, JsonReply)
    assert script.times[1] - script.times[0] >= 0.1


def test_a_retry_after_beyond_the_deadline_fails_now() -> None:
    script = Script(Reply({}, 429, {"Retry-After": "3600"}))
    with ServerThread(script) as server:
        began = time.monotonic()
        error = failure(JsonClient([server.url], options()))
    assert time.monotonic() - began < 2
    assert error.attempts == 1
    assert "would have to wait 3600" in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[("3", 3.0), ("-3", 0.0), ("nan", None), ("soon", None), (None, None), ("inf", None)],
        *[("Wed, 21 Oct 2015 07:28:10 GMT", 10.0), ("Wed, 21 Oct 2015 07:28:10 -0000", 10.0)],
    ],
)
def test_retry_after_headers(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, datetime(2015, 10, 21, 7, 28, 0, tzinfo=UTC)) == seconds


def test_backoff_is_bounded_seeded_and_spread() -> None:
    waits = [backoff(1.0, 8.0, attempt, seed=seed) for seed in range(300) for attempt in (1, 2, 3, 4, 90)]
    for attempt, ceiling in enumerate((1, 2, 4, 8, 8)):
        of_attempt = waits[attempt::5]
        assert all(0 <= wait < ceiling for wait in of_attempt)
        assert abs(sum(of_attempt) / 300 - ceiling / 2) < ceiling * 0.06
    assert backoff(1.0, 8.0, 2, seed=7) == backoff(1.0, 8.0, 2, seed=7)
    assert [status for status in range(200, 600) if is_retryable_status(status)][:5] == [408, 409, 425, 429, 500]


def test_a_refused_connection_is_tried_again() -> None:
    error = failure(JsonClient([f"http://127.0.0.1:{free_port()}/v1"], options()))
    assert error.attempts == 3
    assert "ClientConnectorError" in str(error)


def ask_many(client: JsonClient, count: int) -> list[Any]:
    async def run() -> list[Any]:
        found = await asyncio.gather(
            *(client.request("POST", "/x", body=number) for number in range(count)), return_exceptions=True
        )
        await client.aclose()
        return found

    return asyncio.run(run())


def test_a_queue_behind_a_dead_server_ends_with_it() -> None:
    client = JsonClient(
        [f"http://127.0.0.1:{free_port()}/v1"], options(concurrency=1, attempts=1000, total_s=0.3, backoff_cap_s=0.02)
    )
    began = time.monotonic()
    errors = ask_many(client, 20)
    assert time.monotonic() - began < 3, "each of them had its own time"
    assert all(isinstance(error, EngineError) for error in errors)
    assert all("ClientConnectorError" in str(error) for error in errors)
    assert errors[-1].attempts == 0


def test_a_queue_behind_a_busy_server_waits_for_longer_than_one_request_may_take() -> None:
    async def slow(call: Call) -> Reply:
        await asyncio.sleep(0.02)
        return Reply({})

    with ServerThread(slow) as server:
        replies = ask_many(JsonClient([server.url], options(concurrency=1, total_s=0.25)), 25)
    assert all(isinstance(reply, JsonReply) for reply in replies)


@pytest.mark.parametrize(("handler", "word"), [(stall, "SocketTimeoutError"), (cut, "ClientPayloadError")])
def test_a_body_that_stops_halfway(handler: Callable[[Call], Any], word: str) -> None:
    with ServerThread(Script(handler)) as server:
        error = failure(JsonClient([server.url], options(read_s=0.05, attempts=2)))
    assert error.attempts == 2
    assert word in str(error)


def test_a_server_that_drips_is_bounded_in_total() -> None:
    async def drip(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            call.writer.write(b" ")
            await call.writer.drain()
            await asyncio.sleep(0.01)

    with ServerThread(drip) as server:
        began = time.monotonic()
        error = failure(JsonClient([server.url], options(read_s=1.0, total_s=0.15)))
    assert time.monotonic() - began < 1
    assert "0.15 s" in str(error)


def test_an_endless_body_is_not_read() -> None:
    with ServerThread(Script(huge)) as server:
        error = failure(JsonClient([server.url], options(max_body_bytes=200_000)))
    assert error.attempts == 1
    assert "more than 200,000 bytes" in str(error)


def states(client: JsonClient) -> dict[str, str]:
    assert client._session is not None
    return {replica.url: replica.state for replica in client._session.replicas.replicas}


def test_a_dead_replica_is_left_out() -> None:
    script = Script(Reply({"ok": 1}))
    with ServerThread(script) as server:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        client = JsonClient([dead, server.url], options(breaker_failures=2, breaker_cooldown_s=60))

        async def main() -> list[JsonReply]:
            replies = [await client.request("POST", "/x", body={}) for _ in range(20)]
            assert states(client) == {dead: "open", server.url: "closed"}
            await client.aclose()
            return replies

        replies = asyncio.run(main())
    assert {reply.url for reply in replies} == {server.url}
    assert [reply.attempts for reply in replies].count(2) == 2
    assert len(script.calls) == 20


def test_replicas_take_turns() -> None:
    scripts = [Script(Reply({})) for _ in range(3)]
    with ServerThread(scripts[0]) as a, ServerThread(scripts[1]) as b, ServerThread(scripts[2]) as c:
        assert not [r for r in post(JsonClient([a.url, b.url, c.url], options()), 30) if isinstance(r, BaseException)]
    assert [len(script.calls) for script in scripts] == [10, 10, 10]


def test_a_server_that_comes_back_loses_no_request() -> None:
    """While the breaker is open requests wait; the probe after the cool-down lets them all through."""
    port = free_port()
    client = JsonClient(
        [f"http://127.0.0.1:{port}/v1"], options(attempts=4, breaker_failures=3, breaker_cooldown_s=0.05)
    )
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.extend(post(client, 20)))
    waiting.start()
    time.sleep(0.06)
    with ServerThread(Script(Reply({"ok": 1})), port) as _:
        waiting.join(10)
    assert len(replies) == 20
    assert not [reply for reply in replies if isinstance(reply, BaseException)]


def test_a_breaker_opens_probes_and_closes() -> None:
    now = [0.0]
    replica = Replica("a", 2, 10.0, lambda: now[0])
    replicas = ReplicaSet([replica])
    for _ in range(3):
        assert replicas.pick() is replica
    for _ in range(2):
        replica.fail()
    assert (replica.state, replica.wait_s(), replicas.pick()) == ("open", 10.0, None)
    now[0] = 5.0
    replica.fail()
    assert replica.wait_s() == 5.0, "a straggler does not start the cool-down again"
    now[0] = 10.0
    assert replica.state == "half-open"
    assert replicas.pick() is replica
    assert replicas.pick() is None, "one probe per cool-down"
    now[0] = 12.0
    replica.fail()
    assert (replica.state, replica.wait_s()) == ("open", 8.0)
    now[0] = 20.0
    assert replicas.pick() is replica
    now[0] = 31.0
    replica.fail()
    assert (replica.state, replica.wait_s()) == ("open", 10.0), "a probe that fails late starts a new cool-down"
    now[0] = 41.0
    assert replicas.pick() is replica, "a probe that was cancelled is followed by another"
    replica.succeed()
    assert replica.state == "closed"
    replica.fail()
    assert replica.state == "closed"


def test_busy_is_not_dead() -> None:
    with ServerThread(Script(Reply({}, 429))) as server:
        client = JsonClient([server.url], options(breaker_failures=1))

        async def main() -> dict[str, str]:
            with pytest.raises(EngineError, match="429"):
                await client.request("GET", "/x")
            found = states(client)
            await client.aclose()
            return found

        assert set(asyncio.run(main()).values()) == {"closed"}


def test_no_more_than_the_cap_are_on_their_way() -> None:
    now, most = [0], [0]

    async def handler(call: Call) -> Reply:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.01)
        now[0] -= 1
        return Reply(call.body)

    with ServerThread(handler) as server:
        replies = post(JsonClient([server.url], options(concurrency=4)), 24)
    assert most[0] == 4
    assert [reply.data["n"] for reply in replies if isinstance(reply, JsonReply)] == list(range(24))


def test_answers_in_another_order_find_their_requests() -> None:
    async def handler(call: Call) -> Reply:
        await asyncio.sleep(0.1 - 0.005 * call.body["n"])
        return Reply(call.body)

    with ServerThread(handler) as server:
        replies = post(JsonClient([server.url], options()), 20)
    assert [reply.data["n"] for reply in replies if isinstance(reply, JsonReply)] == list(range(20))


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://x", "http://", "http://x:port", None, "http://x:99999999"])
def test_unusable_addresses(url: Any) -> None:
    with pytest.raises(ConfigError, match="expected an address"):
        JsonClient([url])
    with pytest.raises(ConfigError, match="at least one address"):
        JsonClient([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attempts": 0}, "attempts must be a whole number of at least 1, got 0."),
        ({"concurrency": 1.5}, "concurrency must be a whole number of at least 1, got 1.5."),
        ({"max_body_bytes": 0}, "max_body_bytes must be a whole number of bytes not below 1, got 0."),
        ({"total_s": 0}, "total_s must be a number of seconds above 0, got 0."),
        ({"read_s": "1"}, "read_s must be a number of seconds above 0, got '1'."),
        ({"backoff_s": -1}, "backoff_s must be a finite number of seconds not below 0, got -1."),
    ],
)
def test_unusable_bounds(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        HttpOptions(**change)
    assert str(error.value) == message
