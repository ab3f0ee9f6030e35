"""A model behind an endpoint: throughput of an evaluation against the ideal, and its CPU time per turn.

A server in its own process answers every turn after a fixed time. An episode searches three times and answers; the
searches take no time and return five new documents of 100 words. The ideal is `concurrency / (turns * time of a turn)`
episodes per second. CPU time is that of the evaluating process, all its threads together: writing requests, HTTP,
parsing turns, rendering documents, and storing results and transcripts. The reference is aiohttp alone, which sends the
same number of requests of the same size at the same concurrency and does nothing with the responses; the cases take
turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.base import AgentOptions, PolicyOptions
from zerosearch_agents.players.endpoint import EndpointPlayer

from ..measure import alternating, make_parser, middle, write_record
from .agents import RULES, TimedEngine, questions
from .chat_server import SEARCHES, delayed_server

CONCURRENCY = (1, 16, 64)
TURNS = SEARCHES + 1


@dataclass(frozen=True)
class Overhead:
    """The measurements of one case in one round."""

    concurrency: int
    episodes: int
    of_ideal: float
    """Share of the ideal throughput, in wall time."""
    cpu_ms: float
    """CPU milliseconds per turn."""
    aiohttp_ms: float
    """The same of aiohttp alone, measured directly before."""


async def _requests(url: str, concurrency: int, count: int) -> None:
    """Send `count` requests from each of `concurrency` places, and read the responses."""
    import aiohttp

    body = {"model": "local", "messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 500}
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            for _ in range(count):
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    await response.json(content_type=None)

        await asyncio.gather(*(send() for _ in range(concurrency)))


def overhead(url: str, concurrency: int, *, turn_s: float, waves: int) -> Overhead:
    """Evaluate `concurrency * waves` episodes.

    Args:
        url: address of the server.
        concurrency: episodes played at the same time.
        turn_s: seconds that the server takes per turn.
        waves: episodes per concurrent place.

    Raises:
        AssertionError: an episode did not end with the right answer.
    """
    count = concurrency * waves
    options = AgentOptions(concurrency=concurrency)
    player = EndpointPlayer(f"openai:{url}", PolicyOptions("local"), name="endpoint", options=options)
    engine = TimedEngine(0.0, waits=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(player), contextlib.closing(engine):
        _ = player.model  # connects
        store = Store(Path(folder), {})
        cpu = time.process_time()
        asyncio.run(_requests(url, concurrency, waves * TURNS))
        alone = time.process_time() - cpu
        began, cpu = time.perf_counter(), time.process_time()
        (cell,) = evaluate(player, questions(count), engine, RULES, (0.0,), store=store).cells
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if not cell.complete or cell.summary().em.mean != 1.0:
        raise AssertionError("every episode must end with the right answer")
    ideal_s, turns = waves * TURNS * turn_s, count * TURNS
    per_turn = (round(1000 * value / turns, 3) for value in (cpu, alone))
    return Overhead(concurrency, count, round(ideal_s / seconds, 3), *per_turn)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("endpoint", __doc__, rounds=3)
    parser.add_argument("--turn-ms", type=float, default=200.0, help="time of a turn of the model (200 ms)")
    parser.add_argument("--waves", type=int, default=5, help="episodes per concurrent place and round (5)")
    arguments = parser.parse_args(argv)
    turn_s = arguments.turn_ms / 1000
    rounds: dict[str, list[Overhead]] = {}
    with delayed_server(turn_s, "agent") as url:
        for count in alternating(CONCURRENCY, arguments.rounds):
            measured = overhead(url, count, turn_s=turn_s, waves=arguments.waves)
            rounds.setdefault(f"{count} at once", []).append(measured)
    medians = {name: middle(values, lambda value: value.cpu_ms) for name, values in rounds.items()}
    print(f"a model of {arguments.turn_ms:g} ms per turn, {TURNS} turns, {SEARCHES} searches")
    print(f"{'':<12}  of the ideal  CPU ms per turn  aiohttp alone")
    for name, value in medians.items():
        print(f"{name:<12}  {value.of_ideal:>12.1%}  {value.cpu_ms:>15.2f}  {value.aiohttp_ms:>13.2f}")
    print(json.dumps({name: {"of_ideal": value.of_ideal, "cpu_ms": value.cpu_ms} for name, value in medians.items()}))
    results = {"turn_ms": arguments.turn_ms, "medians": medians, "rounds": rounds}
    unit = "share of the ideal in wall time, CPU ms per turn; the round with the median CPU time and all rounds"
    write_record(arguments.output, ["aiohttp"], unit=unit, **results)
    return 0
