"""`zerosearch serve` next to a plain FastAPI and bm25s server, and with 200 clients next to one.

Two parts. First, both servers search the same passages (sentences of real ones, recombined as in `corpus/scale.py`) for
queries that never repeat, with 1, 32 and 200 clients. Second, batches: an engine call takes a fixed time, however many
searches it holds, as a stand-in for a simulation LLM, a GPU or another machine. Each server runs in its own process,
the clients share this one; each keeps its connection and sends its next search when the last one is answered. Wall
time, and the CPU time of the servers where the system tells; the cases take turns. The clients need a core of their
own: where they have none, the ratio of the requests per second is closer to 1 than that of the CPU times.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from zerosearch_env.engines import ConstantEngine, CorpusEngine, SearchEngine
from zerosearch_env.types import Document, SearchRequest, SearchResult

from ...measure import add_real_texts, alternating, make_parser, middle, write_record
from ..corpus.scale import recombined
from ..real_text import load_workload
from .peer import FRAMEWORK, Texts, serve_plainly

ONE_BY_ONE, UNBATCHED, BATCHED = "one client, one by one", "all clients, batches of one", "all clients, batched"
OURS, PEER = "zerosearch serve", f"{FRAMEWORK} and bm25s"
CLIENTS = (1, 32, 200)
TOP_K = 5

Server = tuple[int, int]
"""Port and process of a server."""


class FixedCostEngine(ConstantEngine):
    """An engine with the same documents for every search; a call takes `seconds`, however many searches it holds."""

    waits = True

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
    requests_per_engine_call: float | None
    """None for a server that does not count them."""
    latency_ms_median: float
    latency_ms_p95: float
    server_cpu_us: float | None
    """CPU time of the server per request, in microseconds; None if the system does not tell."""


@contextmanager
def running_server(serve: Callable[..., None], *arguments: Any) -> Iterator[Server]:
    """Run `serve(pipe, *arguments)` in its own process until SIGTERM; it sends its port through the pipe.

    Raises:
        RuntimeError: the server did not end by SIGTERM with status 0.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        port = ours.recv()
        assert process.pid is not None
        yield port, process.pid
    finally:
        process.terminate()
        process.join(30)
    if process.exitcode not in (0, -15):
        raise RuntimeError(f"the server ended with status {process.exitcode} after SIGTERM")


def serve_fixed_cost(pipe: Connection, call_s: float, max_batch: int) -> None:
    """Serve a `FixedCostEngine`."""
    _serve(pipe, FixedCostEngine(call_s), max_batch)


def serve_corpus(pipe: Connection, texts: Texts) -> None:
    """Serve a `CorpusEngine` with the default options."""
    documents = [Document(title, text, str(i)) for i, (title, text) in enumerate(texts)]
    engine = CorpusEngine(documents)
    engine.search([SearchRequest("a", "", (), noisy=False, top_k=TOP_K, seed=0)])  # builds the index
    _serve(pipe, engine)


def _serve(pipe: Connection, engine: SearchEngine, max_batch: int = 256) -> None:
    from zerosearch_env.serve.access import open_socket
    from zerosearch_env.serve.command import ServeConfig, make_service, run

    with open_socket("127.0.0.1", 0) as listener:
        config = ServeConfig(dataset=None, max_batch=max_batch)
        service = make_service(config, engine)
        pipe.send(listener.getsockname()[1])
        sys.exit(run(service, listener, grace_s=config.grace_s))


async def drive(server: Server, queries: Iterator[str], *, clients: int, requests: int) -> Load:
    """Let all clients send their shares of the requests concurrently, each client one request after the other.

    Args:
        server: port and process of a server on this machine.
        queries: a new query for each request.
        clients: number of concurrent clients.
        requests: requests of all clients together.
    """
    port, pid = server
    before, cpu_before = await _stats(port), cpu_s(pid)
    share = requests // clients
    loop = asyncio.get_running_loop()
    made: list[_Client] = []
    for _ in range(clients):
        _, client = await loop.create_connection(lambda: _Client(queries, share), "127.0.0.1", port)
        made.append(client)
    began = time.perf_counter()
    for client in made:
        client.send()
    await asyncio.gather(*(client.finished for client in made))
    seconds = time.perf_counter() - began
    after, cpu_after = await _stats(port), cpu_s(pid)
    latencies = sorted(latency for client in made for latency in client.latencies)
    good, sent = len(latencies), share * clients
    calls = after.get("engine_calls", 0) - before.get("engine_calls", 0)
    cpu = None if cpu_before is None or cpu_after is None else round((cpu_after - cpu_before) / sent * 1e6, 1)
    return Load(
        clients=clients,
        requests=sent,
        errors=sent - good,
        seconds=round(seconds, 3),
        requests_per_second=round(good / seconds, 1),
        requests_per_engine_call=round((after["searches"] - before["searches"]) / calls, 2) if calls else None,
        latency_ms_median=round(1000 * statistics.median(latencies), 1) if latencies else 0.0,
        latency_ms_p95=round(1000 * latencies[int(0.95 * (good - 1))], 1) if latencies else 0.0,
        server_cpu_us=cpu,
    )


