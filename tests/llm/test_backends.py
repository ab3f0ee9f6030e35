from __future__ import annotations

import asyncio
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, chat
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.llm import AsyncBackend, Backend, Completion, HttpOptions, LoopThread, OpenAIBackend, Prompt
from zerosearch_env.llm.chat import cut_at_stop, prompt_ids

PROMPT = Prompt("hello", seed=2**63 + 11, max_tokens=7, stop=("\n###",))
FAST = HttpOptions(attempts=2, backoff_s=0.005, total_s=3.0, read_s=1.0)


def serving(*, models: Reply, completion: Reply | None = None, calls: list[Call] | None = None) -> ServerThread:
    async def handler(call: Call) -> Reply:
        if calls is not None:
            calls.append(call)
        if call.path == "/v1/models":
            return models
        return chat(f"I am {call.body['model']!r}") if completion is None else completion

    return ServerThread(handler)


def complete(server: ServerThread, prompt: Prompt = PROMPT, **options: Any) -> Completion:
    backend = OpenAIBackend([server.url], options=FAST, **options)
    (done,) = backend.complete([prompt])
    backend.close()
    return done


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    calls: list[Call] = []
    with serving(models=Reply({"data": []}), calls=calls) as server:
        complete(server, model="m", extra_body={"min_p": 0.1})
        complete(server, model="m", api_key="given")
    first, second = calls
    assert first.path == "/v1/chat/completions"
    seed = first.body.pop("seed")
    assert 0 <= seed < 2**31
    assert first.body == {
        **{"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 7, "temperature": 0.8},
        **{"top_p": 1.0, "stop": ["\n###"], "min_p": 0.1},
    }
    assert second.body["seed"] == seed
    assert [call.headers["authorization"] for call in calls] == ["Bearer from-the-environment", "Bearer given"]


def test_system_and_prefill_in_a_chat() -> None:
    calls: list[Call] = []
    prompt = replace(PROMPT, system="", prefill="Doc 1:")
    with serving(models=Reply({}), calls=calls) as server:
        complete(server, prompt, model="m")
    body = calls[0].body
    assert body["messages"] == [
        {"role": "system", "content": ""},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Doc 1:"},
    ]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_the_completions_api_continues_a_text() -> None:
    calls: list[Call] = []
    reply = Reply({"choices": [{"text": " a mill", "finish_reason": "length"}]})
    with serving(models=Reply({}), completion=reply, calls=calls) as server:
        done = complete(server, replace(PROMPT, prefill="Doc 1:"), model="m", api="completions")
        with pytest.raises(ConfigError, match="no system message"):
            complete(server, replace(PROMPT, system=""), model="m", api="completions")
    assert done == Completion(" a mill", truncated=True)
    assert calls[0].path == "/v1/completions"
    assert calls[0].body["prompt"] == "helloDoc 1:"
    assert "messages" not in calls[0].body
    with serving(models=Reply({}), completion=chat("x")) as server:
        assert "choices[0].text" in (complete(server, model="m", api="completions").failure or "")
    with pytest.raises(ConfigError, match="Did you mean 'completions'"):
        OpenAIBackend(["http://127.0.0.1:1"], api="completion")  # type: ignore[arg-type]
    ours, chats = (OpenAIBackend(["http://127.0.0.1:1"], model="m", api=api) for api in ("completions", "chat"))
    assert (ours.identity, chats.identity) == ("m /completions", "m")


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_cannot_continue_a_turn(status: int) -> None:
    reply = Reply({"detail": "Unexpected fields in the request: {'continue_final_message'}"}, status)
    with serving(models=Reply({}), completion=reply) as server:
        failure = complete(server, replace(PROMPT, prefill="Doc 1:"), model="m").failure or ""
        assert re.search(f'{status}.*leave `prefill` out, or use api "completions"', failure)
        assert "prefill" not in (complete(server, model="m").failure or "")


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (Reply({"data": [{"id": "first"}, {"id": "second"}]}), "first"),
        (Reply({"data": []}), ""),
        (Reply({"data": None}), ""),
        (Reply([1]), ""),
        (Reply({"error": "cannot list"}, 500), ""),
        (Reply({}, 404), ""),
    ],
)
def test_an_empty_model_name_is_resolved_once(models: Reply, name: str) -> None:
    calls: list[Call] = []
    with serving(models=models, calls=calls) as server:
        backend = OpenAIBackend([server.url], options=FAST)
        assert [done.text for done in backend.complete([PROMPT] * 5)] == [f"I am {name!r}"] * 5
        backend.complete([PROMPT])
        backend.close()
    assert [call.path for call in calls].count("/v1/models") == 1


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (chat(""), Completion("")),
        (chat("cut", "length"), Completion("cut", truncated=True)),
        (Reply({"choices": [{"message": {"content": None}}]}), Completion("")),
        (
            Reply({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}),
            Completion("ab"),
        ),
    ],
)
def test_completions(completion: Reply, expected: Completion) -> None:
    with serving(models=Reply({}), completion=completion) as server:
        assert complete(server, model="m") == expected


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        (Reply({"choices": []}), r"choices\[0\].message"),
        (Reply([1]), r"choices\[0\].message"),
        (Reply({"choices": [{"message": {"content": 3}}]}), "expected a string"),
        (Reply({"error": "model 'm' not found"}, 404), "404.*not found"),
        (Reply({"error": "wrong key"}, 401), "401.*wrong key"),
        (Reply({"error": "overloaded"}, 503), "after 2 attempts.*overloaded"),
    ],
)
def test_failures_are_the_prompt_s(completion: Reply, message: str) -> None:
    with serving(models=Reply({}), completion=completion) as server:
        done = complete(server, model="m")
    assert done.text == ""
    assert re.search(message, done.failure or "")


