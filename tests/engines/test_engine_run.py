"""The boundary to an engine: whatever it does wrong is a failure of its searches, in a batch and awaited."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
from env_fakes import MISBEHAVIOURS, BadEngine, EchoEngine
from web_fakes import VARIABLES

from zerosearch_benchmarks.speed.chat_server import Call, ServerThread
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.run import run_search, run_searches, search_each
from zerosearch_env.errors import ConfigError, EngineError, QuotaError
from zerosearch_env.llm import HttpOptions
from zerosearch_env.types import SearchRequest, SearchResult


def ask(query: str) -> SearchRequest:
    return SearchRequest(query, "question?", ("answer",), noisy=False, top_k=2, seed=1)


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_a_batch_has_one_result_per_request_whatever_the_engine_does(misbehaviour: str) -> None:
    requests = [ask("bad"), ask("good"), ask("fine")]
    results = run_searches(BadEngine(misbehaviour), requests)
    assert len(results) == 3
    assert results[0].failure
    assert results[0].documents == ()
    for request, result in zip(requests, results, strict=True):
        assert result.failure or result.documents[0].title.startswith(request.query)
    assert run_searches(BadEngine(misbehaviour), [ask("good")])[0].failure is None


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_whoever_awaits_a_search_gets_a_result(misbehaviour: str) -> None:
    async def main() -> list[SearchResult]:
        engine = BadEngine(misbehaviour)
        searches = asyncio.gather(*(run_search(engine, ask(query)) for query in ("bad", "good")))
        return await asyncio.wait_for(searches, 20)

    bad, good = asyncio.run(main())
    assert bad.failure
    assert good.failure or good.documents[0].title.startswith("good")


def test_a_cancelled_caller_is_cancelled() -> None:
    async def main() -> None:
        task = asyncio.create_task(run_search(EchoEngine(), ask("q")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_kind_of_an_error_is_kept() -> None:
    class FullEngine(EchoEngine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            raise QuotaError("used up", attempts=0)

    (used_up,) = search_each(FullEngine(), [ask("q")])
    assert (type(used_up), used_up.attempts) == (QuotaError, 0)
    (rejected,) = search_each(BadEngine("an invalid request"), [ask("bad")])
    assert (type(rejected), str(rejected)) == (ConfigError, "BadEngine: top_k is too large")


def test_a_traceback_is_logged_once_and_without_secrets(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "zx-81-secret")

    class LeakyEngine(EchoEngine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            raise RuntimeError("401 for key zx-81-secret")

    with caplog.at_level(logging.ERROR):
        results = run_searches(LeakyEngine(), [ask(f"q{number}") for number in range(20)])
    assert {result.failure for result in results} == {"LeakyEngine raised RuntimeError: 401 for key ***"}
    assert caplog.text.count("Traceback") == 1
    assert "zx-81" not in caplog.text


def test_an_engine_error_of_another_author_is_kept() -> None:
    class OtherError(EngineError):
        def __init__(self, code: int, **more: Any) -> None:
            super().__init__(f"code {code}", attempts=7)

    class OtherEngine(EchoEngine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            raise OtherError(3)

    (result,) = run_searches(OtherEngine(), [ask("q")])
    assert (result.failure, result.attempts) == ("code 3", 7)


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "retrieve", "argument": "{}"},
        {"kind": "simulated", "argument": "openai:{}"},
        *({"kind": kind, "url": "{}"} for kind in ("serpapi", "serper", "brave")),
    ],
)
def test_a_server_that_is_silent_fails_a_search_in_time(spec: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines have time limits of their own: an environment waits for a search that never ends."""
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, "a-key")

    async def silent(call: Call) -> None:
        await asyncio.sleep(30)

    with ServerThread(silent) as server:
        options = {name: value.format(server.url) for name, value in spec.items()}
        default: Any = make_engine(options)
        bounded: Any = make_engine(options | {"http": {"total_s": 0.1}})
        (result,) = bounded.search([ask("q")])
        for engine in (default, bounded):
            engine.close()
    assert result.failure
    client = getattr(default, "_client", None) or default._backend.client
    assert client.options == HttpOptions()
    assert all(math.isfinite(getattr(HttpOptions(), name)) for name in ("connect_s", "read_s", "total_s"))
