"""Duration of rollouts when every turn and search has its own latency, compared with lock-step and a lower bound.

The workload: batches of 64 episodes of 1 to 5 turns, a search after every turn but the last; the latency of each turn
and each search is lognormal (sigma 0.8). The server handles 16 at a time. 64 turns generate at a time, each at its
own pace. `rollouts.rollout.stream` plays real episodes on it, with a sampler and searches that only wait: in exact
simulated time, and with real sleeps.

Lock-step is the loop of the reference: all generate and wait for the slowest, a pool of 10 threads searches and all
wait for the slowest, then the next turn. The lower bound of a batch is the longest episode, or the searches' work / 16.

Steps: batch, update, batch, update, in simulated time, where the servers continue during the updates as far as
`rollout.max_staleness` allows (`zerosearch_agents.rollouts.async_rollouts`).
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..measure import make_parser, write_record
from .latencies import (
    DOCUMENTS,
    EPISODES,
    LONGEST,
    SERVERS,
    Characters,
    RealTime,
    SimulatedTime,
    SleepingEngine,
    Workload,
    join,
    make_workload,
)

POOL, BATCHES = 10, 5


def lower_bound(load: Workload) -> tuple[float, float]:
    """Return the lower bound of a batch, and the part due to the searches alone, in seconds."""
    searches = [load.search[i, : n - 1].sum() for i, n in enumerate(load.turns)]
    longest = max(load.generate[i, :n].sum() + searches[i] for i, n in enumerate(load.turns))
    work = sum(searches) / SERVERS
    return max(float(longest), float(work)), float(work)


def lock_step(load: Workload) -> float:
    """Compute the seconds of a batch in lock-step."""
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
    """Measure the seconds of a batch in lock-step, with sleeps."""
    began = time.perf_counter()
    with ThreadPoolExecutor(POOL) as pool:
        for turn in range(LONGEST):
            active, searching = load.turns > turn, load.turns > turn + 1
            if active.any():
                time.sleep(float(load.generate[active, turn].max()))
            list(pool.map(time.sleep, load.search[searching, turn].tolist()))
    return time.perf_counter() - began


def simulated(load: Workload, active: int | None = None) -> float:
    """Compute the seconds of our rollouts in simulated time."""
    from zerosearch_agents.rollouts.rollout import stream

    clock = SimulatedTime(load)
    tokenizer: Any = Characters()
    played = list(stream(load.episodes(), DOCUMENTS, clock, tokenizer, active=active, desk=clock))
    _check(load, len(played))
    return clock.now


def real(load: Workload, active: int | None = None) -> float:
    """Measure the seconds of our rollouts, with sleeps."""
    from zerosearch_agents.rollouts.rollout import stream

    tokenizer: Any = Characters()
    began = time.perf_counter()
    played = list(stream(load.episodes(), SleepingEngine(load), RealTime(load), tokenizer, active=active))
    _check(load, len(played))
    return time.perf_counter() - began


def steps_of_training(batches: Sequence[Workload], staleness: int, update_s: float) -> float:
    """Compute the seconds of as many steps as there are batches, each with its update, in simulated time.

    Args:
        batches: one per step.
        staleness: see `rollout.max_staleness`.
        update_s: seconds of an update, during which the servers continue.
    """
    from zerosearch_agents.rollouts.async_rollouts import AsyncRollouts, Entry
    from zerosearch_agents.rollouts.rollout import RolloutPool

    load = join(batches)
    clock, episodes = SimulatedTime(load), load.episodes()
    tokenizer: Any = Characters()
    ahead = AsyncRollouts(lambda: RolloutPool(DOCUMENTS, clock, tokenizer, desk=clock), EPISODES)
    begun = played = 0
    for step in range(len(batches)):
        for later in range(begun, min(step + staleness + 1, len(batches))):
            share = episodes[later * EPISODES : (later + 1) * EPISODES]
            ahead.add((later, 0), [Entry((i, 0), episode, 0) for i, episode in enumerate(share)])
            begun = later + 1
        played += len(ahead.take((step, 0)))
        clock.update(update_s, ahead.advance)
    _check(load, played)
    return clock.now


def _check(load: Workload, played: int) -> None:
    if played != len(load.turns):
        raise RuntimeError(f"{played} episodes came back instead of {len(load.turns)}")


def main(argv: list[str] | None = None) -> int:
    """Measure, print the ratios, and write a JSON record."""
    parser = make_parser("rollouts", __doc__)
    parser.add_argument("--seeds", type=int, default=20, help="workloads in simulated time (20)")
    parser.add_argument("--real-seeds", type=int, default=3, help="workloads with sleeps (3)")
    parser.add_argument("--median", type=float, default=0.5, help="median latency with sleeps, in seconds (0.5)")
    arguments = parser.parse_args(argv)
    loads = [make_workload(seed, 0.5) for seed in range(arguments.seeds)]
    streams = [loads[first : first + BATCHES] for first in range(0, len(loads) - BATCHES + 1, BATCHES)]
    record: dict[str, Any] = {"simulated": _ratios(loads, streams, simulated, lock_step)}
    if streams:
        record["steps"] = _steps(streams, statistics.median(row["ours_s"] for row in record["simulated"]["rows"]))
    slept = [make_workload(seed, arguments.median) for seed in range(arguments.real_seeds)]
    if slept:
        record["slept"] = _ratios(slept, [], real, lock_step_real) | {"median_s": arguments.median}
    for name in ("simulated", "slept"):
        ratios = record.get(name)
        if ratios is None:
            continue
        print(f"{name}, {ratios['seeds']} workloads, medians:")
        for what in ("ours / lower bound", "lock-step / ours", "stream: lock-step / ours", "stream: ours / work"):
            if what in ratios:
                print(f"  {what:<26} {ratios[what]:.3f}")
    for row in record.get("steps", ()):
        print(f"{BATCHES} steps, update {row['update / rollouts']:g} times the rollouts: max_staleness 0 / ours")
        print("  " + ", ".join(f"{name} {row[name]:.3f}" for name in row if name.startswith("max_staleness")))
    write_record(arguments.output, ["numpy"], unit="seconds", **record)
    return 0


def _steps(streams: Sequence[Sequence[Workload]], batch_s: float) -> list[dict[str, float]]:
    """Return medians over streams of the seconds with `max_staleness` 0 / with more, for updates of several lengths."""
    rows = []
    for factor in (0.5, 1.0, 2.0):
        seconds = [[steps_of_training(stream, k, factor * batch_s) for k in (0, 1, 2)] for stream in streams]
        row = {f"max_staleness {k}": statistics.median(times[0] / times[k] for times in seconds) for k in (1, 2)}
        rows.append({"update / rollouts": factor, "update_s": factor * batch_s, **row})
    return rows


def _ratios(
    loads: Sequence[Workload],
    streams: Sequence[Sequence[Workload]],
    ours: Callable[..., float],
    peer: Callable[[Workload], float],
) -> dict[str, Any]:
    """Return medians over workloads, measured one side after the other, and over streams of batches without a pause."""
    rows = []
    for load in loads:
        rows.append({"ours_s": ours(load), "lock_step_s": peer(load), "lower_bound_s": lower_bound(load)[0]})
    results: dict[str, Any] = {
        "seeds": len(rows),
        "ours / lower bound": statistics.median(row["ours_s"] / row["lower_bound_s"] for row in rows),
        "lock-step / ours": statistics.median(row["lock_step_s"] / row["ours_s"] for row in rows),
        "rows": rows,
    }
    if streams:
        times = [(ours(join(batches), EPISODES), batches) for batches in streams]
        results["stream: lock-step / ours"] = statistics.median(
            sum(map(peer, batches)) / seconds for seconds, batches in times
        )
        results["stream: ours / work"] = statistics.median(
            seconds / sum(lower_bound(load)[1] for load in batches) for seconds, batches in times
        )
    return results