def test_a_dead_server_is_a_failure_within_the_time() -> None:
    with serving(models=Reply({})) as server:
        url = server.url
    backend = OpenAIBackend([url], options=HttpOptions(attempts=3, backoff_s=0.005, total_s=1.0))
    began = time.monotonic()
    done = backend.complete([PROMPT] * 8)
    assert time.monotonic() - began < 3
    assert all("ClientConnectorError" in (one.failure or "") or "no replica" in (one.failure or "") for one in done)
    backend.close()


def test_a_copy_connects_by_itself_and_the_protocols_are_kept() -> None:
    with serving(models=Reply({"data": [{"id": "x"}]})) as server:
        backend = OpenAIBackend([server.url], options=FAST)
        backend.complete([PROMPT])
        copy = pickle.loads(pickle.dumps(backend))
        backend.close()
        assert copy.complete([PROMPT])[0].text == "I am 'x'"
        assert copy.client._seed != backend.client._seed, "copies do not retry in step"
        copy.close()
    assert isinstance(backend, AsyncBackend)
    assert isinstance(backend, Backend)
    assert "127.0.0.1" in backend.identity
    assert OpenAIBackend(["http://x"], model="m").identity == "m"
    with pytest.raises(ConfigError, match="api_key"):
        OpenAIBackend(["http://x"], api_key="line\nbreak")


def test_close_during_a_request() -> None:
    arrived = threading.Event()

    async def handler(call: Call) -> Reply:
        arrived.set()
        await asyncio.sleep(30)
        return Reply({})

    outcome: list[BaseException] = []
    with ServerThread(handler) as server:
        backend = OpenAIBackend([server.url], model="m", options=FAST)

        def work() -> None:
            try:
                backend.complete([PROMPT])
            except EngineError as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert arrived.wait(5)
        backend.close()
        backend.close()
        thread.join(5)
    assert "closed during the request" in str(outcome[0])
    with pytest.raises(EngineError, match="is closed"):
        backend.complete([PROMPT])


def test_ctrl_c_cancels_what_is_waited_for() -> None:
    loop = LoopThread("test")
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(forever())
    assert cancelled.wait(5)
    loop.close()


def test_a_cancelled_caller_cancels_its_coroutine() -> None:
    loop = LoopThread("test")
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.arun(forever()), 0.05)

    asyncio.run(main())
    assert cancelled.wait(5)
    loop.close()


