"""What the benchmarks share: interleaved CPU-time measurement, the command line, and the JSON record.

Cores are often shared, so wall time says little. `measure` takes CPU time of this process; the cases alternate within
each round, and the median over rounds is reported with its quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from zerosearch_env.identity import installed_versions

T = TypeVar("T")
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
    items: int
    """Total number of items over all rounds."""
    values: tuple[float, ...]
    """The figure of each round, in order."""

    @property
    def per_second(self) -> float:
        """Items per CPU second."""
        return 1e6 / self.median

    def over(self, other: Timing) -> float:
        """The time of this case over another's: the median of the ratios of each round.

        A machine that others use is slower for seconds at a time, which changes both figures of a round, but may change
        the median of only one case.
        """
        return statistics.median(a / b for a, b in zip(self.values, other.values, strict=True))


def alternating(items: Sequence[T], rounds: int) -> Iterator[T]:
    """Yield every item once per round, in reverse order in every second round.

    So no item always comes after the same other item.
    """
    for number in range(rounds):
        yield from items if number % 2 == 0 else reversed(items)


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
    for case in alternating(cases, rounds):
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
        items=items,
        values=tuple(values),
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def matrix_rate(dtype: str = "float32", size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations per CPU second of one large matrix product on one thread: the median of some."""
    import torch

    rates = []
    with one_thread():
        left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        for _ in range(repeats):
            start = time.process_time()
            torch.mm(left, right)
            rates.append(2 * size**3 / (time.process_time() - start))
    return statistics.median(rates)


def middle(values: Sequence[T], key: Callable[[T], float]) -> T:
    """The value in the middle, ordered by a key."""
    return sorted(values, key=key)[len(values) // 2]


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Describe the machine: processor, cores, load, Python, and the versions of the given libraries."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "libraries": installed_versions(libraries),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def default_output(name: str) -> Path:
    """Return `benchmarks/results/NAME.json` in a checkout, else `NAME.json` in the working directory."""
    return (RESULTS if RESULTS.is_dir() else Path()) / f"{name}.json"


def make_parser(
    name: str, doc: str | None, *, rounds: int | None = None, seconds: float | None = None
) -> argparse.ArgumentParser:
    """Make the parser of a benchmark, with `--output` and, if they have a default, `--rounds` and `--seconds`.

    Args:
        name: of the benchmark and of its record.
        doc: docstring of its module; the first line is its description.
        rounds: number of timed turns of each case.
        seconds: minimum CPU seconds of a turn.
    """
    parser = argparse.ArgumentParser(prog=f"zerosearch bench {name}", description=(doc or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=default_output(name), help="file of the JSON record")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"timed turns of each case ({rounds})")
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help=f"minimum CPU seconds of a turn ({seconds})")
    return parser


def memory_mb(field: str = "VmRSS", pid: int | None = None) -> float:
    """The memory of a process, in megabytes; where the system is not Linux, only the peak of this process.

    Args:
        field: `"VmRSS"` is what it has now, `"RssAnon"` the part of it that is not pages of files, `"VmHWM"` the peak.
        pid: another process; None: this one.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    lines = status.read_text("utf-8").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    if field != "VmHWM" or pid is not None:
        return float("nan")
    import resource  # not on Windows

    # Not used on Linux, where it includes the peak of the parent process.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak / 1e6


def add_real_texts(
    parser: argparse.ArgumentParser, files: Sequence[str] = ("wikipedia_passages.jsonl", "hotpotqa_dev_qa.jsonl")
) -> None:
    """Add `--data`, the folder of the real texts; its default is `$ZEROSEARCH_SHARED_DATA`."""
    folder = os.environ.get("ZEROSEARCH_SHARED_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(folder) if folder else None,
        required=not folder,
        help=f"folder with {', '.join(files)} ($ZEROSEARCH_SHARED_DATA)",
    )


def write_record(path: Path, libraries: Sequence[str], **entries: Any) -> None:
    """Write the record of a run as JSON, with the machine that it ran on, and print where it is.

    Args:
        path: the file; its folder is created.
        libraries: distributions whose versions are recorded, besides this package's.
        entries: the results; dataclasses such as `Timing` become objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = {"unit": "CPU microseconds per item, median and quartiles of rounds"} if "timings" in entries else {}
    record = {**unit, **entries, "machine": machine(["zerosearch-env", *libraries])}
    path.write_text(json.dumps(record, indent=2, default=asdict) + "\n", "utf-8")
    print(f"written: {path}")


def print_timings(timings: Mapping[str, Timing], item: str) -> None:
    """Print one line per case: median, quartiles, items per CPU second."""
    width = max(map(len, timings))
    print(f"{'':<{width}}  CPU us/{item} (quartiles)    {item}s per CPU second")
    for timing in timings.values():
        spread = f"({timing.low:.2f}-{timing.high:.2f})"
        print(f"{timing.name:<{width}}  {timing.median:8.2f} {spread:<18} {timing.per_second:12,.0f}")
