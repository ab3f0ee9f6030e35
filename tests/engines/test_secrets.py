"""No secret is in anything that the package writes: every engine searches a server that repeats all it receives."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import cloudpickle
import gymnasium as gym
import pytest
from web_fakes import FAST, VARIABLES

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import save_evaluation
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, chat
from zerosearch_env.cli import main
from zerosearch_env.commands.view import write_page
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.envs.wrappers import TranscriptRecorder
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm import HttpOptions, OpenAIBackend
from zerosearch_env.types import Question, SearchRequest

SECRET = "Zq81/hush+hush=Zq81"
FORMS = (SECRET, quote(SECRET, safe=""), quote_plus(SECRET), json.dumps(SECRET).replace("/", "\\/")[1:-1])
QUESTION = Question("q1", "Who wrote Dracula?", ("Bram Stoker",))

ENGINES: dict[str, dict[str, Any]] = {
    "openai": {"kind": "simulated", "argument": "openai:{url}"},
    "openai with a variable": {"kind": "simulated", "argument": "openai:{url}", "api_key_env": "MY_KEY"},
    "retrieve": {"kind": "retrieve", "argument": "{url}"},
    "retrieve with a variable": {"kind": "retrieve", "argument": "{url}", "token_env": "MY_KEY"},
    "retrieve with context": {"kind": "retrieve", "argument": "{url}", "send_context": True},
    **{name: {"kind": name, "url": "{url}", "rate": 1e6} for name in ("serpapi", "serper", "brave")},
}


def received(call: Call) -> str:
    """Everything that a request holds, in the forms that servers and libraries use."""
    head = " ".join(f"{name}: {value}" for name, value in call.headers.items())
    assert SECRET in head or SECRET in unquote(call.path)
    return f"{call.method} {unquote(call.path)} {call.path} {head} {' '.join(FORMS)}"


def results(call: Call) -> Reply:
    """Ten proper results of every service, with everything in every field."""
    text = received(call)
    texts = [f"{number} {text}" for number in range(10)]
    if call.path.endswith("/models"):
        return Reply({"data": [{"id": text}]})
    if call.path.endswith("/chat/completions"):
        # Longer repetitions are recognised as a model that loops.
        return chat("\n".join(f"Doc {n}: {n} {FORMS[n % len(FORMS)]} {n} by Bram Stoker {n}" for n in range(1, 6)))
    plain = [{"title": text, "snippet": entry, "link": text, "url": text, "description": entry} for entry in texts]
    found = [{"document": {"id": text, "contents": f'"{text}"\n{entry}'}, "score": 1.0} for entry in texts]
    return Reply(
        {
            "result": [found for _ in (call.body or {}).get("queries", [])],
            "organic_results": plain,
            "search_metadata": {"status": "Success"},
            "organic": plain,
            "web": {"results": plain},
            "query": {"more_results_available": False},
        }
    )


def broken(call: Call) -> None:
    call.writer.write(f"HTTP/9 {received(call)}\r\n\r\n".encode())


ANSWERS: dict[str, Callable[[Call], Reply | None]] = {
    "results": results,
    "401": lambda call: Reply({"error": received(call), "message": received(call)}, 401),
    "500": lambda call: Reply(received(call).encode(), 500),
    "no JSON": lambda call: Reply(f"<p>{received(call)}</p>".encode()),
    "another shape": lambda call: Reply({received(call): received(call), "choices": received(call)}),
    "no HTTP": broken,
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*VARIABLES.values(), "OPENAI_API_KEY", "ZEROSEARCH_RETRIEVE_TOKEN", "MY_KEY"):
        monkeypatch.setenv(variable, SECRET)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", ENGINES)
def test_a_secret_is_in_nothing_that_is_written(
    name: str, answer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    async def server(call: Call) -> Reply | None:
        return ANSWERS[answer](call)

    with ServerThread(server) as thread:
        cache = str(tmp_path / "cache.sqlite")
        spec = {
            key: value.format(url=thread.url) if isinstance(value, str) else value
            for key, value in ENGINES[name].items()
        }
        spec |= {"http": FAST, "cache": cache}
        written = drive(spec, tmp_path)
    written["log"] = caplog.text + "".join(capsys.readouterr())
    written |= {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()}
    assert {"transcripts.jsonl", "results.json", "page.html"} <= set(written)
    assert (tmp_path / "cache.sqlite").exists()
    for place, text in written.items():
        for form in FORMS:
            assert form not in text, f"{place}: {text[max(0, text.index(form) - 200) : text.index(form) + 40]}"
    failed = "engine_error" in written["info"]
    assert failed == (answer != "results"), written["info"][-600:]
    assert failed or "***" in written["info"], "the echo is in the documents, without the secret"


def drive(spec: dict[str, Any], folder: Path) -> dict[str, str]:
    """Play, record, evaluate, fail, copy and render; what is not written to the folder is returned as text."""
    env: Any = TranscriptRecorder(
        gym.make("ZeroSearch-v0", dataset=[QUESTION], search_engine=spec, render_mode="ansi", noise_level=0.0),
        folder / "transcripts.jsonl",
    )
    observation, reset_info = env.reset(seed=0)
    step = env.step("<search>Dracula</search>")
    if not step[3]:
        env.step("<answer>Bram Stoker</answer>")
    setup = env.unwrapped._setup
    written = {
        "info": f"{observation} {reset_info} {step}",
        "terminal": env.render(),
        "spec": env.spec.to_json(),
        "repr": f"{env.unwrapped!r} {setup!r} {setup.engine!r} {vars(setup.engine).get('_backend')!r}",
        "pickles": repr([pickle.dumps(env.unwrapped), pickle.dumps(setup.engine)]),
        "errors": errors(spec),
    }
    assert pickle.loads(pickle.dumps(setup.engine)) is not None
    assert copy.deepcopy(env.unwrapped) is not None
    player = CallablePlayer(lambda observation, info: "<search>Dracula</search>", name="searcher")
    save_evaluation(evaluate(player, [QUESTION], setup.engine, make_rules(max_turns=1), (0.0,)), folder)
    env.close()
    write_page(folder / "transcripts.jsonl", folder / "page.html")
    return written


def errors(spec: dict[str, Any]) -> str:
    """The exceptions of a failed search, as text, traceback and pickle; empty if it succeeds."""
    env = gym.make("ZeroSearch-v0", dataset=[QUESTION], search_engine=spec, on_engine_error="raise")
    env.reset(seed=1)
    try:
        env.step("<search>Count Dracula</search>")
    except EngineError as error:
        return f"{error!r} {''.join(traceback.format_exception(error))} {pickle.dumps(error)!r}"
    finally:
        env.close()
    return ""


@pytest.mark.parametrize("pack", [pickle.dumps, cloudpickle.dumps])
def test_a_key_given_in_python_is_in_no_pickle(
    pack: Callable[[object], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")

    async def server(call: Call) -> Reply:
        return results(call)

    with ServerThread(server) as thread:
        backend = OpenAIBackend([thread.url], model="m", api_key=SECRET, options=HttpOptions.from_mapping(FAST))
        engine = SimulatedEngine(backend)
        env = gym.make("ZeroSearch-v0", dataset=[QUESTION], search_engine=engine).unwrapped
        for owner in (backend, backend.client, engine, env):
            with pytest.raises(ConfigError, match="export it as an environment variable"):
                pack(owner)
            assert SECRET not in f"{vars(owner)}", owner
        for twin in (copy.copy(engine), copy.deepcopy(engine)):
            (result,) = twin.search([SearchRequest("Dracula", "Who?", ("Bram Stoker",), False, 5, 1)])
            assert result.failure is None, "the server asserts that it got the key"
            twin.close()
        env.close()


def test_no_client_is_pickled_with_a_key() -> None:
    for name in ENGINES:
        spec = {
            key: value.format(url="http://127.0.0.1:9") if isinstance(value, str) else value
            for key, value in ENGINES[name].items()
        }
        engine: Any = make_engine(spec)
        with pytest.raises(ConfigError, match="not pickled"):
            pickle.dumps(engine._backend.client if name.startswith("openai") else engine._client)
        engine.close()


@pytest.mark.parametrize(
    "argument", ["http://any:{}@127.0.0.1:9", "http://{}@h/v1", "http://h?token={}", "http://h#{}"]
)
@pytest.mark.parametrize("kind", ["retrieve:", "simulated:openai:", "serper"])
def test_an_address_with_a_secret_is_refused_without_showing_it(
    kind: str, argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = argument.format("Zq81,hush")
    spec: Any = kind + address if kind.endswith(":") else {"kind": kind, "url": address}
    with pytest.raises(ConfigError) as caught:
        make_engine(spec)
    assert "Zq81" not in f"{caught.value!r}"
    assert "hush" not in f"{caught.value!r}"
    if isinstance(spec, str):
        assert main(["play", "--search-engine", spec]) == 2
        assert "Zq81" not in capsys.readouterr().err


def test_placeholders_for_no_key_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")

    async def server(call: Call) -> Reply:
        return chat("\n".join(f"Doc {n}: an EMPTY box {n} by Bram Stoker" for n in range(1, 4)))

    with ServerThread(server) as thread:
        engine = make_engine({"kind": "simulated", "argument": f"openai:{thread.url}", "model": "m", "http": FAST})
        (result,) = engine.search([SearchRequest("box", "Who?", ("Bram Stoker",), noisy=False, top_k=3, seed=1)])
        engine.close()
    assert "EMPTY" in result.documents[0].text
