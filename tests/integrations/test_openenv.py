"""The OpenEnv server, played by OpenEnv's own clients: `make test-openenv`."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openenv", reason="openenv is not installed: make test-openenv")

import gymnasium as gym
import httpx
from env_fakes import ANSWER, SEARCH, EchoEngine, make_dataset
from openenv.core import CallToolAction, GenericEnvClient
from openenv.core.mcp_client import MCPToolClient

from zerosearch_env import SessionSource, rows
from zerosearch_env.engines.testing import FailingEngine
from zerosearch_env.errors import ConfigError, MissingExtraError
from zerosearch_env.integrations.openenv import make_app
from zerosearch_env.integrations.openenv.serve import environment_arguments, guarded, make_server
from zerosearch_env.serve.access import open_socket
from zerosearch_env.serve.command import ServeConfig

Start = Callable[..., str]


class Running:
    """A server in a thread."""

    def __init__(self, app: Any) -> None:
        listener = open_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = make_server(app, grace_s=1)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve(sockets=[listener])), daemon=True)
        self.thread.start()


@pytest.fixture
def serve() -> Iterator[Start]:
    """`serve(source or app)` starts a server for this test and returns its address."""
    running: list[Running] = []

    def start(served: Any, **options: Any) -> str:
        running.append(Running(make_app(served, **options) if isinstance(served, SessionSource) else served))
        return running[-1].url

    yield start
    for server in running:
        server.server.should_exit = True
        server.thread.join(20)
        assert not server.thread.is_alive()


def source(**arguments: Any) -> SessionSource:
    return SessionSource(**{"dataset": make_dataset(), "search_engine": EchoEngine(), "noise_level": 0.5} | arguments)


def test_texts_noise_and_rewards_are_those_of_the_environment(serve: Start) -> None:
    arguments = {"dataset": make_dataset(), "noise_level": 0.5, "reward": "f1"}
    env = gym.make("ZeroSearch-v0", search_engine=EchoEngine(), **arguments)
    turns = [SEARCH.format(1), "no tag", SEARCH.format(2), SEARCH.format(3), ANSWER]
    with GenericEnvClient(base_url=serve(source(**arguments))).sync() as client:
        for seed in (7, None, 3):  # None: the next episode of the same generator
            prompt, info = env.reset(seed=seed)
            result = client.reset(seed=seed, episode_id=f"of {seed}")
            assert result.observation == {"text": prompt, "question": info["question"], "metadata": {}}
            assert (result.reward, result.done) == (None, False)
            flags = []
            for turn in turns:
                observation, reward, terminated, truncated, info = env.step(turn)
                result = client.step({"text": turn})
                assert result.observation["text"] == observation
                assert result.done == (terminated or truncated)
                assert result.reward == (reward if result.done else None)
                flags += info["noise_flags"]
            state = client.state()
            assert (state["noisy"], state["episode_id"], state["step_count"]) == (flags, f"of {seed}", 5)
            assert set(flags) == {True, False} or seed != 7
            assert state["scores"] == result.metadata
            expected = {"reward": reward, "stop_reason": "answer", "em": info["em"], "answers": list(info["answers"])}
            assert expected.items() <= result.metadata.items()


def test_options_of_a_reset_are_those_of_the_environment(serve: Start) -> None:
    schedule = {"noise_level": None, "noise_schedule": "linear", "noise_end": 0.8, "curriculum_episodes": 10}
    shared = source(**schedule)
    with GenericEnvClient(base_url=serve(shared)).sync() as client:
        assert client.reset(question="q3").observation["question"] == "What is thing number 3?"
        client.reset(progress=0.5)
        assert client.state()["noise_level"] == pytest.approx(0.4)
        client.reset(noise_level=1.0)
        assert client.state()["noise_level"] == 1.0
        assert client.state()["progress"] == pytest.approx(0.3)  # three episodes have been started
        shared.set_progress(1.0)
        client.reset()
        assert client.state()["noise_level"] == pytest.approx(0.8)


def test_a_row_is_played_with_its_question_and_noise(serve: Start) -> None:
    shared = source()
    row = shared.rows(seed=3, count=2)[1]
    assert row == rows(make_dataset(), noise_level=0.5, seed=3)[1]
    session = shared.start_row(row)
    with GenericEnvClient(base_url=serve(shared)).sync() as client:
        assert client.reset(row=row).observation["text"] == session.prompt == row["prompt"][0]["content"]
        assert client.step({"text": SEARCH.format(1)}).observation["text"] == session.turn(SEARCH.format(1)).observation


def test_tools_play_the_same_episode(serve: Start) -> None:
    shared = source()
    session = shared.start(seed=7, question="q3")
    with MCPToolClient(base_url=serve(shared)).sync() as client:
        tools = client.list_tools()
        assert [(tool.name, tool.input_schema["required"]) for tool in tools] == [
            ("search", ["query"]),
            ("answer", ["text"]),
        ]
        assert all(tool.description for tool in tools)
        assert client.call_tool("search", query="x") == "There is no question yet: the environment must be reset first."
        client.reset(seed=7, question="q3")
        for query in ("x", "y", "z"):
            assert client.call_tool("search", query=query) == session.search_text(query)
        result = client.step(CallToolAction(tool_name="answer", arguments={"text": "thing 3"}))
        assert (result.reward, result.done) == (session.answer("thing 3").reward, True) == (1.0, True)
        assert result.observation.result == "The answer has been recorded. Stop here."
        assert result.metadata["stop_reason"] == "answer"


def test_models_are_told_what_they_do_wrong(serve: Start) -> None:
    with MCPToolClient(base_url=serve(source(max_turns=2))).sync() as client:
        client.reset(seed=0)
        assert client.call_tool("answer", text=" ").startswith("The answer is empty, which uses up a turn.")
        assert "All 2 searches are used up" in client.call_tool("search", query="one more")
        assert client.call_tool("search", query="too many") == "All 2 searches are used up. Give the answer now."
        wrong = client.call_tool("search", text="x")
        assert wrong == "search takes one argument, the string 'query'; got {'text': 'x'}"
        with pytest.raises(RuntimeError, match="Tool not found: serach"):  # OpenEnv's own words
            client.call_tool("serach", query="x")
        error = client.step(CallToolAction(tool_name="serach", arguments={})).observation.error
        assert error.message.startswith("unknown tool 'serach'. Did you mean 'search'?")
        error = client.step(CallToolAction(tool_name="answer", arguments={"text": 3})).observation.error
        assert error.message == "answer takes one argument, the string 'text'; got {'text': 3}"
        client.call_tool("answer", text="lake")
        for _ in range(2):
            late = client.step(CallToolAction(tool_name="search", arguments={"query": "x"}))
            assert late.observation.result == "This question is finished: nothing more counts for it. Stop here."
            assert (late.reward, late.done) == (None, True)


def test_a_text_that_cannot_be_played_is_answered(serve: Start) -> None:
    with GenericEnvClient(base_url=serve(source(max_turns=1))).sync() as client:
        early = client.step({"text": ANSWER})
        assert (early.observation["text"][:26], early.done) == ("There is no question yet: ", False)
        client.reset(seed=0)
        client.step({"text": "<answer> </answer>"})
        end = client.step({"text": SEARCH})  # one search too many
        assert (end.reward, end.done, end.metadata["stop_reason"]) == (0.0, True, "max_turns")
        late = client.step({"text": ANSWER})
        assert late.observation["text"].startswith("This question is finished")
        assert (late.reward, late.done) == (None, True)
        client.reset(seed=1)
        assert client.step({"text": "<answer>x</answer>"}).done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nois_level": 1.0}, "unknown reset option 'nois_level'. Did you mean 'noise_level'?"),
        ({"noise_level": 2.0}, "noise level"),
        ({"question": "q99"}, "q99"),
        ({"progress": -1}, "progress"),
        ({"row": {}}, "expected a row of SessionSource.rows"),
    ],
)
def test_wrong_options_are_named_and_the_episode_continues(options: dict[str, Any], message: str, serve: Start) -> None:
    with GenericEnvClient(base_url=serve(source())).sync() as client:
        client.reset(seed=0)
        with pytest.raises(RuntimeError, match=re.escape(message)):
            client.reset(**options)
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            client.step({"txt": "x"})
        assert client.step({"text": ANSWER}).done


def test_a_failed_engine_is_an_error_and_never_a_reward(serve: Start) -> None:
    with GenericEnvClient(base_url=serve(source(search_engine=FailingEngine("out of order")))).sync() as client:
        for action in ({"text": SEARCH}, {"type": "call_tool", "tool_name": "search", "arguments": {"query": "x"}}):
            client.reset(seed=0)
            with pytest.raises(RuntimeError, match=r"out of order.*EXECUTION_ERROR"):
                client.step(action)
            late = client.step(action)
            assert (late.reward, late.done) == (None, True)
            assert client.state()["scores"] is None


def test_64_clients_at_the_same_time_lose_nothing(serve: Start) -> None:
    engine = EchoEngine()
    url = serve(source(search_engine=engine, max_turns=9))

    async def play(number: int) -> float:
        async with GenericEnvClient(base_url=url) as client:
            await client.reset(seed=number, question=number % 40)
            for turn in range(5):
                result = await client.step({"text": f"<search>client {number} turn {turn}</search>"})
                assert f"client {number} turn {turn} " in result.observation["text"]
            answered = await client.step({"text": f"<answer>thing {number % 40}</answer>"})
            return float(answered.reward)

    async def all_clients() -> list[float]:
        return await asyncio.gather(*map(play, range(64)))

    assert asyncio.run(all_clients()) == [1.0] * 64
    assert sum(engine.batches) == 64 * 5
    assert engine.closed == 0


def test_a_client_that_leaves_frees_its_session(serve: Start) -> None:
    shared = source()
    started: weakref.WeakSet[Any] = weakref.WeakSet()
    start = shared.start

    def recorded(**options: Any) -> Any:
        session = start(**options)
        started.add(session.episode.question and session)
        return session

    shared.start = recorded  # type: ignore[method-assign]
    url = serve(shared, max_sessions=2)

    async def leave() -> None:
        polite, rude = GenericEnvClient(base_url=url), GenericEnvClient(base_url=url)
        for client in (polite, rude):
            await client.reset(seed=0)
            await client.step({"text": SEARCH})
        assert len(started) == 2
        with pytest.raises(RuntimeError, match="CAPACITY_REACHED"):
            await GenericEnvClient(base_url=url).reset()
        await polite.close()
        assert rude._ws is not None
        rude._ws.transport.abort()  # a process that is killed

    asyncio.run(leave())
    deadline = time.monotonic() + 20
    while started and time.monotonic() < deadline:
        time.sleep(0.05)
        gc.collect()
    assert not started
    with GenericEnvClient(base_url=url).sync() as client:  # its place is free
        assert client.reset(seed=0).observation["question"]


def test_mcp_over_http_acts_in_the_session_that_the_trainer_resets(serve: Start) -> None:
    """OpenEnv's two sides: the trainer resets over the WebSocket, the agent calls tools over HTTP."""
    url = serve(source())

    def call(method: str, **params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return httpx.post(f"{url}/mcp", json=body, timeout=20).json()

    session_id = call("openenv/session/create")["result"]["session_id"]
    tools = call("tools/list", session_id=session_id)["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["search", "answer"]

    async def play() -> dict[str, Any]:
        trainer = GenericEnvClient(base_url=url)
        trainer._ws_url += f"?session_id={session_id}"
        async with trainer:
            await trainer.reset(seed=7, question="q3")
            agent = asyncio.to_thread
            arguments = {"session_id": session_id, "name": "search", "arguments": {"query": "x"}}
            found = await agent(call, "tools/call", **arguments)
            assert found["result"].startswith("Doc 1: x 0: noisy=")
            wrong = await agent(call, "tools/call", **arguments | {"arguments": {"text": 3}})
            assert wrong["result"].startswith("search takes one argument")
            done = await agent(call, "tools/call", **arguments | {"name": "answer", "arguments": {"text": "thing 3"}})
            assert done["result"] == "The answer has been recorded. Stop here."
            return await trainer.state()

    assert asyncio.run(play())["scores"]["reward"] == 1.0
    assert call("openenv/session/close", session_id=session_id)["result"]["closed"]


def test_raw_text_is_an_action_of_bridges(serve: Start) -> None:
    """verifiers and others send a model's text as it is where an action has one required field."""
    schema = httpx.get(f"{serve(source())}/schema", timeout=20).json()
    assert schema["action"]["required"] == ["text"]
    assert schema["action"]["title"] not in ("Action", "CallToolAction", "ListToolsAction")
    assert {"noisy", "noise_level", "scores"} <= schema["state"]["properties"].keys()
    assert schema["observation"]["properties"].keys() == {"done", "reward", "metadata", "text", "question"}


def test_a_token_keeps_others_out(serve: Start) -> None:
    url = serve(guarded(make_app(source()), "secret", local=True))
    assert httpx.get(f"{url}/health", timeout=20).status_code == 200
    assert httpx.get(f"{url}/schema", timeout=20).status_code == 401
    assert httpx.get(f"{url}/schema", headers={"Authorization": "Bearer secret"}, timeout=20).status_code == 200
    assert httpx.get(f"{url}/health", headers={"Host": "evil.example"}, timeout=20).status_code == 421
    with GenericEnvClient(base_url=url, headers={"Authorization": "Bearer secret"}).sync() as client:
        assert client.reset(seed=0).observation["text"]
    with pytest.raises(ConnectionError, match="403"), GenericEnvClient(base_url=url).sync() as client:
        client.reset()


def test_options_of_the_command_become_arguments_of_the_environment() -> None:
    arguments = environment_arguments(ServeConfig(noise_level=0.25, top_k=2), '{"protocol": "search-r1"}')
    assert (arguments["noise_level"], arguments["top_k"], arguments["protocol"]) == (0.25, 2, "search-r1")
    made = SessionSource(**{**arguments, "world": {"passages": 300}})
    assert made.rules.protocol.name == "search-r1"
    assert environment_arguments(ServeConfig(dataset="questions.jsonl"), None)["world"] is None


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        (ServeConfig(dialect="gem"), None, "--dialect is about searches"),
        (ServeConfig(max_batch=4), None, "--max-batch is about searches"),
        (ServeConfig(dataset=None), None, "give a --dataset"),
        (ServeConfig(), "{", "--env is not JSON"),
        (ServeConfig(), "[1]", "--env must be a JSON object"),
    ],
)
def test_wrong_options_of_the_command(config: ServeConfig, more: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        environment_arguments(config, more)


@pytest.mark.parametrize(("version", "problem"), [("0.9.4", "too old"), ("0.11.0", "too new")])
def test_another_version_is_refused(version: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "zerosearch_env.integrations.openenv"
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        MissingExtraError, match=rf"openenv {version} is {problem}: .* 0\.10\. .*zerosearch-env\[openenv\]"
    ):
        importlib.import_module(name)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "frameworks" / "openenv.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_run(serve: Start, capsys: pytest.CaptureFixture[str]) -> None:
    shared = SessionSource(noise_level=0.5, protocol="search-r1", max_turns=4, world={"passages": 300})
    url = serve(shared)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.findall(PAGE.read_text("utf-8")):
        exec(block.replace("http://127.0.0.1:8000", url), names)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in printed[:3]] == [[str(seed), "0.0", "answer"] for seed in range(3)]
    assert printed[3].startswith("['search', 'answer'] ")
    assert printed[5] == "True 0.0"
    tools = names["SearchTools"]()
    row = shared.rows(count=1)[0]
    tools.reset(**row)
    session = shared.start_row(row)
    assert tools.search("the mill") == session.search_text("the mill")
    assert tools.answer(session.episode.question.answers[0]) == "The answer has been recorded. Stop here."
    assert tools.get_reward() == 1.0


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # what TRL and its libraries warn of is not ours
def test_trl_trains_through_the_server(serve: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One real step of `GRPOTrainer`; only what the model writes is scripted."""
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from chat_templates import family_tokenizer
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.chat_template_utils import qwen3_chat_template

    shared = source()
    url = serve(shared)
    names: dict[str, Any] = {}
    exec(BLOCK.findall(PAGE.read_text("utf-8"))[-1].replace("http://127.0.0.1:8000", url), names)
    tokenizer = family_tokenizer("qwen2.5")
    tokenizer.chat_template, tokenizer.pad_token = qwen3_chat_template, tokenizer.eos_token
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **sizes))

    def call(name: str, **arguments: str) -> str:
        return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call><|im_end|>"

    def write(trainer: Any, prompt_ids: list[list[int]], *rest: Any, **more: Any) -> Any:
        texts = []
        for ids in prompt_ids:
            read = tokenizer.decode(ids)
            number = re.findall(r"thing number (\d+)", read)[0]
            wrong = len(texts) % 2
            answer = call("answer", text="nothing" if wrong else f"thing {number}")
            later = "Done.<|im_end|>" if "has been recorded" in read else answer
            texts.append(later if "<tool_response>" in read else call("search", query=f"thing {number}"))
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return ids, [[0.0] * len(row) for row in ids]

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", write)
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=4, use_cpu=True,
        max_completion_length=4000, report_to=[], save_strategy="no", bf16=False, disable_tqdm=True, logging_steps=1,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model, args=args, processing_class=tokenizer, environment_factory=names["SearchTools"],
        train_dataset=Dataset.from_list(shared.rows(count=4)),
    )  # fmt: skip
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["reward"] == 0.5
    assert logged["tools/call_frequency"] == 2.0
    assert logged["tools/failure_frequency"] == 0.0
    assert shared.engine.batches == [1, 1, 1, 1]


@pytest.mark.timeout(300)
def test_the_command_serves_until_a_signal(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "zerosearch_env.cli",
        "serve",
        "--openenv",
        "--port",
        "0",
        "--world.passages",
        "300",
    ]
    command += ["--noise-level", "0.5", "--env", '{"max_turns": 2}']
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        (url,) = re.findall(r"OpenEnv at (http://\S+) ", server.stdout.readline())
        env = gym.make("ZeroSearch-v0", world={"passages": 300}, noise_level=0.5, max_turns=2)
        with GenericEnvClient(base_url=url).sync() as client:
            assert client.reset(seed=3).observation["text"] == env.reset(seed=3)[0]
            assert client.step({"text": SEARCH}).observation["text"] == env.step(SEARCH)[0]
            server.terminate()  # while the client is connected
            assert server.wait(60) == 0
