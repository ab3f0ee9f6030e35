"""Passages per CPU second of the synthetic world, by size: the texts alone, and with the questions about them.

Every turn generates the whole world from scratch; nothing is cached. The target is 50,000 passages per CPU
second of text, so that a world of the default size costs a tenth of a second, and one of 100,000 passages two.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from zerosearch_env.datasets.world.make import WorldConfig, make_facts, make_passages, make_world

from ...measure import Case, Timing, make_parser, measure, print_timings, write_record

TARGET = 50_000
"""Passages per CPU second that the texts of every size must reach."""


def _texts(config: WorldConfig) -> Callable[[], int]:
    """Make a function that makes the facts and passages of a world and returns the number of passages."""
    return lambda: sum(1 for _ in make_passages(make_facts(config, "train"), config.seed))


def _whole(config: WorldConfig) -> Callable[[], int]:
    """Make a function that makes a world as `load_dataset` does and returns the number of passages."""
    return lambda: len(make_world(config, "train").passages or ())


def bench_worlds(sizes: list[int], *, rounds: int, seconds: float) -> dict[str, Timing]:
    """Measure CPU time per passage: the texts alone, and the whole world (one question per two passages).

    Args:
        sizes: numbers of passages of the worlds.
        rounds: timed turns of each case.
        seconds: minimum CPU seconds of a turn.
    """
    cases = []
    for size in sizes:
        config = WorldConfig(passages=size)
        cases.append(Case(f"{size:,} passages", _texts(config)))
        cases.append(Case(f"{size:,} with questions", _whole(config)))
    return measure(cases, rounds=rounds, seconds=seconds)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("world-generation", __doc__, rounds=7, seconds=0.25)
    parser.add_argument(
        "--passages", type=int, nargs="+", default=[6000, 100_000], help="sizes of the worlds (6000 100000)"
    )
    arguments = parser.parse_args(argv)
    timings = bench_worlds(arguments.passages, rounds=arguments.rounds, seconds=arguments.seconds)
    rates = {name: round(timing.per_second) for name, timing in timings.items()}
    print_timings(timings, "passage")
    results = {"passages_per_cpu_second": rates, "target": TARGET}
    print(json.dumps(results))
    write_record(arguments.output, ["numpy"], **results, timings=timings)
    return 0
