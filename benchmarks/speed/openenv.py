"""The OpenEnv server next to OpenEnv's own echo environment: calls per second, and memory of many sessions.

The servers run in their own processes and take turns. The echo environment is that of `openenv init`. Every client
plays episodes: a reset, five turns, an answer. On our server the turns search the built-in world for queries that never
repeat, and get documents; the echo environment sends the same texts back. A third server is ours with an engine that
returns documents of this length without a search: what it lacks of the echo environment's speed is what episodes cost.
The clients share one process, which needs a core of its own: without one, the ratio of the calls per second is closer
to 1 than that of the CPU times.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import math
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from multiprocessing.connection import Connection
from typing import Any

from zerosearch_env import ConstantEngine, SearchRequest, SessionSource
from zerosearch_env.serve.access import open_socket
from zerosearch_env.serve.command import run_server

from ..measure import alternating, make_parser, memory_mb, write_record
from .serve.bench import Server, cpu_s, running_server

OURS, ECHO = "zerosearch serve --openenv", "OpenEnv's echo environment"
CONSTANT = f"{OURS}, without searches"
TURNS = 5
CALLS = TURNS + 2
"""Calls of an episode: a reset, the turns, an answer."""
CLIENTS = (1, 16, 64)
MAX_SESSIONS = 4096
FIELD = {OURS: "text", CONSTANT: "text", ECHO: "message"}
"""The field of an action that holds the text."""


@dataclass(frozen=True)
class Load:
    """The measurements of one case in one round."""

    clients: int
    calls: int
    lost: int
    """Calls whose response was an error, missing, or that of another client."""
    calls_per_second: float
    latency_ms_median: float
    latency_ms_p95: float
    server_cpu_us: float
    """CPU time of the server per call, in microseconds."""


class _FoundAlready(ConstantEngine):
    """Returns the same documents for every query, and says that this takes no time."""

    def is_quick(self, requests: Sequence[SearchRequest]) -> bool:
        return True


def serve_ours(pipe: Connection) -> None:
    """Serve episodes of the built-in world on a free port, which is sent through the pipe, until SIGTERM."""
    source = SessionSource()
    source.start(seed=0).search("builds the index")
    _serve_source(pipe, source)


def serve_constant(pipe: Connection) -> None:
    """`serve_ours` with the same five passages as the result of every search."""
    found = SessionSource().start(seed=0).search("who founded the mill of 1")
    _serve_source(pipe, SessionSource(search_engine=_FoundAlready(found)))


def _serve_source(pipe: Connection, source: SessionSource) -> None:
    """Serve as `zerosearch serve --openenv` does."""
    from zerosearch_env.integrations.openenv import make_app
    from zerosearch_env.integrations.openenv.serve import make_server

    server = make_server(make_app(source, max_sessions=MAX_SESSIONS), grace_s=1)
    with open_socket("127.0.0.1", 0) as listener:
        pipe.send(listener.getsockname()[1])
        run_server(server, listener)


def serve_echo(pipe: Connection) -> None:
    """Serve the environment that `openenv init` writes, as it serves itself, but without a log."""
    import uvicorn
    from openenv.core.env_server import create_app

    template = resources.files("openenv.cli.templates") / "openenv_env"
    names = {"__ENV_CLASS_NAME__": "Echo", "__ENV_TITLE_NAME__": "Echo", "__ENV_NAME__": "echo"}
    for name, file in (("models", "models.py"), ("echo", "server/__ENV_NAME___environment.py")):
        code = (template / file).read_text("utf-8")
        for placeholder, value in names.items():
            code = code.replace(placeholder, value)
        module = types.ModuleType(name)
        sys.modules[name] = module
        exec(compile(code, file, "exec"), vars(module))
    echo: Any = sys.modules["echo"]
    app = create_app(
        echo.EchoEnvironment, echo.EchoAction, echo.EchoObservation, env_name="echo", max_concurrent_envs=MAX_SESSIONS
    )
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning"))
    with open_socket("127.0.0.1", 0) as listener:
        pipe.send(listener.getsockname()[1])
        asyncio.run(server.serve(sockets=[listener]))


SERVERS: dict[str, Callable[[Connection], None]] = {ECHO: serve_echo, OURS: serve_ours, CONSTANT: serve_constant}


class Client:
    """A client with its own connection and episodes.

    Args:
        port: port of the server.
        name: name of the server.
        numbers: a new number for each of its texts.
    """

    def __init__(self, port: int, name: str, numbers: Iterator[int]) -> None:
        self._port, self._name, self._numbers = port, name, numbers
        self.latencies: list[float] = []
        """The seconds of every call that got its own response."""

    async def open(self) -> None:
        """Connect, as OpenEnv's clients do."""
        from websockets.asyncio.client import connect

        self._socket = await connect(f"ws://127.0.0.1:{self._port}/ws", max_size=None, proxy=None, open_timeout=120)

    async def close(self) -> None:
        """Leave."""
        await self._socket.close()

    async def play(self, episodes: int) -> None:
        """Play episodes, one after another."""
        for _ in range(episodes):
            await self.call("reset", {}, "")
            for _ in range(TURNS):
                await self.turn()
            answer = f"answer {next(self._numbers)}"
            await self.call("step", {FIELD[self._name]: f"<answer>{answer}</answer>"}, answer)

    async def turn(self) -> None:
        """Search for something new. The response must hold its number (echo), or documents (ours)."""
        number = next(self._numbers)
        text = f"<search>who founded the mill of {number}</search>"
        await self.call("step", {FIELD[self._name]: text}, f"{number}" if self._name == ECHO else "Doc ")

    async def call(self, kind: str, data: dict[str, str], expected: str) -> None:
        """Send a message and wait for the response, which must hold the expected text."""
        began = time.perf_counter()
        await self._socket.send(json.dumps({"type": kind, "data": data}))
        response = await self._socket.recv()
        if json.loads(response)["type"] == "observation" and expected in str(response):
            self.latencies.append(time.perf_counter() - began)


