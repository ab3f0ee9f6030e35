"""`zerosearch mcp`, driven by the library's own client over stdio and HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from real_servers import free_port

from zerosearch_env.commands import mcp as command
from zerosearch_env.commands.mcp import Game, MCPConfig, main, make_game, make_server
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import ConstantEngine, FailingEngine, SearchEngine
from zerosearch_env.envs.session import Session
from zerosearch_env.errors import ConfigError, MissingExtraError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import read_transcripts
from zerosearch_env.types import Question

pytest.importorskip("mcp", reason="mcp is not installed")
QUESTION = Question("q1", "What is the capital of France?", ("Paris",))
SMALL = ["--world.passages", "300", "--seed", "3"]


def game(output: Path, engine: SearchEngine | None = None, **rules: Any) -> Game:
    engine = engine or ConstantEngine()
    session = Session(QUESTION, make_rules(**rules), engine, noise_level=0.5, seed=1)
    return Game(session, engine, 7, output)


def text(result: Any) -> str:
    return str(result.content[0].text)


def play(played: Game, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Call tools one after another, through the library's client in this process."""
    from mcp.client import Client

    async def run() -> list[Any]:
        async with Client(make_server(played)) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(run())


def test_search_and_answer_are_tools_and_the_score_is_written_for_the_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mcp.jsonl"
    found, answered, late = play(
        game(output),
        ("search", {"query": "capital of France"}),
        ("answer", {"text": "Paris"}),
        ("search", {"query": "again"}),
    )
    assert text(found).startswith("Doc 1: Constant 1: ")
    assert text(answered) == "The answer has been recorded. Stop here."
    assert late.is_error
    assert "This question is finished" in text(late)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "zerosearch mcp: answer 'Paris' after 1 searches: EM 1.00, F1 1.00\n"
    (record,) = read_transcripts(output)
    assert (record["scores"]["em"], record["extra"]) == (1.0, {"agent": "mcp", "index": 7})


def test_refusals_and_failures_are_told_to_the_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, wrong, *_, refused = play(
        game(tmp_path / "a", max_turns=2),
        ("answer", {"text": " "}),
        ("search", {}),
        *[("search", {"query": "x"})] * 2,
    )
    assert "All 2 searches are used up. Give the answer now." in text(refused)
    assert refused.is_error
    assert empty.is_error
    assert wrong.is_error
    (failed,) = play(game(tmp_path / "b", FailingEngine("out of order")), ("search", {"query": "x"}))
    assert "out of order" in text(failed)
    assert "no answer after 1 searches: out of order" in capsys.readouterr().err


def test_tools_called_at_the_same_time_are_played_one_after_another(tmp_path: Path) -> None:
    from mcp.client import Client

    played = game(tmp_path / "a")

    async def run() -> list[Any]:
        async with Client(make_server(played)) as client:
            return await asyncio.gather(*(client.call_tool("search", {"query": query}) for query in "abc"))

    assert not any(result.is_error for result in asyncio.run(run()))
    assert played.session.episode.searches == 3


def test_the_agent_learns_the_question_and_nothing_of_the_experiment(tmp_path: Path) -> None:
    from mcp.client import Client

    async def run() -> tuple[Any, Any, Any]:
        async with Client(make_server(game(tmp_path / "a"))) as client:
            tools, prompts = await client.list_tools(), await client.list_prompts()
            return tools, prompts, await client.get_prompt("question")

    tools, prompts, prompt = asyncio.run(run())
    assert [tool.name for tool in tools.tools] == ["search", "answer"]
    assert [listed.name for listed in prompts.prompts] == ["question"]
    task = prompt.messages[0].content.text
    assert QUESTION.text in task
    assert "at most 5 times" in task
    shown = json.dumps([tools.model_dump(mode="json"), task])
    assert "Paris" not in shown
    assert "nois" not in shown


def test_without_an_answer_the_episode_ends_when_the_client_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played = game(tmp_path / "a")
    play(played, ("search", {"query": "x"}))
    for _ in range(2):
        played.end()
    (record,) = read_transcripts(tmp_path / "a")
    assert (record["stop_reason"], record["scores"]["em"]) == ("max_turns", 0.0)
    assert capsys.readouterr().err.count("no answer after 1 searches: EM 0.00") == 1