class _Client(asyncio.Protocol):
    """A client that sends its next search when the last one is answered. It does little else, to leave time to servers.

    Args:
        queries: a new query for each request.
        requests: number of requests.
    """

    def __init__(self, queries: Iterator[str], requests: int) -> None:
        self._queries, self._left = queries, requests
        self._received = b""
        self.latencies: list[float] = []
        """The seconds of every request that got its result."""
        self.finished = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport: Any = transport

    def send(self) -> None:
        """Send the next search; close the connection if there is none."""
        if not self._left:
            self._transport.close()
            return
        self._left -= 1
        body = json.dumps({"queries": [next(self._queries)], "topk": TOP_K, "return_scores": True}).encode()
        self._received, self._began = b"", time.perf_counter()
        self._transport.write(_request(b"POST", b"/retrieve", body))

    def data_received(self, data: bytes) -> None:
        """Collect a response."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        status, length = _status_and_length(head)
        if len(body) == length:
            if status == 200:
                self.latencies.append(time.perf_counter() - self._began)
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server or this client has closed the connection."""
        self.finished.set_result(None)


def _request(method: bytes, path: bytes, body: bytes = b"") -> bytes:
    head = b"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (method, path, len(body)) + body


def _status_and_length(head: bytes) -> tuple[int, int]:
    """Status and length of the body from the head of a response."""
    return int(head[9:12]), int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


