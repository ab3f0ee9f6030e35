"""`zerosearch serve` as a process: its options, its socket, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zerosearch_env.cli import main
from zerosearch_env.engines import ConstantEngine, make_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.serve.access import open_socket
from zerosearch_env.serve.command import TOKEN_VARIABLE, ServeConfig, make_service

# An engine that takes its time, under a name for --engine.
SLOW = """
import sys, time
from zerosearch_env.cli import main
from zerosearch_env.engines import ConstantEngine, register_engine

class Slow(ConstantEngine):
    def search(self, requests):
        print("searching", flush=True)
        time.sleep(float(sys.argv[1]))
        return super().search(requests)

    def close(self):
        super().close()
        print("closed", flush=True)

register_engine("slow", lambda argument, dataset: Slow())
sys.exit(main(["serve", "--engine", "slow", "--dataset", "None", "--port", "0", *sys.argv[2:]]))
"""


class Process:
    """A server process and the lines it prints."""

    def __init__(self, seconds: float, *options: str) -> None:
        pytest.importorskip("starlette", reason="starlette is not installed (extra serve)")
        pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SLOW, str(seconds), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        found = re.search(r"slow at (http://\S+)", self.line())
        assert found
        self.url = found[1]

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def ask(self) -> Any:
        with urllib.request.urlopen(f"{self.url}/retrieve", b'{"query": "q", "topk": 1}', timeout=20) as reply:
            return json.load(reply)

    def end(self) -> tuple[int, str, str]:
        out, err = self.popen.communicate(timeout=20)
        return self.popen.returncode, out, err


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_lets_the_request_under_way_finish(processes: list[Process], number: signal.Signals) -> None:
    process = Process(0.5)
    processes.append(process)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(process.ask()))
    asking.start()
    assert process.line() == "searching\n"
    process.popen.send_signal(number)
    asking.join(20)
    assert answers[0]["result"][0][0]["document"]["id"] == "constant-1"
    assert process.end() == (0, "closed\n", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.slow
def test_an_engine_that_hangs_cannot_keep_the_process_alive(processes: list[Process]) -> None:
    process = Process(600.0, "--grace-s", "0.3")
    processes.append(process)
    with socket.create_connection(process.url.removeprefix("http://").split(":"), 10) as asking:
        asking.sendall(b'POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{"query": "q"}')
        assert process.line() == "searching\n"
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        status, _, err = process.end()
        assert asking.recv(100).startswith(b"HTTP/1.1 503 ")
    assert status == 1
    assert time.monotonic() - began < 10
    assert "Traceback" not in err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"zerosearch: error: cannot listen on 127.0.0.1:{port}: ")
    assert err.endswith("Choose another --port; 0 picks a free one\n")


def test_other_addresses_need_a_token_or_get_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
    monkeypatch.setattr("zerosearch_env.serve.command.run", lambda service, listener, grace_s: 0)
    options = ["serve", "--port", "0", "--world.passages", "200"]
    for host, token, warned in [
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "s3cret", False),
    ]:
        monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
        if token:
            monkeypatch.setenv(TOKEN_VARIABLE, token)
        assert main([*options, "--host", host]) == 0
        captured = capsys.readouterr()
        assert ("can be reached from other machines" in captured.err) == warned, host
        assert "s3cret" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialect": "skylr"}, "Did you mean 'skyrl'"),
        ({"noise_level": 0.5, "noise_schedule": "exp"}, "both given"),
        ({"noise_end": 0.25}, "none was given"),
        ({"noise_level": 1.5}, "noise level"),
        ({"noise_schedule": "exponential"}, "noise schedule"),
        ({"engine": "corpsu"}, "Did you mean 'corpus'"),
        ({"engine": "corpus"}, "needs a dataset"),
        ({"top_k": 0}, "top_k"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_wait_ms": -1.0}, r"max_wait_ms must be a finite number of milliseconds not below 0, got -1\.0"),
        ({"max_body_bytes": 0}, "max_body_bytes must be a whole number of bytes not below 1, got 0"),
        ({"grace_s": 0.0}, "grace_s must be a number of seconds above 0, got 0"),
        ({"request_timeout_s": float("nan")}, "request_timeout_s must be a number of seconds above 0, got nan"),
        ({"token": " "}, "the token is empty"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    engine = None if "engine" in options else ConstantEngine()
    with pytest.raises(ConfigError, match=message):
        make_service(ServeConfig(**({"dataset": None} | options)), engine)


def test_an_engine_is_shown_as_in_tables() -> None:
    service = make_service(ServeConfig(engine='{"kind": "corpus", "pool": 7}'))
    assert service.engine == "corpus (pool=7)"


def test_a_corpus_file_is_served(start: Any, tmp_path: Path) -> None:
    """The embedded engine, without a dataset, useful and noisy."""
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"title": f"Mill {n}", "text": f"The mill number {n} grinds wheat."} for n in range(20)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = start(make_engine(f"corpus:{corpus}"))
    reply = server.post("/retrieve", {"query": "mill number 7", "topk": 2, "noisy": False})
    assert reply.json["result"][0][0]["document"]["contents"] == '"Mill 7"\nThe mill number 7 grinds wheat.'
    noisy = server.post("/retrieve", {"query": "mill number 7", "topk": 2, "noisy": True}).body.decode()
    assert "number 7 " not in noisy
    too_many = server.post("/retrieve", {"query": "mill", "topk": 21})
    assert (too_many.status, too_many.json["kind"]) == (400, "refused_by_engine")
    assert "the corpus has 20 passages and top_k=21 needs at least 21" in too_many.json["error"]


def test_arguments_of_episodes_need_openenv(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--env", '{"reward": "f1"}']) == 2
    assert "only --openenv serves: add --openenv" in capsys.readouterr().err


def test_a_missing_openenv_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.delitem(sys.modules, "zerosearch_env.integrations.openenv", raising=False)
    monkeypatch.delitem(sys.modules, "zerosearch_env.integrations.openenv.serve", raising=False)
    assert main(["serve", "--openenv"]) == 2
    assert (
        'openenv 0.10 is needed here and is not installed. Install it with: pip install "zerosearch-env[openenv]"'
        in (capsys.readouterr().err)
    )
