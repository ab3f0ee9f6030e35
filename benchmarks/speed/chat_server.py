"""A small local server that imitates the chat completions of a simulation LLM, for benchmarks and tests.

It implements just enough HTTP/1.1 for clients with persistent connections. A handler decides the responses, including
malformed ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Any
    """Parsed JSON; None without a body."""
    writer: asyncio.StreamWriter
    """For handlers that write the response themselves."""


@dataclass(frozen=True)
class Reply:
    """A response."""

    body: Any = field(default_factory=dict)
    """Sent as JSON; bytes are sent as they are."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Reply | None]]
"""None: the handler has written something itself, and the connection is closed."""


def chat(text: str, finish: str = "stop") -> Reply:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    return Reply({"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}]})


def documents(prompt: str) -> str:
    """Write what a well-tuned simulation LLM would for a prompt of this package, with the answers unless withheld."""
    task = prompt.rpartition("### Task\n")[2]
    fields = dict(re.findall(r"^([A-Z][a-z ]+?)(?: \(.*?\))?: (.*)$", task, re.MULTILINE))
    known = fields["Answers to that question"]
    lines = []
    for number in range(1, int(fields["Number"]) + 1):
        fact = "an unrelated matter" if fields["Kind"] == "noisy" else known.split(" | ")[0]
        lines.append(f"Doc {number}: Passage {number} on {fields['Query'][:40]} speaks of {fact}.")
    return "\n".join(lines)


SEARCHES = 3
"""Searches of an episode of `take_turn`."""


def take_turn(messages: Sequence[Mapping[str, str]]) -> str:
    """Write the next turn of an agent that searches `SEARCHES` times, without its stop string, as servers do."""
    turn = len(messages) // 2
    return f"I look it up. <search>treaty {turn}" if turn < SEARCHES else "It is clear. <answer>Geneva"


def _write_documents(messages: Sequence[Mapping[str, str]]) -> str:
    return documents(messages[-1]["content"])


MODELS: Mapping[str, Callable[[Sequence[Mapping[str, str]]], str]] = {
    "documents": _write_documents,
    "agent": take_turn,
}
"""What a server of this module may answer with: messages -> text."""


class _Delayed(asyncio.Protocol):
    """A connection that answers every request after a fixed time, its own work included.

    It does as little work as possible per request, so that a benchmark measures its client and not this server.
    """

    def __init__(self, latency_s: float, model: str) -> None:
        self._latency_s = latency_s
        self._write = MODELS[model]
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Schedule the response once a request is complete. Clients send the next request after the response."""
        due = self._loop.time() + self._latency_s
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        if head.startswith(b"GET"):
            answer = Reply({"data": [{"id": "local"}]})
        else:
            answer = chat(self._write(json.loads(body)["messages"]))
        content = json.dumps(answer.body).encode()
        self._loop.call_at(due, self._answer, b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    def _answer(self, raw: bytes) -> None:
        assert self._transport is not None
        self._transport.write(raw)


async def serve(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> asyncio.Server:
    """Start serving; the address is that of the server's first socket."""
    return await asyncio.start_server(lambda reader, writer: _connection(handler, reader, writer), host, port)


async def _connection(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            raw = await reader.readexactly(int(headers.get("content-length", 0)))
            reply = await handler(Call(method, path, headers, json.loads(raw) if raw else None, writer))
            if reply is None:
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
            start = f"HTTP/1.1 {reply.status} x\r\nContent-Length: {len(body)}\r\n{more}\r\n"
            writer.write(start.encode("latin-1") + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the client has gone, as clients do
    finally:
        writer.close()


class ServerThread:
    """A server in its own thread; a context manager.

    Args:
        handler: produces the responses.
        port: the port; 0 picks a free one.
    """

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self._handler = handler
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> ServerThread:
        self._thread.start()
        starting = serve(self._handler, port=self._port)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Its address, as an engine takes it."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def delayed_server(latency_s: float, model: str) -> Iterator[str]:
    """Start a server in its own process that answers after a fixed time.

    Args:
        latency_s: seconds from a request to its response.
        model: one of `MODELS`.

    Yields:
        Its address, as an engine takes it.
    """
    command = [sys.executable, "-m", __spec__.name, str(latency_s), model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


async def _main(latency_s: float, model: str) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Delayed(latency_s, model), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1]), sys.argv[2]))