async def _stats(port: int) -> dict[str, float]:
    """The counters of our server; empty for one without counters."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request(b"GET", b"/stats"))
    status, length = _status_and_length(await reader.readuntil(b"\r\n\r\n"))
    body = await reader.readexactly(length)
    writer.close()
    counters: dict[str, float] = json.loads(body) if status == 200 else {}
    return counters


def cpu_s(pid: int) -> float | None:
    """CPU seconds of a process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def measure_batches(*, clients: int, requests: int, call_s: float, rounds: int) -> dict[str, list[Load]]:
    """Measure the effect of batches: the load of every case once per round.

    Args:
        clients: number of concurrent clients.
        requests: requests of all clients together, in the batched case; the other cases get a tenth.
        call_s: seconds of an engine call.
        rounds: number of rounds.
    """
    few = max(clients, requests // 10)
    queries = (f"query {number}" for number in itertools.count())
    loads: dict[str, list[Load]] = {ONE_BY_ONE: [], UNBATCHED: [], BATCHED: []}
    with (
        running_server(serve_fixed_cost, call_s, 1) as single,
        running_server(serve_fixed_cost, call_s, 256) as batching,
    ):
        for _ in range(rounds):
            loads[ONE_BY_ONE].append(asyncio.run(drive(batching, queries, clients=1, requests=few // 4)))
            loads[UNBATCHED].append(asyncio.run(drive(single, queries, clients=clients, requests=few)))
            loads[BATCHED].append(asyncio.run(drive(batching, queries, clients=clients, requests=requests)))
    return loads


def compare(
    texts: Texts, questions: Sequence[str], *, requests: int, rounds: int, clients: Sequence[int] = CLIENTS
) -> dict[str, list[Load]]:
    """Measure both servers with each number of clients, in turns; the queries never repeat.

    Args:
        texts: titles and texts of the passages.
        questions: the queries; each gets a number.
        requests: requests per case and round; a lone client sends a fifth.
        rounds: number of rounds.
        clients: numbers of concurrent clients.
    """
    queries = (f"{question} {n}" for n, question in enumerate(itertools.cycle(questions)))
    loads: dict[str, list[Load]] = {}
    with running_server(serve_corpus, texts) as ours, running_server(serve_plainly, texts) as peer:
        servers = {OURS: ours, PEER: peer}
        for server in servers.values():
            asyncio.run(drive(server, queries, clients=1, requests=20))
        cases = [(name, count) for count in clients for name in servers]
        for name, count in alternating(cases, rounds):
            sent = max(count, requests // 5 if count == 1 else requests)
            load = asyncio.run(drive(servers[name], queries, clients=count, requests=sent))
            loads.setdefault(case_name(name, count), []).append(load)
    return loads


def case_name(server: str, clients: int) -> str:
    """The name of a case, such as `"zerosearch serve, 32 clients"`."""
    return f"{server}, {clients} client{'s' if clients > 1 else ''}"


def medians_of(loads: dict[str, list[Load]]) -> dict[str, Load]:
    """The round with the median throughput of each case."""
    return {name: middle(rounds, lambda load: load.requests_per_second) for name, rounds in loads.items()}


def ratios(loads: dict[str, list[Load]], clients: Sequence[int] = CLIENTS) -> dict[str, dict[str, float]]:
    """How many times the peer's speed ours is, by number of clients: in requests/s, and in requests per CPU second.

    Each is the median of the rounds' ratios, in which both servers took their turns one after the other.
    """
    compared: dict[str, dict[str, float]] = {"requests/s": {}, "requests per CPU second": {}}
    for count in clients:
        rounds = list(zip(loads[case_name(OURS, count)], loads[case_name(PEER, count)], strict=True))
        rates = [ours.requests_per_second / peer.requests_per_second for ours, peer in rounds]
        cpu = [
            peer.server_cpu_us / ours.server_cpu_us
            for ours, peer in rounds
            if peer.server_cpu_us and ours.server_cpu_us
        ]
        name = f"{count} client{'s' if count > 1 else ''}"
        compared["requests/s"][name] = round(statistics.median(rates), 2)
        if cpu:
            compared["requests per CPU second"][name] = round(statistics.median(cpu), 2)
    return compared


def print_loads(loads: dict[str, list[Load]]) -> None:
    """Print a line per case."""
    width = max(map(len, loads))
    print(f"{'':<{width}}  requests/s  per engine call  latency ms (p95)  server CPU us  errors")
    for name, load in medians_of(loads).items():
        latency = f"{load.latency_ms_median:.1f} ({load.latency_ms_p95:.1f})"
        calls = "" if load.requests_per_engine_call is None else f"{load.requests_per_engine_call:.1f}"
        cpu = "" if load.server_cpu_us is None else f"{load.server_cpu_us:,.0f}"
        errors = sum(each.errors for each in loads[name])
        print(
            f"{name:<{width}}  {load.requests_per_second:>10,.1f}  {calls:>15}  {latency:>16}  {cpu:>13}  {errors:>6}"
        )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record; the status is 1 if a request got no result."""
    parser = make_parser("serve", __doc__, rounds=3)
    add_real_texts(parser)
    parser.add_argument("--passages", type=int, default=10_000, help="size of the corpus (10000)")
    parser.add_argument("--clients", type=int, default=200, help="concurrent clients (200)")
    parser.add_argument("--requests", type=int, default=6000, help="requests of the batched case (6000)")
    parser.add_argument("--call-ms", type=float, default=20.0, help="time of an engine call (20 ms)")
    arguments = parser.parse_args(argv)
    questions = [question.text for question in load_workload(arguments.data).questions]
    rows = [row["contents"].partition("\n") for row in recombined(arguments.data, arguments.passages)]
    texts = [(title.strip('"'), text) for title, _, text in rows]
    counts = tuple(sorted({min(count, arguments.clients) for count in CLIENTS}))
    compared = compare(texts, questions, requests=arguments.requests // 6, rounds=arguments.rounds, clients=counts)
    print(f"{len(texts):,} passages of 100 words, top {TOP_K}, queries that never repeat")
    print_loads(compared)
    times_peer = ratios(compared, counts)
    print(f"times the speed of {PEER}: {json.dumps(times_peer)}\n")
    loads = measure_batches(
        clients=arguments.clients,
        requests=arguments.requests,
        call_s=arguments.call_ms / 1000,
        rounds=arguments.rounds,
    )
    medians = medians_of(loads)
    print(f"engine calls of {arguments.call_ms:g} ms, {arguments.clients} clients")
    print_loads(loads)
    batched = medians[BATCHED].requests_per_second
    times = {f"times {name}": round(batched / medians[name].requests_per_second, 1) for name in (ONE_BY_ONE, UNBATCHED)}
    print(json.dumps(times))
    results = {
        "passages": len(texts),
        "times_peer": times_peer,
        "peer_medians": medians_of(compared),
        "engine_call_ms": arguments.call_ms,
        **times,
        "medians": medians,
        "peer_rounds": compared,
        "rounds": loads,
    }
    unit = "wall time; the round with the median throughput, and all rounds"
    write_record(arguments.output, ["fastapi", "starlette", "uvicorn", "httptools", "bm25s"], unit=unit, **results)
    return 1 if any(load.errors for rounds in (*loads.values(), *compared.values()) for load in rounds) else 0
