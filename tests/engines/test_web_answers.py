"""Rankings that cannot be read or come in another order, errors in other forms, and what episodes make of failures."""

from __future__ import annotations

import asyncio
import re
import traceback
from typing import Any

import gymnasium as gym
import pytest
from http_fakes import Script, cut
from sim_fakes import ask
from web_fakes import FAST, KEY, VARIABLES, Service, engine, ranks

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.engines.remote.providers import PROVIDERS, AnswerError, QuotaAnswer, used_up, wrong_key
from zerosearch_env.errors import EngineError, QuotaError
from zerosearch_env.llm.http.client import JsonClient
from zerosearch_env.llm.http.options import HttpOptions


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, KEY)


async def babble(call: Call) -> None:
    call.writer.write(b"HTTP/1.1 2oo fine\r\n\r\n")
    await call.writer.drain()


BRAVE_KEY = {
    "type": "ErrorResponse",
    "error": {
        "id": "5d832250-9396-4f6e-b84a-2a1fe524cd7d",
        "status": 422,
        "code": "SUBSCRIPTION_TOKEN_INVALID",
        "detail": "The provided subscription token is invalid.",
        "meta": {"component": "authentication"},
    },
}
BRAVE_QUOTA = {
    "type": "ErrorResponse",
    "errors": [{"code": "QUOTA_LIMITED", "detail": "Request quota limit exceeded for plan.", "status": 429}],
}
NOT_READ = {"searchParameters": {}, "organic": [{"link": "u1"}, {"position": 2}]}


@pytest.mark.parametrize(
    ("provider", "reply", "message", "kind"),
    [
        ("brave", Reply(BRAVE_KEY, 422), "^brave refused the key in BRAVE_API_KEY.*TOKEN_INVALID", None),
        ("brave", Reply({"error": {"code": "VALIDATION"}}, 422), "^http.*answered 422", None),
        ("serper", Reply({"organic": {"title": "a"}}), "expected a list under 'organic', got dict", None),
        ("serpapi", Reply({"organic_results": "none"}), "expected a list under 'organic_results'", None),
        ("brave", Reply({"web": {"results": 3}}), "expected a list under 'results', got int", None),
        ("serper", Reply(NOT_READ), "none of the 2 entries", None),
        ("serpapi", Reply(b"[" * 100_000), "not JSON", None),
        ("brave", Reply(BRAVE_QUOTA, 429), "used up", QuotaError),
        ("brave", Reply({}, 402), "used up", QuotaError),
    ],
)
def test_answers_that_are_no_ranking(provider: str, reply: Reply, message: str, kind: type[EngineError] | None) -> None:
    script = Script(reply)
    with ServerThread(script) as thread:
        client = engine(thread, provider)
        if kind is None:
            (result,) = client.search([ask()])
            said, documents = str(result.failure), result.documents
        else:
            with pytest.raises(kind) as caught:
                client.search([ask()])
            said, documents = str(caught.value), ()
        client.close()
    assert documents == ()
    assert re.search(message, said), said
    assert len(script.calls) == 1


def test_no_key_in_a_traceback() -> None:
    async def main(reply: Any) -> str:
        with ServerThread(Script(reply)) as thread:
            client = JsonClient([thread.url], HttpOptions(**FAST), hidden=[KEY])
            try:
                await client.request("GET", "/search", params={"api_key": KEY})
            except EngineError as error:
                return "".join(traceback.format_exception(error))
            finally:
                await client.aclose()
        raise AssertionError("the request succeeded")

    for reply in (babble, cut, Reply(b"no " + KEY.encode()), Reply({"error": KEY}, 401)):
        text = asyncio.run(main(reply))
        assert "EngineError" in text
        assert "hush" not in text


def test_answers_in_another_order_change_nothing() -> None:
    async def shuffled(call: Call) -> Reply:
        if call.body["q"] == "a":
            await asyncio.sleep(0.05)  # the first request is answered last
        reply = await serving(call)
        reply.body["organic"].reverse()
        return reply

    serving = Service()
    requests = [ask("a"), ask("b"), ask("a", noisy=True), ask("b", noisy=True)]
    with ServerThread(shuffled) as odd, ServerThread(Service()) as even:
        results = []
        for thread in (odd, even):
            client = engine(thread)
            results.append([result.documents for result in client.search(requests)])
            client.close()
    assert results[0] == results[1]
    assert [d.text for d in results[0][1]] == [text for _, _, text in ranks("b", 0, 3, 200)]
    assert not {d.text for d in results[0][2]} & {d.text for d in results[0][0]}


def test_missing_fields_are_no_failure() -> None:
    organic = [{"snippet": "text"}, {"title": "title"}, {"link": "u"}, None, {"title": ["x"], "snippet": 3, "link": 4}]
    with ServerThread(Script(Reply({"organic": organic}), Reply({"organic": []}))) as thread:
        client = engine(thread)
        (result,) = client.search([ask(top_k=9)])
        client.close()
    assert result.failure is None
    assert [(d.title, d.text, d.source) for d in result.documents] == [
        ("", "text", ""),
        ("", "title", ""),
        ("x", "3", ""),
    ]


def test_errors_of_brave_in_either_form() -> None:
    read = PROVIDERS["brave"].read
    with pytest.raises(QuotaAnswer, match="QUOTA_LIMITED"):
        read(BRAVE_QUOTA)
    with pytest.raises(AnswerError, match="TOKEN_INVALID"):
        read(BRAVE_KEY)
    assert used_up(402, b"")
    assert not wrong_key(422, "answered 422: VALIDATION of q")
    assert not wrong_key(500, "SUBSCRIPTION_TOKEN_INVALID")


def test_a_service_that_dies_ends_every_episode_of_a_vector_env() -> None:
    with ServerThread(Service()) as thread:
        spec = {"kind": "serper", "url": thread.url, "http": FAST, "rate": 1e6}
        envs = gym.make_vec("ZeroSearch-v0", num_envs=3, search_engine=spec, noise_level=0.5)
        envs.reset(seed=0)
        _, _, _, truncated, _ = envs.step(tuple(f"<search>lighthouse {number}</search>" for number in range(3)))
        assert not truncated.any()
    _, rewards, terminated, truncated, infos = envs.step(("<search>harbour</search>",) * 3)
    envs.close()
    assert truncated.all()
    assert not terminated.any()
    assert not rewards.any()
    assert all("failed after 2 attempts" in error for error in infos["error"])


def test_a_used_up_budget_ends_the_episode_with_its_reason() -> None:
    with ServerThread(Service()) as thread:
        spec = {"kind": "serper", "url": thread.url, "http": FAST, "rate": 1e6, "max_requests": 1}
        env = gym.make("ZeroSearch-v0", search_engine=spec)
        env.reset(seed=0)
        env.step("<search>lighthouse</search>")
        _, _, _, truncated, info = env.step("<search>harbour</search>")
        env.close()
    assert truncated
    assert "max_requests=1" in info["error"]
