"""How long rollouts take when every turn and every search has its own latency, beside lock-step and a lower bound.

The workload: batches of 64 episodes of 1 to 5 turns, a search after every turn but the last; the latency of each turn
and each search is lognormal (sigma 0.8). The search server works on 16 at once. 64 turns generate at once, each at its
own pace. `zerosearch_agents.rollout.stream` plays real episodes on it, with a sampler and searches that only wait: in
exact simulated time, and with real sleeps.

Lock-step is the loop of the reference: all generate and wait for the slowest, a pool of 10 threads searches and all
wait for the slowest, then the next turn. The lower bound of a batch is the longest episode, or the searches' work / 16.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zerosearch_env.engines import ConstantEngine
from zerosearch_env.episode import Episode, make_rules
from zerosearch_env.types import Question, SearchRequest, SearchResult

from .measure import default_output, machine, write_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zerosearch_agents.sampling_protocol import TurnSample

EPISODES, LONGEST, SERVERS, POOL, BATCHES = 64, 5, 16, 10, 5
SIGMA = 0.8
RULES = make_rules(prompt_template="{question}", max_turns=LONGEST, top_k=1)
DOCUMENTS = ConstantEngine()


@dataclass(frozen=True)
class Workload:
    """Latencies in seconds."""

    turns: NDArray[np.int64]
    """Turns of each episode, shape `(episodes,)`."""
    generate: NDArray[np.float64]
    """Shape `(episodes, LONGEST)`."""
    search: NDArray[np.float64]
    """The same shape; the last turn of an episode does not search."""

    def episodes(self) -> list[Episode]:
        """One episode each; its question is its number."""
        return [Episode(Question(str(i), str(i), ("a",)), RULES, seed=i) for i in range(len(self.turns))]


def make_workload(seed: int, median_s: float) -> Workload:
    """The published workload; the draws are in its order."""
    rng = np.random.default_rng(seed)
    turns = rng.integers(1, LONGEST + 1, EPISODES)
    center = np.log(median_s)
    generate = np.exp(rng.normal(center, SIGMA, (EPISODES, LONGEST)))
    return Workload(turns, generate, np.exp(rng.normal(center, SIGMA, (EPISODES, LONGEST))))


def join(loads: Sequence[Workload]) -> Workload:
    """Batches one behind the other."""
    parts = zip(*((load.turns, load.generate, load.search) for load in loads), strict=True)
    return Workload(*(np.concatenate(part) for part in parts))


def lower_bound(load: Workload) -> tuple[float, float]:
    """Of one batch, and the part of it that the searches' work alone gives, in seconds."""
    searches = [load.search[i, : n - 1].sum() for i, n in enumerate(load.turns)]
    longest = max(load.generate[i, :n].sum() + searches[i] for i, n in enumerate(load.turns))
    work = sum(searches) / SERVERS
    return max(float(longest), float(work)), float(work)


def lock_step(load: Workload) -> float:
    """Seconds of a batch in lock-step, computed."""
    total = 0.0
    for turn in range(LONGEST):
        active, searching = load.turns > turn, load.turns > turn + 1
        if active.any():
            total += float(load.generate[active, turn].max())
        free = [0.0] * POOL
        for latency in load.search[searching, turn]:
            heapq.heapreplace(free, free[0] + float(latency))
        total += max(free)
    return total


def lock_step_real(load: Workload) -> float:
    """Seconds of a batch in lock-step, with sleeps."""
    began = time.perf_counter()
    with ThreadPoolExecutor(POOL) as pool:
        for turn in range(LONGEST):
            active, searching = load.turns > turn, load.turns > turn + 1
            if active.any():
                time.sleep(float(load.generate[active, turn].max()))
            list(pool.map(time.sleep, load.search[searching, turn].tolist()))
    return time.perf_counter() - began