@pytest.mark.slow
def test_an_engine_that_nobody_closes_lets_the_process_end() -> None:
    code = (
        "from zerosearch_env.llm import *\n"
        "b = OpenAIBackend(['http://127.0.0.1:9/v1'], model='m', options=HttpOptions(attempts=1))\n"
        "print(b.complete([Prompt('x', 1, 1)])[0].failure is not None)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


@pytest.mark.parametrize("listed", [[], [{"id": "another-in-the-cache"}]])
def test_a_server_that_is_bound_to_a_model_tells_its_name(listed: list[dict[str, str]]) -> None:
    async def handler(call: Call) -> Reply:
        if call.path == "/v1/models":
            return Reply({"object": "list", "data": listed})
        asked = call.body["model"]
        if asked != "/models/tiny":
            return Reply({"detail": f"Server is pinned to '/models/tiny'; requested '{asked}'."}, status=400)
        return chat("well")

    with ServerThread(handler) as server:
        backend = OpenAIBackend([server.url], options=FAST)
        assert [done.text for done in backend.complete([PROMPT] * 3)] == ["well"] * 3
        backend.close()
        named = OpenAIBackend([server.url], model="other", options=FAST)
        assert "pinned to '/models/tiny'" in (named.complete([PROMPT])[0].failure or "")
        named.close()


def test_a_server_that_pins_another_model_each_time_is_asked_twice() -> None:
    calls: list[Call] = []

    async def handler(call: Call) -> Reply:
        calls.append(call)
        return Reply({"detail": f"Server is pinned to 'model {len(calls)}'"}, status=400)

    with ServerThread(handler) as server:
        backend = OpenAIBackend([server.url], options=FAST)
        (done,) = backend.complete([PROMPT])
        backend.close()
    assert "pinned to 'model 3'" in (done.failure or "")
    assert [call.path.rpartition("/")[2] for call in calls] == ["models", "completions", "completions"]


@pytest.mark.slow
def test_a_forked_process_gets_a_loop_of_its_own() -> None:
    code = (
        "import os\nfrom zerosearch_env.llm import LoopThread\n"
        "async def value(): return os.getpid()\n"
        "loop = LoopThread('x')\nassert loop.run(value()) == os.getpid()\n"
        "child = os.fork()\n"
        "if not child:\n    ok = loop.run(value()) == os.getpid()\n    loop.close()\n    os._exit(0 if ok else 1)\n"
        "print(os.waitpid(child, 0)[1], loop.run(value()) == os.getpid())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0 True", done.stderr


@pytest.mark.slow
def test_a_forked_process_leaves_the_parents_connections_alone() -> None:
    code = (
        "import gc, os, sys, time\nfrom zerosearch_env.llm import *\n"
        "prompts = [Prompt('x', seed, 1) for seed in range(4)]\n"
        "def ask(b): return all(done.failure is None for done in b.complete(prompts))\n"
        "for use in ('idle', 'asking'):\n"
        "    b = OpenAIBackend([sys.argv[1]], model='m', options=HttpOptions(attempts=1, read_s=20))\n"
        "    assert ask(b)\n    child = os.fork()\n"
        "    if not child:\n        ok = use == 'idle' or ask(b)\n        b.close()\n"
        "        del b\n        gc.collect()\n"
        "        sys.exit(0 if ok else 1)\n"
        "    print(use, os.waitpid(child, 0)[1], ask(b))\n    b.close()\n"
    )
    with serving(models=Reply({})) as server:
        # From Python 3.12 on, os.fork() in a process with threads warns on stderr.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("idle 0 True\nasking 0 True\n", "")


def test_stop_texts_and_prompts_without_a_template() -> None:
    assert cut_at_stop("a\n### b", ("\n###", "x")) == ("a", True)
    assert cut_at_stop("a", ("\n###",)) == ("a", False)

    class Tokenizer:
        chat_template = None

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [len(text)]}

    assert prompt_ids(Tokenizer(), "four") == [4]
    assert prompt_ids(Tokenizer(), "four", history=(("user", "two"), ("assistant", "1"))) == [8]


# conversations, and what servers say about a completion


HISTORY = (("user", "question"), ("assistant", "<search>q</search>"))


@pytest.mark.parametrize(
    ("api", "field", "sent"),
    [
        (
            "chat",
            "messages",
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "question"},
                {"role": "assistant", "content": "<search>q</search>"},
                {"role": "user", "content": "hello"},
            ],
        ),
        ("completions", "prompt", "question<search>q</search>hello"),
    ],
)
def test_earlier_messages_keep_their_roles(api: Any, field: str, sent: object) -> None:
    calls: list[Call] = []
    reply = Reply({"choices": [{"text": "a", "message": {"content": "a"}}]})
    with serving(models=Reply({}), completion=reply, calls=calls) as server:
        system = "Be brief." if api == "chat" else None
        complete(server, replace(PROMPT, system=system, history=HISTORY), model="m", api=api)
    assert calls[0].body[field] == sent


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": "a"}, "stop_reason": "</search>"}, Completion("a", stop="</search>")),
        ({"message": {"content": "a"}, "matched_stop": "</search>"}, Completion("a", stop="</search>")),
        ({"message": {"content": "a"}, "stop_reason": None}, Completion("a")),
        ({"message": {"content": "a"}, "stop_reason": 151645}, Completion("a")),
        ({"message": {"content": "a", "reasoning_content": "hm"}}, Completion("a", reasoning="hm")),
        ({"message": {"content": None, "reasoning": "hm"}}, Completion("", reasoning="hm")),
    ],
)
def test_stop_strings_and_thoughts_that_servers_return_apart(choice: object, expected: Completion) -> None:
    with serving(models=Reply({}), completion=Reply({"choices": [choice]})) as server:
        assert complete(server, model="m") == expected


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 31, "completion_tokens": 4, "total_tokens": 35}, (31, 4)),
        ({"prompt_tokens": 31, "completion_tokens": None}, (31, None)),
        ({"prompt_tokens": True, "completion_tokens": -1}, (None, None)),
        (None, (None, None)),
        ("many", (None, None)),
    ],
)
def test_tokens_are_counted_where_the_server_counts(usage: object, tokens: tuple[int | None, int | None]) -> None:
    reply = Reply({"choices": [{"message": {"content": "a"}}], "usage": usage})
    with serving(models=Reply({}), completion=reply) as server:
        done = complete(server, model="m")
    assert (done.prompt_tokens, done.completion_tokens) == tokens