def test_the_draws_are_those_of_an_evaluation() -> None:
    from zerosearch_env.randomness import mix

    made = make_game(MCPConfig("5", world=WorldConfig(passages=300), seed=3, noise_level=0.5))
    assert made.session.episode.seed == mix(3, 5)
    by_id = make_game(MCPConfig(made.session.episode.question.id, world=WorldConfig(passages=300), seed=3))
    assert by_id.session.episode.question == made.session.episode.question


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question", "100000"], r"no question '100000' in world/test: expected an index from 0 to \d+, or an id"),
        (["--question", "0", "--noise-level", "2"], "noise"),
        (["--question", "0", "--http", "-1"], "cannot listen on port -1"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*arguments, *SMALL])


def test_an_old_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "require", lambda name: SimpleNamespace())
    with pytest.raises(MissingExtraError, match=r"mcp 2 or newer is needed .*zerosearch-env\[mcp\]"):
        main(["--question", "0", *SMALL])


PRINTS = """
from zerosearch_env import ConstantEngine


class Engine(ConstantEngine):
    def search(self, requests):
        print("an engine that prints", flush=True)
        return super().search(requests)


print("a module that prints", flush=True)
engine = Engine()
"""


@pytest.mark.slow
def test_a_client_over_stdio_reads_nothing_but_the_protocol(tmp_path: Path) -> None:
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    (tmp_path / "loud.py").write_text(PRINTS)
    command = ["-m", "zerosearch_env.cli", "mcp", "--question", "2", "--engine", "loud.py:engine", "--output", "out"]
    server = StdioServerParameters(
        command=sys.executable, args=[*command, *SMALL], cwd=str(tmp_path), env=dict(os.environ)
    )

    async def run(log: Any) -> list[str]:
        async with Client(stdio_client(server, errlog=log)) as client:
            assert "Answer this question: " in str(client.instructions)
            found = await client.call_tool("search", {"query": "x"})
            return [text(found), text(await client.call_tool("answer", {"text": "y"}))]

    with (tmp_path / "log").open("w") as log:
        found, answered = asyncio.run(run(log))
    assert found.startswith("Doc 1: ")
    assert answered.startswith("The answer has been recorded")
    printed = (tmp_path / "log").read_text()
    assert "a module that prints" in printed
    assert "an engine that prints" in printed
    assert "answer 'y' after 1 searches: EM 0.00" in printed
    assert [record["scores"]["prediction"] for record in read_transcripts(tmp_path / "out")] == ["y"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_client_over_http_and_the_end_by_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    from mcp.client import Client

    port = free_port()
    command = [sys.executable, "-m", "zerosearch_env.cli", "mcp", "--question", "2", "--http", str(port), *SMALL]
    with subprocess.Popen([*command, "--output", "out"], cwd=tmp_path, stdout=-1, stderr=-1, text=True) as server:
        assert server.stderr is not None
        lines = []
        while not lines or "Ctrl-C stops it" not in lines[-1]:
            lines.append(server.stderr.readline())
        (url,) = re.findall(r"http\S+", lines[-1])

        async def run() -> Any:
            for _ in range(100):
                try:
                    async with Client(url) as client:
                        return await client.call_tool("search", {"query": "x"})
                except Exception:  # it has not started yet
                    await asyncio.sleep(0.1)
            return None

        assert text(asyncio.run(run())).startswith("Doc 1: ")
        time.sleep(0.1)
        server.send_signal(number)
        out, err = server.communicate(timeout=30)
    assert server.returncode == 0
    assert out == ""
    assert "no answer after 1 searches" in err
    assert [record["stop_reason"] for record in read_transcripts(tmp_path / "out")] == ["max_turns"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_a_server_over_stdio_ends_with_its_input_or_by_a_signal(number: signal.Signals | None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zerosearch_env.cli", "mcp", "--question", "2", *SMALL, "--output", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=-1, stdout=-1, stderr=-1, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n")
        server.stdin.flush()
        assert json.loads(server.stdout.readline())["result"]["serverInfo"]["name"] == "zerosearch"
        if number is not None:
            server.send_signal(number)
            server.wait(30)
        out, err = server.communicate(timeout=30)
    assert server.returncode == 0
    assert out == ""
    assert err.splitlines() == ["zerosearch mcp: no answer after 0 searches: EM 0.00, F1 0.00"]
