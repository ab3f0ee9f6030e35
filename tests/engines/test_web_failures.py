"""Web engines against services that refuse, misbehave or repeat the key."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from http_fakes import Script, cut, huge, stall
from sim_fakes import ask
from web_fakes import FAST, KEY, VARIABLES, Service, engine

from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.errors import QuotaError
from zerosearch_env.llm.http.client import JsonClient
from zerosearch_env.llm.http.options import HttpOptions
from zerosearch_env.privacy import hide

PROVIDERS = tuple(VARIABLES)
ECHO = f"your key {KEY} {quote(KEY, safe='')} {quote_plus(KEY, safe='/')} is odd"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, KEY)


async def strange(call: Call) -> None:
    """No HTTP; aiohttp's own error then holds the address, and so the key of SerpAPI."""
    call.writer.write(f"HTTP/9 {KEY}\r\n\r\n".encode())
    await call.writer.drain()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("reply", "message", "attempts"),
    [
        (Reply({"error": ECHO}, 401), r"refused the key in \w+_API_KEY: .*answered 401.*your key \*\*\*", 1),
        (Reply({"message": ECHO}, 403), r"refused the key in \w+_API_KEY: .*answered 403", 1),
        (Reply({"error": ECHO}, 400), "answered 400", 1),
        (Reply({}, 404), "answered 404", 1),
        (Reply({}, 302, {"Location": "http://127.0.0.1/"}), "Redirects are not followed", 1),
        (Reply({"error": ECHO}, 429), "answered 429", 2),
        (Reply({}, 429, {"Retry-After": "60"}), "would have to wait 60", 1),
        (Reply({"error": ECHO}, 500), "answered 500", 2),
        (Reply({}, 503, {"Retry-After": "0"}), "answered 503", 2),
        (Reply(f"<html>{ECHO}</html>".encode()), "not JSON.*<html>", 1),
        (Reply(b'{"organic": ['), "not JSON", 1),
        (Reply(b""), "not JSON", 1),
        (Reply([]), "expected an object, got list", 1),
        (Reply(None), "expected an object, got NoneType", 1),
        (Reply({ECHO: 1}), r"its fields are your key \*\*\*", 1),
        (stall, "SocketTimeoutError", 2),
        (cut, "ClientPayloadError", 2),
        (strange, "after 2 attempts", 2),
        (huge, "more than 300,000 bytes", 1),
    ],
)
def test_services_that_misbehave(
    provider: str, reply: Any, message: str, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    script = Script(reply)
    with ServerThread(script) as thread:
        http = FAST | {"read_s": 0.05 if reply is stall else 2.0, "max_body_bytes": 300_000}
        client = engine(thread, provider, http=http, price_per_1000=1000.0)
        (result,) = client.search([ask()])
        client.close()
    assert result.documents == ()
    assert result.failure is not None
    assert re.search(message, result.failure), result.failure
    assert result.attempts == len(script.calls) == attempts
    stats = client.stats()
    assert (stats.failed_searches, stats.requests, stats.cost, stats.pages) == (1, attempts, float(attempts), 0)
    assert "hush" not in result.failure + repr(client) + repr(stats) + caplog.text


QUOTAS = [
    ("serpapi", Reply({"error": f"Your account has run out of searches. {ECHO}"}, 429)),
    ("serpapi", Reply({"error": f"Your account has run out of searches. {ECHO}"})),
    ("serper", Reply({"message": f"Not enough credits {ECHO}", "statusCode": 400}, 400)),
    ("serper", Reply({"message": f"Not enough credits {ECHO}"})),
    ("brave", Reply({"type": "ErrorResponse", "error": {"code": "QUOTA_LIMITED", "detail": ECHO}}, 429)),
    ("brave", Reply({"type": "ErrorResponse", "error": {"code": "QUOTA_LIMITED", "detail": ECHO}}, 402)),
    ("brave", Reply({"error": {"code": "QUOTA_LIMITED", "detail": ECHO}})),
]


@pytest.mark.parametrize(("provider", "reply"), QUOTAS)
def test_a_used_up_account_is_a_quota_error_without_a_retry(provider: str, reply: Reply) -> None:
    script = Script(reply)
    with ServerThread(script) as thread:
        client = engine(thread, provider)
        with pytest.raises(QuotaError) as caught:
            client.search([ask(), ask(noisy=True)])
        with pytest.raises(QuotaError):
            asyncio.run(client.asearch(ask()))
        client.close()
    assert len(script.calls) == 2
    assert caught.value.attempts == 1
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_a_quota_that_ends_in_the_middle_of_a_batch_fails_only_what_is_left() -> None:
    serving = Service("serper")

    async def handler(call: Call) -> Reply:
        if len(serving.calls) == 2:
            return Reply({"message": "Not enough credits"}, 400)
        return await serving(call)

    with ServerThread(handler) as thread:
        client = engine(thread, http=FAST | {"concurrency": 1})
        results = client.search([ask(f"query {number}") for number in range(4)])
        client.close()
    assert [result.failure is None for result in results].count(True) == 2
    assert sum("searches of the serper account are used up" in str(result.failure) for result in results) == 2


def test_a_query_that_speaks_of_quotas_uses_up_nothing() -> None:
    async def handler(call: Call) -> Reply:
        return Reply({"message": "Bad query", "searchParameters": call.body}, 400)

    with ServerThread(handler) as thread:
        client = engine(thread)
        (result,) = client.search([ask("not enough credits have run out of quota exceeded")])
        client.close()
    assert "answered 400" in str(result.failure)


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "0.01"}])
def test_a_busy_service_is_asked_again(headers: dict[str, str]) -> None:
    serving = Service("brave")
    script = Script(Reply({"error": {"code": "RATE_LIMITED"}}, 429, headers), serving)
    with ServerThread(script) as thread:
        client = engine(thread, "brave")
        (result,) = client.search([ask()])
        client.close()
    assert result.failure is None
    assert (result.attempts, client.stats().requests) == (2, 2)