async def drive(server: Server, name: str, numbers: Iterator[int], *, clients: int, episodes: int) -> Load:
    """Let all clients play their shares of the episodes at the same time.

    Args:
        server: port and process of a server.
        name: its name.
        numbers: a new number for each text.
        clients: number of clients.
        episodes: episodes of all clients together.
    """
    port, pid = server
    made = [Client(port, name, numbers) for _ in range(clients)]
    await asyncio.gather(*(client.open() for client in made))
    share, cpu_before, began = math.ceil(episodes / clients), cpu_s(pid), time.perf_counter()
    await asyncio.gather(*(client.play(share) for client in made))
    seconds, cpu_after = time.perf_counter() - began, cpu_s(pid)
    await asyncio.gather(*(client.close() for client in made))
    latencies = sorted(latency for client in made for latency in client.latencies)
    calls = share * clients * CALLS
    return Load(
        clients=clients,
        calls=calls,
        lost=calls - len(latencies),
        calls_per_second=round(len(latencies) / seconds, 1),
        latency_ms_median=round(1000 * statistics.median(latencies), 2),
        latency_ms_p95=round(1000 * latencies[int(0.95 * (len(latencies) - 1))], 2),
        server_cpu_us=round(((cpu_after or 0.0) - (cpu_before or 0.0)) / calls * 1e6, 1),
    )


async def hold(server: Server, name: str, sessions: int) -> dict[str, float]:
    """Open many sessions, each in the middle of an episode, and read the memory of the server.

    Args:
        server: port and process of the server.
        name: its name.
        sessions: number of sessions.

    Returns:
        `sessions`, `lost` calls, and the resident memory in MB without and with them.
    """
    port, pid = server
    before, numbers = round(memory_mb(pid=pid), 1), itertools.count()
    made = [Client(port, name, numbers) for _ in range(sessions)]
    for some in (made[start : start + 50] for start in range(0, sessions, 50)):
        await asyncio.gather(*(client.open() for client in some))
    for some in (made[start : start + 50] for start in range(0, sessions, 50)):
        await asyncio.gather(*(client.call("reset", {}, "") for client in some))
        await asyncio.gather(*(client.turn() for client in some))
    after = round(memory_mb(pid=pid), 1)
    await asyncio.gather(*(client.turn() for client in made))  # all at the same time
    lost = 3 * sessions - sum(len(client.latencies) for client in made)
    await asyncio.gather(*(client.close() for client in made))
    return {"sessions": sessions, "lost": lost, "mb_before": before, "mb_with_sessions": after}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record; the status is 1 if a call was lost."""
    parser = make_parser("openenv", __doc__, rounds=5)
    parser.add_argument("--episodes", type=int, default=192, help="episodes per case and round (192)")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS), help="concurrent clients (1 16 64)")
    parser.add_argument("--sessions", type=int, default=1000, help="sessions whose memory is measured (1000)")
    arguments = parser.parse_args(argv)
    importlib.import_module("zerosearch_env.integrations.openenv")  # says so if OpenEnv is missing
    numbers = itertools.count()
    loads: dict[tuple[int, str], list[Load]] = {}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running_server(serve)) for name, serve in SERVERS.items()}
        for name, server in servers.items():
            asyncio.run(drive(server, name, numbers, clients=1, episodes=2))
        for count, name in alternating([(c, n) for c in arguments.clients for n in servers], arguments.rounds):
            load = asyncio.run(drive(servers[name], name, numbers, clients=count, episodes=arguments.episodes))
            loads.setdefault((count, name), []).append(load)
        memory = asyncio.run(hold(servers[OURS], OURS, arguments.sessions))
    results: dict[str, Any] = {}
    for count in arguments.clients:
        of = {name: loads[count, name] for name in servers}
        results[str(count)] = {
            **_ratios(of[OURS], of[ECHO]),
            "without_searches": _ratios(of[CONSTANT], of[ECHO]),
            "lost": sum(load.lost for rounds in of.values() for load in rounds),
            **of,
        }
        shown = {key: value for key, value in results[str(count)].items() if key not in of}
        print(f"{count} clients: {json.dumps(shown)}")
    print(f"memory: {json.dumps(memory)}")
    unit = (
        "per client count; ratios are medians of the rounds' ratios, ours / echo. Calls per second are wall time, "
        "which says little where the load average (see machine) exceeds the cores; CPU times hold there too"
    )
    write_record(
        arguments.output, ["openenv", "fastapi", "uvicorn", "websockets"], unit=unit, clients=results, memory=memory
    )
    return 1 if memory["lost"] or any(result["lost"] for result in results.values()) else 0


def _ratios(ours: Sequence[Load], echo: Sequence[Load]) -> dict[str, float]:
    """Medians of the rounds' ratios, ours / echo."""
    pairs = list(zip(ours, echo, strict=True))
    calls = statistics.median(a.calls_per_second / b.calls_per_second for a, b in pairs)
    cpu = statistics.median(a.server_cpu_us / b.server_cpu_us for a, b in pairs)
    return {"calls_per_second_ratio": round(calls, 2), "server_cpu_ratio": round(cpu, 2)}
