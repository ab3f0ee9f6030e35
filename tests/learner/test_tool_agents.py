"""Agents that own their loop: the same draws, limits and failures as for every other agent, on good days and bad."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_episodes import actions, episodes, number, play, play_one

from zerosearch_agents.commands.evaluate import main
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.players.tool_agents import MOST_REFUSED, ToolAgentPlayer
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import ConfigError, EpisodeError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import read_transcripts, transcript_record
from zerosearch_env.types import Question, StopReason

RULES = make_rules(max_turns=3, top_k=2)


def once(question: str, search: Callable[[str], str]) -> str:
    search(question)
    return number(question)


async def once_async(question: str, search: Any) -> str:
    await search(question)
    return number(question)


class Remembers:
    """Answers with the number in the only question that it was asked."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.questions: list[str] = []

    def __call__(self, question: str, search: Any) -> str:
        self.questions.append(question)
        search(question)
        return number(self.questions[0])


class RemembersAsync(Remembers):
    def __init__(self) -> None:
        asyncio.get_running_loop()  # as an async client would
        super().__init__()

    async def __call__(self, question: str, search: Any) -> str:
        self.questions.append(question)
        await search(question)
        return number(self.questions[0])


@pytest.mark.parametrize("agent", [once, once_async, Remembers, RemembersAsync])
@pytest.mark.parametrize("options", [{}, {"concurrency": 4}, {"turn_timeout_s": 5.0}, {"on_error": "retry"}])
def test_sync_and_async_functions_and_classes_keep_their_episodes_apart(agent: Any, options: dict[str, Any]) -> None:
    Remembers.made = RemembersAsync.made = 0
    played = play(agent, count=6, **options)
    assert [episode.scores.em for episode in played if episode.scores] == [1.0] * 6
    assert [actions(episode) for episode in played] == [["search", "answer"]] * 6
    if isinstance(agent, type):
        assert agent.made == 6  # type: ignore[attr-defined]


# The episode is that of a turn agent


QUERIES = st.lists(st.text("ab <>\u200b", min_size=1, max_size=4), max_size=3)


@settings(max_examples=8, deadline=None)
@given(
    queries=QUERIES,
    level=st.floats(0, 1),
    unit=st.sampled_from(["search", "document"]),
    protocol=st.sampled_from(["zerosearch", "hermes"]),
)
def test_the_draws_and_the_transcript_are_those_of_an_agent_that_takes_turns(
    queries: list[str], level: float, unit: str, protocol: str
) -> None:
    chosen = make_rules(max_turns=3, noise_unit=unit, protocol=protocol)
    turns, tools = (
        [Episode(Question(f"q{i}", "What?", ("x",)), chosen, noise_level=level, seed=i) for i in range(3)]
        for _ in range(2)
    )

    def takes_turns(observation: str, info: dict[str, Any]) -> str:
        actions = [*map(chosen.protocol.render_search, queries), chosen.protocol.render_answer("x")]
        return actions[info["turn"]]

    def owns_its_loop(question: str, search: Any) -> str:
        for query in queries:
            with suppress(EpisodeError):
                search(query)
        return "x"

    CallablePlayer(takes_turns).play(turns, ConstantEngine())
    ToolAgentPlayer(owns_its_loop).play(tools, ConstantEngine())
    assert [transcript_record(episode) for episode in tools] == [transcript_record(episode) for episode in turns]


def test_the_documents_come_as_text_and_the_last_ones_with_a_notice() -> None:
    texts = []

    def agent(question: str, search: Any) -> str:
        texts.extend(search(query) for query in ("a", "b", "c"))
        return "0"

    play_one(agent)
    documents = "Doc 1: Constant 1: This passage was written before anyone asked.\nDoc 2: Constant 2: "
    assert texts[0] == texts[1]
    assert texts[0].startswith("Doc 1: Constant 1: ")
    assert len(texts[0].splitlines()) == 2, documents
    assert texts[2] == f"{texts[0]}\nAll 3 searches are used up. Give the answer now."