def test_retries_count_against_the_budget() -> None:
    script = Script(Reply({}, 500))
    with ServerThread(script) as thread:
        client = engine(thread, max_requests=3, http=FAST | {"attempts": 10})
        with pytest.raises(QuotaError, match="max_requests=3") as caught:
            client.search([ask()])
        client.close()
    assert (len(script.calls), caught.value.attempts, client.stats().budget_left) == (3, 3, 0)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_connection(provider: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        client = engine(f"http://127.0.0.1:{held.getsockname()[1]}", provider)
        (result,) = client.search([ask()])
        client.close()
    assert "ClientConnectorError" in str(result.failure)
    assert result.attempts == 2
    assert "hush" not in str(result.failure) + caplog.text


def test_a_service_that_is_left_alone_costs_nothing() -> None:
    """While the circuit breaker is open no request is counted: none is sent."""
    script = Script(Reply({}, 500))
    with ServerThread(script) as thread:
        http = {"attempts": 4, "backoff_s": 0.001, "total_s": 0.1, "breaker_failures": 2, "breaker_cooldown_s": 60}
        client = engine(thread, http=http, max_requests=100)
        for number in range(3):
            assert client.search([ask(f"query {number}")])[0].failure is not None
        assert client.stats().requests == len(script.calls) == 2
        client.close()


def test_a_gate_that_ends_a_probe_leaves_the_probe_to_others() -> None:
    """A request that is stopped at the gate must not keep the half-open breaker's only place."""
    stop = False

    async def gate() -> None:
        if stop:
            raise QuotaError("used up", attempts=0)

    async def main(url: str) -> None:
        nonlocal stop
        options = HttpOptions(attempts=1, total_s=5, breaker_failures=1, breaker_cooldown_s=0.001)
        client = JsonClient([url], options, gate=gate)
        with pytest.raises(RuntimeError, match="answered 500"):
            await client.request("GET", "/x")
        stop = True
        with pytest.raises(QuotaError) as caught:
            await client.request("GET", "/x")
        assert caught.value.attempts == 0
        stop = False
        assert (await client.request("GET", "/x")).data == {"ok": 1}
        await client.aclose()

    with ServerThread(Script(Reply({}, 500), Reply({"ok": 1}))) as thread:
        asyncio.run(main(thread.url))


def test_keys_are_hidden_in_every_form() -> None:
    secret = 'a/b+c=d"e'
    forms = [
        secret,
        quote(secret, safe=""),
        quote(secret, safe="/=").lower(),
        r"a\/b+c=d\"e",
        r"a\u002Fb\u002bc=d\u0022e",
    ]
    text = " and ".join(forms)
    assert hide(text, [secret, ""]) == " and ".join(["***"] * len(forms))
    assert hide("nothing here", [secret]) == "nothing here"
