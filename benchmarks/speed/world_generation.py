"""Passages per CPU second of the synthetic world, by size: the texts alone, and with the questions about them.

Every turn generates the whole world from scratch; nothing is cached. The target is 50,000 passages per CPU
second of text, so that a world of the default size costs a tenth of a second, and one of 100,000 passages two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from zerosearch_env.datasets.world.make import WorldConfig, make_facts, make_passages, make_world

from ..measure import Case, Timing, benchmark_parser, machine, measure, print_timings, write_record

TARGET = 50_000
"""Passages per CPU second that the texts of every size must reach."""


def _texts(config: WorldConfig) -> Callable[[], int]:
    """Makes the facts and the passages of a world."""
    return lambda: sum(1 for _ in make_passages(make_facts(config, "train"), config.seed))


def _whole(config: WorldConfig) -> Callable[[], int]:
    """Makes a world as `load_dataset` does, and counts its passages."""
    return lambda: len(make_world(config, "train").passages or ())


def bench_worlds(sizes: list[int], *, rounds: int, seconds: float) -> dict[str, Timing]:
    """CPU time per passage: the texts of each size, and the whole world of each size (one question per two passages).

    Args:
        sizes: passages of the worlds.
        rounds: turns of each case.
        seconds: least CPU seconds of a turn.
    """
    cases = []
    for size in sizes:
        config = WorldConfig(passages=size)
        cases.append(Case(f"{size:,} passages", _texts(config)))
        cases.append(Case(f"{size:,} with questions", _whole(config)))
    return measure(cases, rounds=rounds, seconds=seconds)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints, and writes a JSON record."""
    parser = benchmark_parser("world-generation", __doc__)
    parser.add_argument(
        "--passages", type=int, nargs="+", default=[6000, 100_000], help="sizes of the worlds (6000 100000)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each case (7)")
    parser.add_argument("--seconds", type=float, default=0.25, help="least CPU seconds of a turn (0.25)")
    arguments = parser.parse_args(argv)
    timings = bench_worlds(arguments.passages, rounds=arguments.rounds, seconds=arguments.seconds)
    rates = {name: round(1e6 / timing.median) for name, timing in timings.items()}
    print_timings(timings, "passage")
    print(json.dumps({"passages_per_cpu_second": rates, "target": TARGET}))
    libraries = machine(["zerosearch-env", "numpy"])
    write_record(arguments.output, timings, passages_per_cpu_second=rates, target=TARGET, machine=libraries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
