"""The simulated engine on servers that misbehave, die and come back: no search is lost or made up."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from typing import Any

import gymnasium as gym
import pytest
from sim_fakes import ask

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_benchmarks.speed.chat_server import Call, Handler, Reply, ServerThread, chat, documents
from zerosearch_env.engines import make_engine
from zerosearch_env.errors import EngineError
from zerosearch_env.types import StopReason

ROWS = [{"id": f"q{i}", "question": f"What is thing {i}?", "answers": [f"thing {i}"]} for i in range(40)]


def spec(*urls: str, **http: Any) -> dict[str, Any]:
    bounds = {"attempts": 3, "backoff_s": 0.005, "backoff_cap_s": 0.05, "read_s": 1.0, "total_s": 3.0}
    more = {"breaker_cooldown_s": 0.05, "breaker_failures": 3}
    return {"kind": "simulated", "argument": "openai:" + ",".join(urls), "model": "m", "http": bounds | more | http}


async def honest(call: Call) -> Reply:
    return chat(documents(call.body["messages"][0]["content"]))


def always(reply: Reply) -> Handler:
    async def handler(call: Call) -> Reply:
        return reply

    return handler


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.parametrize(
    ("reply", "message", "attempts"),
    [
        (Reply({"error": "bad key"}, 401), "answered 401", 1),
        (Reply({"error": "no model"}, 404), "answered 404", 1),
        (Reply({}, 429), "after 3 attempts.*429", 3),
        (Reply({}, 500), "after 3 attempts.*500", 3),
        (Reply(b"<html>"), "not JSON", 1),
        (Reply(b'{"choices": ['), "not JSON", 1),
        (chat(""), "no usable documents.*empty", 2),
        (chat("I'm sorry, I cannot help with that."), "refusal", 2),
        (Reply(b" " * 9_000_000), "more than", 1),
    ],
)
def test_bad_answers_truncate_the_episode(reply: Reply, message: str, attempts: int) -> None:
    with ServerThread(always(reply)) as server:
        engine = make_engine(spec(server.url))
        (result,) = engine.search([ask()])
        assert (result.documents, result.attempts) == ((), attempts)
        env = gym.make("ZeroSearch-v0", dataset=ROWS, search_engine=engine)
        env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step("<search>anything</search>")
        env.close()
        engine.close()
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert info["stop_reason"] == StopReason.ENGINE_ERROR
    assert re.search(message, info["error"])


def test_a_wrong_search_leaves_the_others_of_its_batch_alone() -> None:
    async def handler(call: Call) -> Reply:
        text = call.body["messages"][0]["content"]
        return Reply({}, 400) if '"bad"' in text else chat(documents(text))

    with ServerThread(handler) as server:
        engine = make_engine(spec(server.url))
        results = engine.search([ask("good"), ask("bad"), ask("fine")])
        engine.close()
    assert [result.failure is None for result in results] == [True, False, True]
    for query, result in zip(("good", "fine"), results[::2], strict=True):
        assert f'"{query}"' in result.documents[0].text


def test_a_dead_replica_costs_no_search() -> None:
    with ServerThread(honest) as first, ServerThread(honest) as second:
        engine = make_engine(spec(f"http://127.0.0.1:{free_port()}/v1", first.url, second.url))
        results = engine.search([ask(seed=n) for n in range(40)])
        engine.close()
    assert not [result.failure for result in results if result.failure]


def test_a_server_killed_and_started_again_loses_no_episode() -> None:
    """What the episodes see is what they see with a server that never died."""
    port = free_port()

    def play(interrupt: bool) -> list[Any]:
        engine = spec(f"http://127.0.0.1:{port}/v1", attempts=50, total_s=20.0)
        env = gym.make_vec("ZeroSearch-v0", num_envs=8, dataset=ROWS, search_engine=engine, noise_level=0.5)
        env.reset(seed=1)
        seen: list[Any] = []
        servers = [ServerThread(honest, port).__enter__()]
        start_again = threading.Timer(0.15, lambda: servers.append(ServerThread(honest, port).__enter__()))
        for step in range(6):
            if interrupt and step == 2:
                servers.pop().__exit__()
                start_again.start()
            observations, _, _, truncated, infos = env.step([f"<search>s {step}</search>"] * 8)
            seen.append((observations, truncated.tolist()))
            assert "error" not in infos or not any(infos["_error"])
        env.close()
        if interrupt:
            start_again.join()
        servers.pop().__exit__()
        return seen

    assert play(True) == play(False)


def test_a_server_dead_for_good_ends_in_time() -> None:
    with ServerThread(honest) as server:
        url = server.url
    env = gym.make_vec("ZeroSearch-v0", num_envs=8, dataset=ROWS, search_engine=spec(url, total_s=0.3, attempts=100))
    env.reset(seed=0)
    began = time.monotonic()
    _, _, _, truncated, infos = env.step(["<search>anything</search>"] * 8)
    assert time.monotonic() - began < 2
    assert truncated.all()
    assert all("Last cause" in error for error in infos["error"])
    env.close()


def test_closing_ends_a_search_that_waits() -> None:
    arrived = threading.Event()

    async def never(call: Call) -> Reply:
        arrived.set()
        await asyncio.sleep(30)
        return Reply({})

    errors: list[EngineError] = []
    with ServerThread(never) as server:
        engine = make_engine(spec(server.url))

        def work() -> None:
            try:
                engine.search([ask(), ask(seed=2)])
            except EngineError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert arrived.wait(5)
        engine.close()
        thread.join(5)
    assert "closed during the request" in str(errors[0])


def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    may_answer = threading.Event()

    async def slow(call: Call) -> Reply:
        while not may_answer.is_set():
            await asyncio.sleep(0.01)
        return await honest(call)

    with ServerThread(slow) as server:
        engine = make_engine(spec(server.url))

        async def main() -> None:
            gone = asyncio.create_task(engine.asearch(ask(seed=1)))
            stays = asyncio.create_task(engine.asearch(ask(seed=2)))
            await asyncio.sleep(0.02)
            gone.cancel()
            may_answer.set()
            assert (await stays).failure is None
            with pytest.raises(asyncio.CancelledError):
                await gone

        asyncio.run(main())
        engine.close()
