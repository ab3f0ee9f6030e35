"""The module for verifiers, by `vf-eval` against a local server, and in process: `make test-verifiers`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verifiers", reason="verifiers is not installed: make test-verifiers")

import gymnasium as gym

import zerosearch_verifiers
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, take_turn
from zerosearch_env import SessionSource, register_engine
from zerosearch_env.engines.testing import FailingEngine
from zerosearch_env.errors import ConfigError, EngineError, MissingExtraError

pytestmark = pytest.mark.timeout(600)

WORLD = {"passages": 300}
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "frameworks" / "verifiers.md").read_text("utf-8")


class StreamingModel:
    """An OpenAI-compatible endpoint that streams, as verifiers asks for, and that cuts stop strings off.

    Args:
        turn: the messages so far -> the text of the next turn.
    """

    def __init__(self, turn: Callable[[list[dict[str, str]]], str] = take_turn) -> None:
        self._turn = turn
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, call: Call) -> Reply:
        if not call.path.endswith("/chat/completions"):
            return Reply({"object": "list", "data": [{"id": "local", "object": "model"}]})
        self.bodies.append(call.body)
        text = self._turn(call.body["messages"])
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "local"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": text}, None), ({}, "stop")]
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas
        ]
        lines = [*map(json.dumps, chunks), json.dumps({**head, "choices": [], "usage": usage}), "[DONE]"]
        body = "".join(f"data: {line}\n\n" for line in lines).encode()
        return Reply(body, headers={"Content-Type": "text/event-stream"})


def evaluate(folder: Path, url: str, count: int, arguments: str | None = None) -> list[dict[str, Any]]:
    """Run the page's command with a local model, few tasks, and other arguments; returns a record per episode."""
    (line,) = re.findall(r"^vf-eval .*?(?=^```)", PAGE, re.MULTILINE | re.DOTALL)
    command = shlex.split(line.replace("\\\n", " "))
    changes = {"-m": "local", "--client.base-url": url, "-n": str(count), "-r": "1"}
    changes |= {} if arguments is None else {"--env.taskset.arguments": arguments}
    for option, value in changes.items():
        command[command.index(option) + 1] = value
    command[0] = str(Path(sys.executable).parent / "vf-eval")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # verifiers calls uv
    own = {"NO_KEY": "none", "PATH": path, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (traces,) = folder.glob("outputs/**/traces.jsonl")
    return [json.loads(line) for line in traces.read_text("utf-8").splitlines()]


class Trace:
    """What the environment records."""

    def __init__(self) -> None:
        self.rewards: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.record_reward, self.record_metric = self.rewards.__setitem__, self.metrics.__setitem__
        self.record_metrics = self.metrics.update


class Player:
    """An agent of verifiers without its processes: it writes the given turns, and then none (a limit was reached).

    Args:
        turns: the model's replies.
    """

    def __init__(self, *turns: str) -> None:
        self._turns = iter(turns)
        self.read: list[str] = []
        self.trace = Trace()

    @contextlib.asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[Player]:
        self.read = [message.content for message in task.data.prompt]
        yield self

    async def turn(self, message: str | None = None) -> SimpleNamespace:
        self.read += [] if message is None else [message]
        text = next(self._turns, None)
        return SimpleNamespace(terminated=text is None, last_reply=(text or "").strip())


def make_env(**options: Any) -> Any:
    """The environment, made from a configuration as verifiers makes it."""
    taskset = {"id": "zerosearch-verifiers", "arguments": {"world": WORLD}} | options
    return zerosearch_verifiers.ZeroSearchEnv(
        zerosearch_verifiers.ZeroSearchEnvConfig.model_validate({"taskset": taskset})
    )


def play(env: Any, *turns: str, index: int = 0, row: dict[str, Any] | None = None) -> Player:
    """Play one task with these turns."""
    task = next(itertools.islice(env.taskset, index, None))
    if row is not None:
        task = task.with_data(row=row)
    player = Player(*turns)
    asyncio.run(env.run(task, SimpleNamespace(player=player)))
    return player


def test_texts_noise_and_reward_are_those_of_the_environment() -> None:
    gym_env = gym.make("ZeroSearch-v0", world=WORLD, noise_level=0.5)
    env = make_env(noise_level=0.5)
    compared = []
    for seed in range(3):
        prompt, _ = gym_env.reset(seed=seed)
        episode = gym_env.unwrapped.episode
        answer = f"<answer>{episode.question.answers[0]}</answer>"
        turns = [f"<search>{episode.question.text}</search>", "no action", "<search>who founded it</search>", answer]
        read, flags = [prompt], []
        for turn in turns:
            observation, reward, terminated, _, info = gym_env.step(turn)
            read += [] if terminated else [observation.strip()]
            flags += info["noise_flags"]
        index = env.taskset.config.source().dataset.questions.index(episode.question)
        tasks = list(env.taskset)
        assert [message.content for message in tasks[index].data.prompt] == [prompt]
        player = play(env, *turns, index=index, row={**tasks[index].data.row, "seed": episode.seed})
        assert player.read == read
        assert player.trace.rewards == {"reward": reward} == {"reward": 1.0}
        noisy = player.trace.metrics["noisy_searches"]
        assert noisy == sum(flags)
        compared.append(noisy)
    assert len(set(compared)) > 1


def test_a_cut_off_stop_string_is_put_back() -> None:
    env = make_env()
    assert env.config.player.sampling.model_dump()["stop"] == ["</search>", "</answer>"]
    player = play(env, "Look. <search>the lake", "It is <answer>unknown")
    assert player.trace.metrics["searches"] == player.trace.metrics["answered"] == 1
    kept = {"player": {"sampling": {"stop": ["###"], "temperature": 0.5}}, "taskset": {"id": "zerosearch-verifiers"}}
    config = zerosearch_verifiers.ZeroSearchEnvConfig.model_validate(kept)
    sampling = zerosearch_verifiers.ZeroSearchEnv(config).config.player.sampling.model_dump()
    assert (sampling["stop"], sampling["temperature"]) == (["###"], 0.5)


def test_an_agent_that_never_answers_ends_at_the_limit_of_turns() -> None:
    player = play(make_env(), *["I do not know."] * 20)
    assert len(player.read) == 6  # the prompt, and a notice after each of the five turns
    assert player.trace.rewards == {"reward": 0.0}
    assert player.trace.metrics["answered"] == 0


def test_more_searches_than_allowed_and_an_empty_answer() -> None:
    player = play(make_env(), "<answer> </answer>", *["<search>the lake</search>"] * 9)
    assert player.trace.metrics["searches"] == 4
    assert player.trace.rewards == {"reward": 0.0}


def test_a_limit_of_verifiers_ends_the_episode() -> None:
    player = play(make_env(), "<search>the lake</search>")
    assert player.trace.rewards == {"reward": 0.0}
    assert player.trace.metrics["answered"] == 0


def test_a_failed_engine_raises_and_records_no_reward() -> None:
    register_engine("out-of-order", lambda argument, dataset: FailingEngine("out of order"))
    env = make_env(arguments={"world": WORLD, "search_engine": "out-of-order"})
    player = Player("<search>the lake</search>")
    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(env.run(next(iter(env.taskset)), SimpleNamespace(player=player)))
    assert player.trace.rewards == {}


def test_the_level_of_a_schedule_is_that_of_the_progress() -> None:
    schedule = {"noise_schedule": "linear", "noise_end": 1.0, "curriculum_episodes": 4, "world": WORLD}
    env = make_env(arguments=schedule)
    answer = "<answer>unknown</answer>"
    assert [play(env, answer).trace.metrics["noise_level"] for _ in range(3)] == [0.0, 0.25, 0.5]
    SessionSource.shared(dataset="world", split="train", noise_level=None, **schedule).set_progress(1.0)
    assert play(env, answer).trace.metrics["noise_level"] == 1.0


def test_tasks_travel_without_gold_answers_and_share_one_source() -> None:
    first, second = make_env(), make_env()
    assert first.taskset.config.source() is second.taskset.config.source()
    task = next(iter(first.taskset))
    question = first.taskset.config.source().dataset.questions[0]
    sent = task.data.model_dump_json()
    assert question.text in sent
    assert not any(answer in sent for answer in question.answers)


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'max_turn'\. Did you mean 'max_turns'\?"):
        make_env(arguments={"max_turn": 3})


@pytest.mark.parametrize(("version", "problem"), [("0.3.9", "too old"), ("0.5.0", "too new")])
def test_another_version_is_refused(version: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    monkeypatch.delitem(sys.modules, "zerosearch_verifiers")
    message = rf"verifiers {version} is {problem}: .* 0\.4\. .*zerosearch-env\[verifiers\]"
    with pytest.raises(MissingExtraError, match=message):
        importlib.import_module("zerosearch_verifiers")


def test_vf_eval_plays_against_a_local_server(tmp_path: Path) -> None:
    model = StreamingModel()
    with ServerThread(model) as server:
        episodes = evaluate(tmp_path, server.url, 2)
    assert len(episodes) == 2
    source = SessionSource(protocol="search-r1", max_turns=3, noise_level=0.5)
    for episode in episodes:
        assert episode["ok"]
        (trace,) = episode["traces"]
        assert trace["metrics"]["searches"] == 3
        assert trace["rewards"]["reward"]["score"] == 0.0
        session = source.start_row(episode["task"]["data"]["row"])
        read = [session.prompt]
        for number in range(3):
            read.append(session.turn(f"I look it up. <search>treaty {number}</search>").observation.strip())
        last = max(
            (body["messages"] for body in model.bodies if body["messages"][0]["content"] == session.prompt), key=len
        )
        assert [message["content"] for message in last if message["role"] == "user"] == read
    assert {tuple(body["stop"]) for body in model.bodies} == {("</search>", "</answer>")}


def test_vf_eval_leaves_episodes_with_a_failed_engine_out(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "from zerosearch_env.engines.testing import FailingEngine\nengine = FailingEngine('out of order')\n"
    )
    with ServerThread(StreamingModel()) as server:
        arguments = json.dumps({"world": WORLD, "search_engine": "failing.py:engine"})
        (episode,) = evaluate(tmp_path, server.url, 1, arguments)
    assert not episode["ok"]
    assert "out of order" in json.dumps(episode["errors"])
    assert episode["traces"][0]["rewards"] == {}


def test_the_python_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(block, {"__name__": "__main__"})
    questions = SessionSource(split="test").dataset.questions
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [question.id for question in questions[:3]]