def test_search_describes_itself_as_a_tool() -> None:
    found: list[Any] = []

    def agent(question: str, search: Any) -> str:
        found.append(search)
        return "0"

    async def awaits(question: str, search: Any) -> str:
        found.append(search)
        return "0"

    play_one(agent)
    play_one(awaits)
    assert [tool.__name__ for tool in found] == ["search", "search"]
    assert found[0].__doc__ == found[1].__doc__
    assert "query: " in found[0].__doc__


# More searches than allowed, and answers that are none


def test_a_search_too_many_is_refused_and_the_answer_counts() -> None:
    refusals = []

    def agent(question: str, search: Any) -> str:
        for _ in range(6):
            try:
                search("more")
            except EpisodeError as error:
                refusals.append(str(error))
        return "0"

    episode = play_one(agent)
    assert refusals == ["All 3 searches are used up. Give the answer now."] * 3
    assert episode.stop_reason is StopReason.ANSWER
    assert episode.searches == 3


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_that_lets_the_refusal_pass_has_no_answer(is_async: bool) -> None:
    def agent(question: str, search: Any) -> str:
        return str([search("more") for _ in range(6)])

    async def awaits(question: str, search: Any) -> str:
        return str([await search("more") for _ in range(6)])

    episode = play_one(awaits if is_async else agent, on_error="stop")
    assert episode.stop_reason is StopReason.MAX_TURNS
    assert episode.scores is not None
    assert (episode.scores.prediction, episode.searches) == (None, 3)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_that_never_stops_searching_ends_with_its_episode(is_async: bool) -> None:
    calls = [0]

    def agent(question: str, search: Any) -> None:
        while True:
            calls[0] += 1
            with suppress(Exception):
                search("more")

    async def awaits(question: str, search: Any) -> None:
        while True:
            calls[0] += 1
            with suppress(Exception):
                await search("more")

    episode = play_one(awaits if is_async else agent, on_error="stop")
    assert episode.stop_reason is StopReason.MAX_TURNS
    assert calls[0] <= 3 + MOST_REFUSED + 3
    assert not [thread for thread in threading.enumerate() if thread.name == "zerosearch-agent"]


@pytest.mark.parametrize("answer", ["", "  ", "\u200b"])
def test_an_empty_answer_is_no_answer(answer: str) -> None:
    episode = play_one(lambda question, search: answer)
    assert episode.stop_reason is StopReason.MAX_TURNS
    assert episode.scores is not None
    assert (episode.scores.prediction, episode.scores.em) == (None, 0.0)


def test_an_empty_query_uses_up_a_turn() -> None:
    def agent(question: str, search: Any) -> str:
        with pytest.raises(EpisodeError, match="The query is empty"):
            search(" ")
        return "0"

    episode = play_one(agent)
    assert actions(episode) == ["invalid", "answer"]


def test_an_endless_answer_is_too_long() -> None:
    episode = play_one(lambda question, search: "x" * 200, rules={"max_action_chars": 100})
    assert episode.stop_reason is StopReason.TOO_LONG


# Searches at the same time, and too late


def test_searches_at_the_same_time_are_played_one_after_another() -> None:
    async def gathers(question: str, search: Any) -> str:
        texts = await asyncio.gather(*(search(query) for query in "abcd"), return_exceptions=True)
        assert [type(text) for text in texts] == [str, str, str, EpisodeError]
        return number(question)

    def from_threads(question: str, search: Any) -> str:
        def ask(query: str) -> object:
            try:
                return search(query)
            except EpisodeError as error:
                return error

        with ThreadPoolExecutor(4) as pool:
            kinds = Counter(map(type, pool.map(ask, "abcd")))
        assert kinds == {str: 3, EpisodeError: 1}
        return number(question)

    for agent in (gathers, from_threads):
        for concurrency in (1, 2):
            for episode in play(agent, count=3, concurrency=concurrency):
                assert actions(episode) == ["search"] * 3 + ["answer"]
                assert episode.searches == 3
    queries = [turn.step.query for turn in play_one(gathers).turns]
    assert queries[:3] == ["a", "b", "c"]


