"""Many agents of third parties at once: throughput against the ideal, and memory per finished episode.

An agent thinks for a fixed time per turn, searches three times and answers. Two engines, both with a fixed time per
call: one that waits for another machine, and one that computes in this process, as a model on a GPU does: one call at a
time, however many searches it holds. Neither uses the CPU, so the ideal is `concurrency / (turns * time of a turn +
searches * time of a call)` episodes per second. A search in this process may arrive during a call, so that engine
cannot reach its ideal with many agents. Wall time, since nearly all of it is waiting; the cases take turns.

Memory: how much the peak of a process grows per episode that it evaluates and stores, question and result included.
Every search returns new documents of 100 words.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_env.engines import BatchedEngine
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult

from ..measure import alternating, make_parser, memory_mb, middle, write_record

WAITING, IN_PROCESS = "engine that waits", "engine in this process"
CONCURRENCY = (1, 8, 64)
SEARCHES = 3
TURNS = SEARCHES + 1
RULES = make_rules()
_PAGE = "treaty signed " * 49


class TimedEngine(BatchedEngine):
    """New documents for every search; a call takes a fixed time, however many searches it holds.

    Args:
        call_s: seconds per call.
        waits: whether it waits for another machine, so that several calls may run at the same time.
    """

    def __init__(self, call_s: float, *, waits: bool) -> None:
        super().__init__()
        self.waits = waits
        self._call_s = call_s

    def is_quick(self, requests: Sequence[SearchRequest]) -> bool:
        """Whether a call takes no time; see `EngineParts`."""
        return not self._call_s

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Wait, then return five documents of 100 words per request."""
        time.sleep(self._call_s)
        return [
            SearchResult(tuple(Document(f"Page {rank}", f"{_PAGE}{request.seed} {rank}") for rank in range(5)))
            for request in requests
        ]


@dataclass(frozen=True)
class Throughput:
    """The measurements of one case in one round."""

    concurrency: int
    episodes: int
    episodes_per_second: float
    of_ideal: float
    """Share of the ideal, at most 1."""


def questions(count: int) -> list[Question]:
    """Make questions."""
    return [Question(f"q{n}", f"Where was treaty number {n} signed?", ("Geneva",)) for n in range(count)]


def agent_of(turn_s: float) -> Callable[[str, Mapping[str, Any]], str]:
    """Return an agent whose turns take `turn_s` seconds."""

    def agent(observation: str, info: Mapping[str, Any]) -> str:
        if turn_s:
            time.sleep(turn_s)
        if info["turn"] < SEARCHES:
            return f"<search>{info['question']} {info['turn']}</search>"
        return "<answer>Geneva</answer>"

    return agent


def throughput(concurrency: int, *, waits: bool, turn_s: float, call_s: float, waves: int) -> Throughput:
    """Evaluate `concurrency * waves` episodes.

    Args:
        concurrency: episodes played at the same time.
        waits: whether the engine waits for another machine.
        turn_s: seconds per turn of the agent.
        call_s: seconds per call of the engine.
        waves: episodes per concurrent agent.
    """
    count = concurrency * waves
    player = CallablePlayer(agent_of(turn_s), options=AgentOptions(concurrency=concurrency))
    engine = TimedEngine(call_s, waits=waits)
    began = time.perf_counter()
    (cell,) = evaluate(player, questions(count), engine, RULES, (0.0,)).cells
    rate = count / (time.perf_counter() - began)
    engine.close()
    if not cell.complete or cell.summary().em.mean != 1.0:
        raise AssertionError("every episode must end with the right answer")
    ideal = concurrency / (TURNS * turn_s + SEARCHES * call_s)
    return Throughput(concurrency, count, round(rate, 2), round(rate / ideal, 3))


def peak_mib(episodes: int) -> float:
    """Peak memory of a new process that evaluates and stores episodes, in MiB."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_evaluate, args=(theirs, episodes))
    process.start()
    theirs.close()
    try:
        peak: float = ours.recv()
    finally:
        process.join()
    return peak


def _evaluate(pipe: Connection, episodes: int) -> None:
    player = CallablePlayer(agent_of(0.0), options=AgentOptions(concurrency=8))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), {})
        evaluate(player, questions(episodes), TimedEngine(0.0, waits=False), RULES, (0.0,), store=store)
    pipe.send(memory_mb("VmHWM") * 1e6 / 2**20)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("agents", __doc__, rounds=3)
    parser.add_argument("--turn-ms", type=float, default=50.0, help="time of an agent's turn (50 ms)")
    parser.add_argument("--call-ms", type=float, default=100.0, help="time of a call of the engine that waits (100 ms)")
    parser.add_argument("--own-call-ms", type=float, default=20.0, help="the same for the one in this process (20 ms)")
    parser.add_argument("--waves", type=int, default=5, help="episodes per concurrent agent and round (5)")
    parser.add_argument("--episodes", type=int, default=20_000, help="episodes of the larger evaluation (20000)")
    arguments = parser.parse_args(argv)
    calls = {WAITING: arguments.call_ms / 1000, IN_PROCESS: arguments.own_call_ms / 1000}
    rounds: dict[str, list[Throughput]] = {}
    for name, count in alternating([(name, count) for name in calls for count in CONCURRENCY], arguments.rounds):
        measured = throughput(
            count,
            waits=name == WAITING,
            turn_s=arguments.turn_ms / 1000,
            call_s=calls[name],
            waves=arguments.waves,
        )
        rounds.setdefault(f"{name}, {count} at once", []).append(measured)
    medians = {name: middle(values, lambda value: value.of_ideal) for name, values in rounds.items()}
    width = max(map(len, medians))
    print(f"agents of {arguments.turn_ms:g} ms per turn, {TURNS} turns, {SEARCHES} searches")
    print(f"{'':<{width}}  episodes/s  of the ideal")
    for name, value in medians.items():
        print(f"{name:<{width}}  {value.episodes_per_second:>10,.2f}  {value.of_ideal:>12.1%}")
    few, many = arguments.episodes // 4, arguments.episodes
    peaks = {few: peak_mib(few), many: peak_mib(many)}
    small, large = peaks[few], peaks[many]
    grown = round((large - small) * 1024 / (many - few), 2)
    print(f"memory: {grown:.2f} KiB per finished episode; {many:,} episodes peak at {large:.0f} MiB")
    print(json.dumps({"of_ideal": {name: value.of_ideal for name, value in medians.items()}, "kib_per_episode": grown}))
    results = {
        "turn_ms": arguments.turn_ms,
        "call_ms": {WAITING: arguments.call_ms, IN_PROCESS: arguments.own_call_ms},
        "kib_per_finished_episode": grown,
        "peak_mib": {str(count): round(peak, 1) for count, peak in peaks.items()},
        "medians": medians,
        "rounds": rounds,
    }
    unit = "wall time; share of the ideal, the round with the median and all rounds"
    write_record(arguments.output, ["numpy"], unit=unit, **results)
    return 0
