"""Agents that own their loop on bad days: exceptions, exits, hangs, failed engines, processes that die."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tool_episodes import actions, episodes, number, play, play_one

from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.make import make_tool_player
from zerosearch_agents.players.tool_agents import ToolAgentPlayer
from zerosearch_env.engines import ConstantEngine, FailingEngine
from zerosearch_env.errors import AgentError, ConfigError, EngineError, EpisodeError
from zerosearch_env.types import StopReason


def fails_for_two(cause: Callable[[], Any]) -> tuple[Any, Counter[str]]:
    """An agent that fails once for question 2, after its first search; `cause` raises, or returns no string."""
    calls: Counter[str] = Counter()

    def agent(question: str, search: Any) -> Any:
        calls[question] += 1
        search(question)
        if question == "What is 2?" and calls[question] == 1:
            return cause()
        return number(question)

    return agent, calls


FAILURES = {
    "exception": lambda: 1 / 0,
    "exit": lambda: sys.exit(0),
    "no text": lambda: None,
    "a coroutine": lambda: asyncio.sleep(0),
    "hangs": lambda: time.sleep(0.5),
}


@pytest.mark.parametrize("cause", FAILURES)
def test_every_failure_is_counted_skipped_or_retried(cause: str) -> None:
    limit = {"turn_timeout_s": 0.1} if cause == "hangs" else {}
    agent, _ = fails_for_two(FAILURES[cause])
    with pytest.raises(AgentError, match="question 'row-2', after 1 searches: "):
        play(agent, count=4, **limit)
    agent, _ = fails_for_two(FAILURES[cause])
    played = play(agent, count=4, on_error="skip", **limit)
    assert [episode.stop_reason for episode in played] == [
        StopReason.AGENT_ERROR if i == 2 else StopReason.ANSWER for i in range(4)
    ]
    assert actions(played[2]) == ["search", "invalid"]
    agent, calls = fails_for_two(FAILURES[cause])
    played = play(agent, count=4, on_error="retry", **limit)
    assert [actions(episode) for episode in played] == [["search", "answer"]] * 4
    assert calls["What is 2?"] == 2


async def async_exit(question: str, search: Any) -> str:
    sys.exit("bye")


async def cancelled(question: str, search: Any) -> str:
    raise asyncio.CancelledError


async def sleeps(question: str, search: Any) -> str:
    await asyncio.sleep(30)
    return ""


async def no_text(question: str, search: Any) -> Any:
    return 7


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (async_exit, "SystemExit: bye"),
        (cancelled, "CancelledError"),
        (sleeps, "no reply within 0.1 s"),
        (no_text, r"expected the answer \(str\), got int: 7"),
        (lambda question, search: search(7), "TypeError: the query must be a string, got int: 7"),
    ],
)
def test_the_cause_of_a_failure_is_named(agent: Any, message: str) -> None:
    for episode in play(agent, count=2, on_error="skip", turn_timeout_s=0.1):
        assert episode.stop_reason is StopReason.AGENT_ERROR
        assert re.search(message, str(episode.turns[-1].step.error))


def test_the_time_limit_is_that_of_a_turn_without_the_engine() -> None:
    class Slow(ConstantEngine):
        def search(self, requests: Any) -> Any:
            time.sleep(0.2)
            return super().search(requests)

    def agent(question: str, search: Any) -> str:
        for query in "abc":
            search(query)
        return "0"

    assert play_one(agent, engine=Slow(), turn_timeout_s=0.15).stop_reason is StopReason.ANSWER


def test_an_agent_that_was_left_behind_cannot_play_on() -> None:
    go, gone = threading.Event(), threading.Event()

    def agent(question: str, search: Any) -> str:
        search("a")
        go.wait(5)
        try:
            search("late")
        finally:
            gone.set()
        return "0"

    episode = play_one(agent, on_error="skip", turn_timeout_s=0.05)
    go.set()
    assert gone.wait(5)
    assert actions(episode) == ["search", "invalid"]
    assert episode.searches == 1


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_an_evaluation_that_is_stopped_does_not_wait_for_agents_that_hang(is_async: bool, on_error: Any) -> None:
    hang, all_play = threading.Event(), threading.Barrier(3)

    def agent(question: str, search: Any) -> str:
        search(question)
        all_play.wait(5)
        if number(question) == "1":
            raise ConfigError("stop")
        hang.wait(600)
        return ""

    async def awaits(question: str, search: Any) -> str:
        await search(question)
        await asyncio.to_thread(all_play.wait, 5)
        if number(question) == "1":
            raise RuntimeError("stop")
        await asyncio.sleep(600)
        return ""

    class Stops(ToolAgentPlayer):
        def begin(self, episode: Any, engine: Any, instance: Any) -> Any:
            play_turn = super().begin(episode, engine, instance)

            def play_and_stop() -> None:
                try:
                    play_turn()
                except AgentError as error:
                    if "stop" in str(error):
                        raise RuntimeError("whatever ends the evaluation") from error
                    raise

            return play_and_stop

    played = episodes(3)
    player = Stops(awaits if is_async else agent, options=AgentOptions(concurrency=3, on_error=on_error))
    with pytest.raises(RuntimeError, match="whatever ends"):
        player.play(played, ConstantEngine())
    assert [episode.done for episode in played] == [False] * 3
    hang.set()
    player.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_engine_ends_the_episode_and_the_agent(is_async: bool) -> None:
    raised: list[BaseException] = []

    def agent(question: str, search: Any) -> str:
        try:
            search("a")
        except Exception as error:
            raised.append(error)
            raise
        return "0"

    async def awaits(question: str, search: Any) -> str:
        try:
            await search("a")
        except Exception as error:
            raised.append(error)
            raise
        return "0"

    episode = play_one(awaits if is_async else agent, engine=FailingEngine("down"), on_error="stop")
    assert episode.stop_reason is StopReason.ENGINE_ERROR
    assert isinstance(raised[0], EpisodeError | EngineError)


@pytest.mark.parametrize("cause", [RuntimeError("no key"), SystemExit(1)])
def test_a_constructor_may_fail_too(cause: BaseException) -> None:
    class Broken:
        def __init__(self) -> None:
            raise cause

        def __call__(self, question: str, search: Any) -> str:
            return ""

    with pytest.raises(AgentError, match=f"could not be instantiated: {type(cause).__name__}"):
        play(Broken)


def test_wrong_agents_are_named() -> None:
    with pytest.raises(ConfigError, match=r"must take \(question, search\)"):
        play(lambda question: "x")
    with pytest.raises(ConfigError, match=r"expected module:name or file\.py:name"):
        ToolAgentPlayer("agent")
    for source in ("baseline:rag", "tiny", "tools.py", "openai:http://127.0.0.1:9/v1"):
        with pytest.raises(ConfigError, match=r"expected your own .*with --agent"):
            make_tool_player(source)
    with pytest.raises(ConfigError, match="isolate needs an agent given as module:callable"):
        ToolAgentPlayer(sleeps, options=AgentOptions(isolate=True))


# In a process of its own


ISOLATED = """
import os, sys, time


