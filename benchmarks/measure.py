"""Interleaved CPU-time measurement, and the JSON record of each benchmark.

Cores are often shared, so wall time says little. Everything here is CPU time of this process; the cases alternate
within each round, and the median over rounds is reported with its quartiles.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Case:
    """A piece of work to measure."""

    name: str
    run: Callable[[], int]
    """Does a small piece of the work and returns its number of items (steps, queries, tokens)."""


@dataclass(frozen=True)
class Timing:
    """CPU microseconds per item of one case, over its rounds."""

    name: str
    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    rounds: int
    items: int
    """Total number of items over all rounds."""


def measure(
    cases: Sequence[Case],
    *,
    rounds: int = 7,
    seconds: float = 0.25,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Measure the CPU time per item of each case, alternating between the cases.

    Args:
        cases: what to measure; each first runs once untimed.
        rounds: number of timed turns per case.
        seconds: minimum time of a turn.
        clock: returns elapsed seconds; by default the CPU time of this process.

    Returns:
        One timing per case, by name.
    """
    for case in cases:
        case.run()
    samples: dict[str, list[float]] = {case.name: [] for case in cases}
    items: dict[str, int] = dict.fromkeys(samples, 0)
    for turn in range(rounds):
        # Reversed in every second round, so that no case always runs after the same other case.
        for case in cases if turn % 2 == 0 else reversed(cases):
            done, start = 0, clock()
            while (spent := clock() - start) < seconds or not done:
                done += case.run()
            samples[case.name].append(spent / done * 1e6)
            items[case.name] += done
    return {name: _timing(name, values, items[name]) for name, values in samples.items()}


def _timing(name: str, values: Sequence[float], items: int) -> Timing:
    ordered = sorted(values)
    return Timing(
        name=name,
        median=statistics.median(ordered),
        low=ordered[len(ordered) // 4],
        high=ordered[(3 * len(ordered)) // 4] if len(ordered) > 3 else ordered[-1],
        rounds=len(ordered),
        items=items,
    )


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Describe the machine: processor, cores, load, Python, and the versions of the given libraries."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "libraries": {name: version for name in libraries if (version := _version(name)) is not None},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def default_output(name: str) -> Path:
    """Return `benchmarks/results/NAME.json` in a checkout, else `NAME.json` in the working directory."""
    return (RESULTS if RESULTS.is_dir() else Path()) / f"{name}.json"


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options of `zerosearch bench NAME`: so far `--output`, the file of its JSON record.

    Args:
        name: name of the benchmark.
        description: its first line is shown in the help.
    """
    summary = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"zerosearch bench {name}", description=summary)
    parser.add_argument("--output", type=Path, default=default_output(name), help="the JSON record")
    return parser


def write_record(path: Path, timings: Mapping[str, Timing], **more: Any) -> None:
    """Write the timings and other results of a run as JSON, and print the path.

    Args:
        path: the file; its folder is created.
        timings: timings by case.
        more: other entries, such as `ratios` and `machine`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"unit": "CPU microseconds per item, median and quartiles of rounds", **more}
    record["timings"] = {name: asdict(timing) for name, timing in timings.items()}
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(f"written: {path}")


def print_timings(timings: Mapping[str, Timing], item: str) -> None:
    """Print one line per case: median, quartiles, items per CPU second."""
    width = max(map(len, timings))
    print(f"{'':<{width}}  CPU us/{item} (quartiles)    {item}s per CPU second")
    for timing in timings.values():
        spread = f"({timing.low:.2f}-{timing.high:.2f})"
        print(f"{timing.name:<{width}}  {timing.median:8.2f} {spread:<18} {1e6 / timing.median:12,.0f}")