def test_a_search_after_the_answer_is_refused() -> None:
    kept: list[Any] = []

    def agent(question: str, search: Any) -> str:
        kept.append(search)
        return "0"

    episode = play_one(agent)
    with pytest.raises(EpisodeError, match="This question is finished"):
        kept[0]("late")
    assert actions(episode) == ["answer"]

    async def awaits(question: str, search: Any) -> str:
        kept.append(asyncio.ensure_future(late(search)))
        return "0"

    outcome: list[str] = []

    async def late(search: Any) -> None:
        await asyncio.sleep(0.01)
        try:
            await search("late")
        except EpisodeError as error:
            outcome.append(str(error))

    player = ToolAgentPlayer(awaits)
    player.play(episodes(1), ConstantEngine())
    deadline = time.monotonic() + 5
    while not outcome and time.monotonic() < deadline:
        time.sleep(0.005)
    player.close()
    assert "This question is finished" in outcome[0]


def test_a_search_that_the_agent_no_longer_waits_for_does_not_take_place() -> None:
    async def agent(question: str, search: Any) -> str:
        first, second = asyncio.ensure_future(search("a")), asyncio.ensure_future(search("b"))
        second.cancel()
        return f"{len(await first)}"

    episode = play_one(agent)
    assert [turn.step.query for turn in episode.turns] == ["a", None]


# In an evaluation


AGENTS = """
def turns(observation, info):
    if info["searches"] < 2:
        return f"<search>{info['question']}</search>"
    return "<answer>x</answer>"


def tools(question, search):
    search(question)
    search(question)
    return "x"
"""


@pytest.mark.slow
def test_the_command_plays_both_kinds_of_agents_with_the_same_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("both.py").write_text(AGENTS)
    command = ["--agent", "turns=both.py:turns", "--tool-agent", "tools=both.py:tools", "--noise", "0.5"]
    command += ["--world.passages", "300", "--questions", "8", "--output", "out"]
    assert main(command) == 0
    flags: dict[str, list[Any]] = {}
    for path in Path("out/transcripts").glob("*.jsonl"):
        for record in read_transcripts(path):
            flags.setdefault(record["extra"]["agent"], []).append([turn["noisy"] for turn in record["turns"]])
    assert flags["turns"] == flags["tools"]
    assert len({str(flag) for flag in flags["tools"]}) > 1
    cells = {cell.agent: cell for cell in load_evaluation(Path("out")).cells}
    assert set(cells) == {"turns", "tools"}
    capsys.readouterr()
    Path("both.py").write_text(AGENTS.replace('return "x"', 'return "y"'))
    assert main(command) == 0
    assert "the code of the agent tools" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="two agents are called 'a'"):
        main(["--agent", "a=both.py:turns", "--tool-agent", "a=both.py:tools", "--output", "out2"])
    with pytest.raises(ConfigError, match="pass --agent or --tool-agent"):
        main(["--output", "out2"])


def test_an_evaluation_continues_with_the_questions_that_are_missing(tmp_path: Path) -> None:
    from zerosearch_agents.evaluation.store import Store

    asked: list[str] = []
    broken = [True]

    def agent(question: str, search: Any) -> str:
        asked.append(question)
        if broken[0] and question == "What is 2?":
            raise RuntimeError("429")
        return number(question)

    questions = [episode.question for episode in episodes(5)]
    for _ in range(2):
        player = ToolAgentPlayer(agent, name="a", options=AgentOptions(on_error="skip"))
        store = Store(tmp_path, {"seed": 0}, {"a": {}})
        (cell,) = evaluate(player, questions, ConstantEngine(), RULES, [0.5], store=store).cells
        broken[0] = False
    assert cell.complete
    assert asked == [question.text for question in questions] + ["What is 2?"]


@pytest.mark.slow
def test_an_evaluation_that_was_killed_plays_no_finished_episode_again(tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(
        "import os, signal\n\n\ndef agent(question, search):\n"
        "    with open('asked', 'a') as file:\n        print(question, file=file)\n"
        "    search(question)\n"
        "    if len(open('asked').readlines()) == 4:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return 'x'\n"
    )
    command = [sys.executable, "-m", "zerosearch_env.cli", "eval", "--tool-agent", "killer.py:agent"]
    command += ["--world.passages", "300", "--questions", "5", "--noise", "0.5", "--output", "out"]
    runs = [subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode for _ in range(2)]
    assert runs == [-signal.SIGKILL, 0]
    assert sorted(Counter((tmp_path / "asked").read_text().splitlines()).values()) == [1, 1, 1, 1, 2]
