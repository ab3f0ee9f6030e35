"""Connections that never send a request, too many of them, and requests under way when the server stops."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")

from zerosearch_env.serve.connections import RateLimit, WholeResponses

HEAD = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\n"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def test_a_head_that_never_ends_is_timed_out(start: Any) -> None:
    server = start(limits={"head_timeout_s": 0.1})
    with connect(server.port) as partial, connect(server.port) as silent:
        partial.sendall(HEAD)
        assert partial.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert partial.recv(1000) == b""
        assert silent.recv(1000) == b""


def test_a_second_head_that_never_ends_is_timed_out_and_an_idle_connection_is_not(start: Any) -> None:
    server = start(limits={"head_timeout_s": 0.1})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/retrieve", b'{"query": "a"}')
    assert connection.getresponse().read()
    time.sleep(0.2)
    connection.request("POST", "/retrieve", b'{"query": "b"}')
    assert connection.getresponse().read()
    assert connection.sock is not None
    connection.sock.sendall(HEAD)
    assert connection.sock.recv(1000).startswith(b"HTTP/1.1 408 ")
    connection.close()


@pytest.mark.parametrize("before", [b"", HEAD + b"Content-Length: 14\r\n\r\n" + b'{"query": "a"}'])
@pytest.mark.parametrize("line", [b"x" * 1000, b"X: abcdefghij\r\n" * 100])
def test_a_head_without_end_is_refused_before_it_fills_the_memory(start: Any, before: bytes, line: bytes) -> None:
    server = start()
    with connect(server.port) as endless:
        endless.sendall(before + HEAD)
        sent = 0
        try:
            while sent < 2**26:
                endless.sendall(line)
                sent += len(line)
        except ConnectionError:
            pass
    assert sent < 2**24, "the rest is in the buffers of the system"
    assert server.post("/retrieve", {"query": "b"}).status == 200


def test_a_body_is_no_head(start: Any) -> None:
    server = start()
    query = "word " * 30_000
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(2):
        connection.request("POST", "/retrieve", json.dumps({"query": query}).encode())
        reply = connection.getresponse()
        assert (reply.status, len(reply.read()) > 0) == (200, True)
    connection.close()


@pytest.mark.slow
def test_unfinished_heads_do_not_keep_others_out(start: Any) -> None:
    server = start(limits={"max_connections": 8})
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server.port)).sendall(HEAD)
        for number in range(5):
            assert server.post("/retrieve", {"query": f"q{number}"}).status == 200
        assert len(server.server.server_state.connections) <= 8


def test_at_the_limit_idle_connections_give_way_and_requests_under_way_do_not(
    start: Any, recording: Any, together: Any
) -> None:
    server = start(recording(seconds=0.01), limits={"max_connections": 4})
    with ExitStack() as stack:
        for _ in range(4):
            idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            stack.callback(idle.close)
            idle.request("POST", "/retrieve", b'{"query": "a"}')
            idle.getresponse().read()
        asks = [lambda n=n: server.post("/retrieve", {"query": f"q{n}"}).status for n in range(20)]
        assert together(asks) == [200] * 20


def test_every_request_under_way_is_answered_when_the_server_stops(start: Any, recording: Any) -> None:
    """Also those on connections that the server has not accepted yet, and those whose heads are on their way."""
    engine = recording()
    engine.released.clear()
    server = start(engine, limits={"max_connections": 16}, grace_s=20.0)
    body = json.dumps({"query": "q"}).encode()
    request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server.port)) for _ in range(60)]
        for connection in connections[:-1]:
            connection.sendall(request)
        while not engine.calls:
            time.sleep(0.005)
        server.server.should_exit = True
        connections[-1].sendall(request)
        time.sleep(0.2)
        engine.released.set()
        answers = [connection.makefile("rb").read() for connection in connections]
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 200 "}
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(server.port)


def test_clients_that_keep_their_connection_see_the_end_coming(start: Any, recording: Any, together: Any) -> None:
    server = start(recording(seconds=0.002))
    stopped = threading.Event()

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.connect()
        for count in range(10_000):
            if count == 20:
                stopped.wait(20)
            connection.request("POST", "/retrieve", b'{"query": "q"}')
            response = connection.getresponse()
            assert response.read()
            if response.getheader("Connection") == "close":
                connection.close()
                return response.status
        raise AssertionError("the server did not stop")

    def stop() -> int:
        time.sleep(0.1)
        server.server.should_exit = True
        stopped.set()
        return 200

    assert together([ask] * 20 + [stop]) == [200] * 21


def test_a_response_is_sent_in_one_piece_and_anything_else_at_once() -> None:
    sent: list[bytes] = []
    closed: list[bool] = []
    answering = [False]
    transport: Any = SimpleNamespace(write=sent.append, close=lambda: closed.append(True), is_closing=lambda: False)
    whole = WholeResponses(transport, lambda: answering[0])
    whole.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    answering[0] = True
    whole.write(b"head ")
    whole.write(b"body")
    assert len(sent) == 1
    whole.flush()
    whole.flush()
    whole.write(b"last")
    whole.close()
    assert sent[1:] == [b"head body", b"last"]
    assert closed == [True]
    assert not whole.is_closing()


@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"])
def test_responses_without_a_body_arrive(start: Any, ending: bytes) -> None:
    server = start()
    with connect(server.port) as connection:
        connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n" + ending + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_log_line_is_not_repeated() -> None:
    now = [0.0]
    limit = RateLimit(10.0, clock=lambda: now[0])

    def log(message: str, *args: object) -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "x.py", 1, message, args, None)
        return record.getMessage() if limit.filter(record) else None

    assert log("closed %d", 1) == "closed 1"
    assert [log("closed %d", number) for number in range(5)] == [None] * 5
    assert log("another") == "another"
    now[0] = 10.0
    assert log("closed %d", 9) == "closed 9 (5 more since the last line)"


SERVE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
from zerosearch_env.cli import main
sys.exit(main(["serve", "--dataset", "world", "--world.passages", "200", "--port", "0"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits and signals of POSIX")
def test_500_unfinished_heads_at_120_file_handles_and_200_clients_at_sigterm() -> None:
    popen = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert popen.stdout is not None
        port = int(popen.stdout.readline().split(" at ")[1].split()[0].rsplit(":", 1)[1])
        body = json.dumps({"query": "Who founded the mill?"}).encode()
        request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        with ExitStack() as stack:
            for _ in range(500):
                stack.enter_context(connect(port)).sendall(HEAD)
            for _ in range(20):
                with connect(port) as asking:
                    asking.sendall(request)
                    assert asking.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
        answers: list[bytes] = []
        sent = threading.Barrier(201)

        def ask() -> None:
            with connect(port) as asking:
                asking.sendall(request)
                sent.wait(60)
                answers.append(asking.makefile("rb").read(13))

        threads = [threading.Thread(target=ask) for _ in range(200)]
        for thread in threads:
            thread.start()
        sent.wait(60)
        popen.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert answers == [b"HTTP/1.1 200 "] * 200
        _, log = popen.communicate(timeout=60)
        assert popen.returncode == 0
        assert len(log) < 5000
    finally:
        popen.kill()
        popen.communicate()