@pytest.mark.parametrize(
    ("message", "too_long"),
    [
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", True),
        ("the request exceeds the available context size. try increasing it", True),
        ("unknown field seed", False),
    ],
)
def test_a_prompt_beyond_the_models_context_is_named(message: str, too_long: bool) -> None:
    with serving(models=Reply({}), completion=Reply({"error": message}, 400)) as server:
        done = complete(server, model="m")
    assert (done.failure is not None, done.too_long) == (True, too_long)


def check(*urls: str, **options: Any) -> Any:
    backend = OpenAIBackend(urls, options=FAST, **options)
    try:
        return backend.check()
    finally:
        backend.close()


def test_a_check_says_what_is_served() -> None:
    entry = {"id": "b", "root": "/models/b", "max_model_len": 4096}
    with serving(models=Reply({"data": [{"id": "a"}, entry]})) as server:
        assert check(server.url, model="b") == entry
        assert check(server.url) == {"id": "a"}
        assert check(server.url, model="adapter") == {"id": "adapter"}  # not listed, and yet there
    with serving(models=Reply({}, 404)) as server:
        assert check(server.url) == {}


def test_a_check_refuses_what_would_fail_later() -> None:
    unknown = Reply({"error": "The model `c` does not exist."}, 404)
    listed = Reply({"data": [{"id": "a"}, {"id": "b"}]})
    with serving(models=listed, completion=unknown) as server:
        with pytest.raises(ConfigError, match=r"`c` does not exist.*The server lists the models a, b\."):
            check(server.url, model="c")
        with serving(models=Reply({"data": [{"id": "b"}]})) as other:
            with pytest.raises(ConfigError, match=r"the servers have different models: a at .*, b at "):
                check(server.url, other.url)
            assert check(other.url, other.url, model="b") == {"id": "b"}
        port = server.port
    with pytest.raises(ConfigError, match=rf"no model can be asked at http://127.0.0.1:{port}/v1: .*ClientConnector"):
        check(f"http://127.0.0.1:{port}/v1")


def test_fields_that_a_model_refuses_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Call] = []

    async def handler(call: Call) -> Reply:
        calls.append(call)
        for field in ("max_tokens", "temperature", "stop"):
            if field in call.body:
                return Reply({"error": {"message": f"Unsupported parameter: '{field}' is not supported"}}, 400)
        return chat("well")

    with ServerThread(handler) as server:
        backend = OpenAIBackend([server.url], model="m", options=FAST)
        assert [done.text for done in backend.complete([PROMPT])] == ["well"]
        assert [done.text for done in backend.complete([PROMPT])] == ["well"]
        backend.close()
    assert len(calls) == 5
    assert calls[-1].body["max_completion_tokens"] == 7
    assert not {"max_tokens", "temperature", "stop"} & set(calls[-1].body)
    ours = [record for record in caplog.records if record.name == "zerosearch_env.llm.openai"]
    assert [record.getMessage().partition(": ")[2] for record in ours] == [
        "max_tokens is sent as max_completion_tokens, as the model wants it",
        "temperature is left out, because the model does not take it",
        "stop is left out, because the model does not take it",
    ]


def test_a_field_that_is_refused_for_ever_is_a_failure() -> None:
    reply = Reply({"error": {"message": "Unsupported value: 'seed' is not supported"}}, 400)
    with serving(models=Reply({}), completion=reply) as server:
        assert "Unsupported value" in (complete(server, model="m").failure or "")