class Agent:
    def __init__(self):
        self.searches = 0

    def __call__(self, question, search):
        assert search("a").startswith("Doc 1: ")
        self.searches += 1
        return f"{self.searches} {os.getpid()}"


async def awaits(question, search):
    return str(len((await search("a")).splitlines()))


def bad(question, search):
    number = int(question[8:-1])
    if number == 1:
        search("a")
        os._exit(7)
    if number == 2:
        raise KeyError("lost")
    if number == 3:
        time.sleep(60)
    if number == 4:
        return None
    if number == 5:
        return str([search("more") for _ in range(6)])
    if number == 6:
        while True:
            try:
                search("more")
            except Exception:
                pass
    return str(number)


def one_argument(question):
    return ""
"""


@pytest.fixture
def isolated_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "isolated_tools.py").write_text(ISOLATED)
    monkeypatch.chdir(tmp_path)
    return "isolated_tools.py"


@pytest.mark.slow
def test_an_isolated_agent_searches_from_its_own_process(isolated_file: str) -> None:
    played = play(f"{isolated_file}:Agent", count=6, isolate=True, concurrency=2)
    answers = [str(episode.scores.prediction).split() for episode in played if episode.scores]
    assert [actions(episode) for episode in played] == [["search", "answer"]] * 6
    assert {answer[0] for answer in answers} == {"1"}
    assert 1 <= len({pid for _, pid in answers} - {str(os.getpid())}) <= 2
    assert play_one(f"{isolated_file}:awaits", isolate=True).scores.prediction == "2"  # type: ignore[union-attr]


@pytest.mark.slow
def test_an_isolated_agent_that_dies_or_hangs_fails_alone(isolated_file: str) -> None:
    played = play(f"{isolated_file}:bad", count=8, isolate=True, on_error="skip", turn_timeout_s=2.0)
    errors = [str(episode.turns[-1].step.error) for episode in played]
    for i, message in enumerate(
        [r"ended \(exit status 7\)", r"KeyError: 'lost' \(isolated_tools.py:\d+\)", "within 2 s", "got NoneType"], 1
    ):
        assert re.search(message, errors[i])
    reasons = [episode.stop_reason for episode in played]
    assert reasons[5:7] == [StopReason.MAX_TURNS] * 2
    assert reasons[0] is reasons[7] is StopReason.ANSWER
    with pytest.raises(ConfigError, match=r"must take \(question, search\)"):
        play(f"{isolated_file}:one_argument", isolate=True)