class _Turns:
    """What a waiting sampler writes: searches, and an answer in an episode's last turn."""

    context_tokens = 10**6
    weight_version = 0

    def __init__(self, load: Workload) -> None:
        self._load = load
        self._done: dict[Hashable, int] = {}

    def latency(self, key: Hashable) -> float:
        """Of the turn that begins now."""
        turn = self._done.setdefault(key, 0)
        return float(self._load.generate[int(str(key)), turn])

    def sample(self, key: Hashable) -> TurnSample:
        """The turn that ends now."""
        from zerosearch_agents.sampling_protocol import TurnSample

        turn = self._done[key]
        self._done[key] = turn + 1
        last = turn + 1 == self._load.turns[int(str(key))]
        text = "<answer>a</answer>" if last else f"<search>{key} {turn}</search>"
        return TurnSample(key, (1,), (-1.0,), text, "stop")

    def finish(self, key: Hashable) -> None:
        """Nothing to free."""

    def refresh(self, version: int | None = None) -> None:
        """No weights."""

    def rest(self) -> None:
        """No memory."""

    def close(self) -> None:
        """Nothing to release."""


class SimulatedTime(_Turns):
    """Sampler and desk in one, on a clock that jumps from event to event."""

    def __init__(self, load: Workload) -> None:
        super().__init__(load)
        self.now = 0.0
        self._events: list[tuple[float, int, str, Any]] = []
        self._count = 0
        self._busy = 0
        self._queue: deque[tuple[int, float]] = deque()
        self._answers: list[int] = []

    def _at(self, after: float, what: str, key: Any) -> None:
        heapq.heappush(self._events, (self.now + after, self._count, what, key))
        self._count += 1

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """See `TurnSampler.start`."""
        self._at(self.latency(key), "turn", key)

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """See `TurnSampler.extend`."""
        self._at(self.latency(key), "turn", key)

    def wake(self) -> None:
        """Searches come in the same thread."""

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`."""
        self.now, _, what, key = heapq.heappop(self._events)
        if what == "turn":
            return [self.sample(key)]
        self._answer(key)
        return []

    def submit(self, key: int, request: SearchRequest) -> None:
        """See `SearchDesk.submit`."""
        self._queue.append((key, self._latency(request)))
        self._fill()

    def collect(self, *, wait: bool) -> list[tuple[int, SearchResult]]:
        """See `SearchDesk.collect`."""
        if wait and not self._answers:
            self.now, _, _, key = heapq.heappop(self._events)
            self._answer(key)
        keys, self._answers = self._answers, []
        return [(key, _result()) for key in keys]

    def _latency(self, request: SearchRequest) -> float:
        return _search_latency(self._load, request)

    def _answer(self, key: int) -> None:
        self._busy -= 1
        self._answers.append(key)
        self._fill()

    def _fill(self) -> None:
        while self._queue and self._busy < SERVERS:
            key, latency = self._queue.popleft()
            self._busy += 1
            self._at(latency, "search", key)


class RealTime(_Turns):
    """A sampler whose turns take real time."""

    def __init__(self, load: Workload) -> None:
        super().__init__(load)
        self._due: list[tuple[float, int]] = []
        self._woken = threading.Event()

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """See `TurnSampler.start`."""
        heapq.heappush(self._due, (time.perf_counter() + self.latency(key), int(str(key))))

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """See `TurnSampler.extend`."""
        self.start(key, ids, 0)

    def wake(self) -> None:
        """See `TurnSampler.wake`."""
        self._woken.set()

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`."""
        self._woken.wait(max(self._due[0][0] - time.perf_counter(), 0.0))
        self._woken.clear()
        found = []
        while self._due and self._due[0][0] <= time.perf_counter():
            found.append(self.sample(heapq.heappop(self._due)[1]))
        return found


class SleepingEngine(ConstantEngine):
    """Searches that take real time, `SERVERS` of them at once."""

    waits = True

    def __init__(self, load: Workload) -> None:
        super().__init__()
        self._load = load
        self._servers = asyncio.Semaphore(SERVERS)

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """The same documents after the search's latency."""
        async with self._servers:
            await asyncio.sleep(_search_latency(self._load, request))
        return _result()


