"""`zerosearch serve` with 200 concurrent clients, compared with the same searches one by one.

An engine call takes a fixed time, however many searches it holds: a stand-in for a simulation LLM, a GPU or
another machine. The server runs in its own process, the clients share this one; each keeps its connection and
sends its next search when the last one is answered. Wall time, since most of it is waiting; the cases take turns.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from zerosearch_env.engines import ConstantEngine
from zerosearch_env.types import SearchRequest, SearchResult

from ..measure import make_parser, middle, write_record

ONE_BY_ONE, UNBATCHED, BATCHED = "one client, one by one", "all clients, batches of one", "all clients, batched"


class FixedCostEngine(ConstantEngine):
    """An engine with the same documents for every search; a call takes `seconds`, however many searches it holds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Wait, then return the documents of each request."""
        time.sleep(self._seconds)
        return super().search(requests)


@dataclass(frozen=True)
class Load:
    """The measurements of one case in one round."""

    clients: int
    requests: int
    errors: int
    """Requests without a result: a status other than 200, or a broken connection."""
    seconds: float
    requests_per_second: float
    requests_per_engine_call: float
    latency_ms_median: float
    latency_ms_p95: float


@contextmanager
def running_server(call_s: float, *, max_batch: int) -> Iterator[int]:
    """Run a server over a `FixedCostEngine` in its own process; yields its port.

    Raises:
        RuntimeError: the server did not end with status 0 after SIGTERM.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, call_s, max_batch), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join(30)
    if process.exitcode != 0:
        raise RuntimeError(f"the server ended with status {process.exitcode} after SIGTERM")


def _serve(pipe: Connection, call_s: float, max_batch: int) -> None:
    from zerosearch_env.serve.access import open_socket
    from zerosearch_env.serve.command import ServeConfig, make_service, run

    with open_socket("127.0.0.1", 0) as listener:
        config = ServeConfig(dataset=None, max_batch=max_batch)
        service = make_service(config, FixedCostEngine(call_s))
        pipe.send(listener.getsockname()[1])
        sys.exit(run(service, listener, grace_s=config.grace_s))


async def drive(port: int, *, clients: int, requests: int) -> Load:
    """Let all clients send their shares of the requests concurrently, each client one request after the other.

    Args:
        port: port of the server on this machine.
        clients: number of concurrent clients.
        requests: requests of all clients together.
    """
    before = await _stats(port)
    share = requests // clients
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    began = time.perf_counter()
    answered = await asyncio.gather(
        *(_client(connection, number, share) for number, connection in enumerate(connections))
    )
    seconds = time.perf_counter() - began
    after = await _stats(port)
    latencies = sorted(latency for client in answered for latency in client)
    good = len(latencies)
    calls = after["engine_calls"] - before["engine_calls"]
    return Load(
        clients=clients,
        requests=share * clients,
        errors=share * clients - good,
        seconds=round(seconds, 3),
        requests_per_second=round(good / seconds, 1),
        requests_per_engine_call=round((after["searches"] - before["searches"]) / max(1, calls), 2),
        latency_ms_median=round(1000 * statistics.median(latencies), 1) if latencies else 0.0,
        latency_ms_p95=round(1000 * latencies[int(0.95 * (good - 1))], 1) if latencies else 0.0,
    )


async def _client(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], number: int, requests: int
) -> list[float]:
    """Return the seconds of every request that got its result."""
    reader, writer = connection
    latencies = []
    for turn in range(requests):
        body = json.dumps({"queries": [f"query {turn} of client {number}"], "topk": 3, "return_scores": True}).encode()
        began = time.perf_counter()
        try:
            status, _ = await _exchange(reader, writer, b"POST", b"/retrieve", body)
        except (OSError, asyncio.IncompleteReadError):
            break
        if status == 200:
            latencies.append(time.perf_counter() - began)
    writer.close()
    return latencies


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: bytes, path: bytes, body: bytes = b""
) -> tuple[int, bytes]:
    """Send a request on an open connection; return the status and body of the response."""
    writer.write(b"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (method, path, len(body), body))
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    return int(head.split(" ", 2)[1]), await reader.readexactly(length)


async def _stats(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, body = await _exchange(reader, writer, b"GET", b"/stats")
    writer.close()
    counters: dict[str, float] = json.loads(body)
    return counters


def measure(*, clients: int, requests: int, call_s: float, rounds: int) -> dict[str, list[Load]]:
    """Measure the load of every case once per round.

    Args:
        clients: number of concurrent clients.
        requests: requests of all clients together, in the batched case; the other cases get a tenth.
        call_s: seconds of an engine call.
        rounds: number of rounds.
    """
    few = max(clients, requests // 10)
    loads: dict[str, list[Load]] = {ONE_BY_ONE: [], UNBATCHED: [], BATCHED: []}
    with running_server(call_s, max_batch=1) as single, running_server(call_s, max_batch=256) as batching:
        for _ in range(rounds):
            loads[ONE_BY_ONE].append(asyncio.run(drive(batching, clients=1, requests=few // 4)))
            loads[UNBATCHED].append(asyncio.run(drive(single, clients=clients, requests=few)))
            loads[BATCHED].append(asyncio.run(drive(batching, clients=clients, requests=requests)))
    return loads


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record; the status is 1 if a request got no result."""
    parser = make_parser("serve", __doc__, rounds=3)
    parser.add_argument("--clients", type=int, default=200, help="concurrent clients (200)")
    parser.add_argument("--requests", type=int, default=6000, help="requests of the batched case (6000)")
    parser.add_argument("--call-ms", type=float, default=20.0, help="time of an engine call (20 ms)")
    arguments = parser.parse_args(argv)
    loads = measure(
        clients=arguments.clients,
        requests=arguments.requests,
        call_s=arguments.call_ms / 1000,
        rounds=arguments.rounds,
    )
    medians = {name: middle(rounds, lambda load: load.requests_per_second) for name, rounds in loads.items()}
    print(f"engine calls of {arguments.call_ms:g} ms, {arguments.clients} clients")
    print(f"{'':<28}  requests/s  per engine call  latency ms (p95)  errors")
    for name, load in medians.items():
        latency = f"{load.latency_ms_median:.0f} ({load.latency_ms_p95:.0f})"
        print(
            f"{name:<28}  {load.requests_per_second:>10,.1f}  {load.requests_per_engine_call:>15.1f}  "
            f"{latency:>16}  {sum(each.errors for each in loads[name]):>6}"
        )
    batched = medians[BATCHED].requests_per_second
    times = {f"times {name}": round(batched / medians[name].requests_per_second, 1) for name in (ONE_BY_ONE, UNBATCHED)}
    print(json.dumps(times))
    unit = "wall time; the round with the median throughput, and all rounds"
    results = {"engine_call_ms": arguments.call_ms, **times, "medians": medians, "rounds": loads}
    write_record(arguments.output, ["starlette", "uvicorn", "httptools"], unit=unit, **results)
    return 1 if any(load.errors for rounds in loads.values() for load in rounds) else 0
