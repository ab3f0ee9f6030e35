"""The simulated engine: CPU cost of its client, how well it keeps a server busy, and cache hits per CPU second.

The server is a separate process that waits for a fixed time and then writes documents. The client's cost is CPU time
of this process per search, at the given concurrency; throughput is measured in wall time and compared with the limit
set by the server's latency, concurrency / latency.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zerosearch_env.engines import make_engine
from zerosearch_env.engines.cache import ResultCache
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.errors import EngineError
from zerosearch_env.llm import Completion, Prompt
from zerosearch_env.types import SearchRequest, SearchResult

from ..measure import Case, make_parser, measure, middle, print_timings, write_record
from .chat_server import delayed_server, documents


def requests(count: int, start: int = 0) -> list[SearchRequest]:
    """Make searches, each with its own seed and every other one noisy."""
    return [
        SearchRequest(f"query {i}", f"What is thing {i}?", (f"thing {i}",), noisy=i % 2 == 1, top_k=5, seed=i)
        for i in range(start, start + count)
    ]


class _Writer:
    """A backend that takes almost no time."""

    name, identity = "writer", "writer"

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return [Completion(documents(prompt.text)) for prompt in prompts]

    def close(self) -> None:
        """Nothing to release."""


def _engine(url: str, concurrency: int) -> SimulatedEngine:
    spec = {"kind": "simulated", "argument": f"openai:{url}", "model": "local", "http": {"concurrency": concurrency}}
    engine = make_engine(spec)
    assert isinstance(engine, SimulatedEngine)
    return engine


def _checked(results: Sequence[SearchResult]) -> int:
    """Return the number of searches.

    Raises:
        EngineError: a search failed, so there is nothing to measure.
    """
    failure = next((result.failure for result in results if result.failure), None)
    if failure is not None:
        raise EngineError(failure)
    return len(results)


def throughput(url: str, concurrency: int, latency_s: float, seconds: float) -> dict[str, float]:
    """Measure searches per second of wall time, and their share of concurrency / latency."""
    engine = _engine(url, concurrency)
    _checked(engine.search(requests(concurrency)))
    count = max(concurrency, round(seconds * concurrency / latency_s))
    began, cpu = time.perf_counter(), time.process_time()
    _checked(engine.search(requests(count)))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    engine.close()
    rate, bound = count / wall, concurrency / latency_s
    return {
        "searches_per_s": round(rate, 1),
        "bound_per_s": round(bound, 1),
        "share": round(rate / bound, 3),
        "cpu_ms_per_search": round(1e3 * cpu / count, 3),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("simulated", __doc__, rounds=7, seconds=0.5)
    parser.add_argument("--concurrency", type=int, default=64, help="concurrent searches (64)")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the server takes (0.05)")
    parser.add_argument("--entries", type=int, default=5000, help="cached searches (5000)")
    arguments = parser.parse_args(argv)
    cached = requests(arguments.entries)
    with tempfile.TemporaryDirectory() as folder, delayed_server(0.0, "documents") as url:
        stored = SimulatedEngine(_Writer(), cache=ResultCache(Path(folder) / "cache.sqlite"))
        client = _engine(url, arguments.concurrency)
        batch = requests(8 * arguments.concurrency)
        _checked(stored.search(cached))
        timings = measure(
            [
                Case("cache hit", lambda: _checked(stored.search(cached))),
                Case("search on a server", lambda: _checked(client.search(batch))),
            ],
            rounds=arguments.rounds,
            seconds=arguments.seconds,
        )
        stored.close()
        client.close()
    levels = sorted({max(1, arguments.concurrency // 4), max(1, arguments.concurrency // 2), arguments.concurrency})
    rates: dict[str, Any] = {}
    with delayed_server(arguments.latency, "documents") as url:
        for concurrency in levels:
            runs = [
                throughput(url, concurrency, arguments.latency, 4 * arguments.seconds) for _ in range(arguments.rounds)
            ]
            rates[str(concurrency)] = {"median": middle(runs, lambda run: run["share"]), "runs": runs}
    print_timings(timings, "search")
    for level, rate in rates.items():
        print(f"concurrency {level}, {arguments.latency:g} s latency: {json.dumps(rate['median'])}")
    summary = {
        "hits_per_cpu_second": round(timings["cache hit"].per_second),
        "client_cpu_ms": round(timings["search on a server"].median / 1e3, 3),
    }
    print(json.dumps(summary))
    write_record(arguments.output, ["aiohttp"], **summary, throughput=rates, timings=timings)
    return 0