def _search_latency(load: Workload, request: SearchRequest) -> float:
    episode, turn = map(int, request.query.split())
    return float(load.search[episode, turn])


def _result() -> SearchResult:
    return DOCUMENTS.search([SearchRequest("", "", ("a",), noisy=False, top_k=1, seed=0)])[0]


class _Characters:
    """As much of a tokenizer as rollouts need."""

    def __call__(self, texts: Sequence[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * max(len(text), 1) for text in texts]}


def simulated(load: Workload, active: int | None = None) -> float:
    """Seconds of our rollouts in simulated time."""
    from zerosearch_agents.rollout import stream

    clock = SimulatedTime(load)
    tokenizer: Any = _Characters()
    played = list(stream(load.episodes(), DOCUMENTS, clock, tokenizer, active=active, desk=clock))
    _check(load, len(played))
    return clock.now


def real(load: Workload, active: int | None = None) -> float:
    """Seconds of our rollouts with sleeps."""
    from zerosearch_agents.rollout import stream

    tokenizer: Any = _Characters()
    began = time.perf_counter()
    played = list(stream(load.episodes(), SleepingEngine(load), RealTime(load), tokenizer, active=active))
    _check(load, len(played))
    return time.perf_counter() - began


def _check(load: Workload, played: int) -> None:
    if played != len(load.turns):
        raise RuntimeError(f"{played} episodes came back instead of {len(load.turns)}")


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the ratios, and writes a JSON record."""
    parser = argparse.ArgumentParser(prog="zerosearch bench rollouts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="workloads in simulated time (20)")
    parser.add_argument("--real-seeds", type=int, default=3, help="workloads with sleeps (3)")
    parser.add_argument("--median", type=float, default=0.5, help="median latency with sleeps, in seconds (0.5)")
    parser.add_argument("--output", type=Path, default=default_output("rollouts"), help="the JSON record")
    arguments = parser.parse_args(argv)
    loads = [make_workload(seed, 0.5) for seed in range(arguments.seeds)]
    streams = [loads[first : first + BATCHES] for first in range(0, len(loads) - BATCHES + 1, BATCHES)]
    record: dict[str, Any] = {"simulated": _ratios(loads, streams, simulated, lock_step)}
    slept = [make_workload(seed, arguments.median) for seed in range(arguments.real_seeds)]
    if slept:
        record["slept"] = _ratios(slept, [], real, lock_step_real) | {"median_s": arguments.median}
    for name, ratios in record.items():
        print(f"{name}, {ratios['seeds']} workloads, medians:")
        for what in ("ours / lower bound", "lock-step / ours", "stream: lock-step / ours", "stream: ours / work"):
            if what in ratios:
                print(f"  {what:<26} {ratios[what]:.3f}")
    write_record(arguments.output, {}, **record, unit="seconds", machine=machine(["zerosearch-env", "numpy"]))
    print(f"written: {arguments.output}")
    return 0


def _ratios(
    loads: Sequence[Workload],
    streams: Sequence[Sequence[Workload]],
    ours: Callable[..., float],
    peer: Callable[[Workload], float],
) -> dict[str, Any]:
    """Medians over workloads, both sides measured one after the other; and over streams of batches without a pause."""
    rows = []
    for load in loads:
        rows.append({"ours_s": ours(load), "lock_step_s": peer(load), "lower_bound_s": lower_bound(load)[0]})
    found: dict[str, Any] = {
        "seeds": len(rows),
        "ours / lower bound": statistics.median(row["ours_s"] / row["lower_bound_s"] for row in rows),
        "lock-step / ours": statistics.median(row["lock_step_s"] / row["ours_s"] for row in rows),
        "rows": rows,
    }
    if streams:
        times = [(ours(join(batches), EPISODES), batches) for batches in streams]
        found["stream: lock-step / ours"] = statistics.median(
            sum(map(peer, batches)) / seconds for seconds, batches in times
        )
        found["stream: ours / work"] = statistics.median(
            seconds / sum(lower_bound(load)[1] for load in batches) for seconds, batches in times
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
