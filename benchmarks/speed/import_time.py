"""CPU time of `import zerosearch_env` in a fresh interpreter, compared with one that imports nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

from ..measure import Case, make_parser, measure, write_record

STATEMENTS = {
    "interpreter alone": "pass",
    "import gymnasium": "import gymnasium",
    "import zerosearch_env": "import zerosearch_env",
    "zerosearch --help": "import zerosearch_env.cli as c; c.main(['--help'])",
}


def _children_cpu() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _start(statement: str) -> Callable[[], int]:
    def run() -> int:
        subprocess.run([sys.executable, "-c", statement], check=True, stdout=subprocess.DEVNULL)
        return 1

    return run


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    arguments = make_parser("import-time", __doc__, rounds=9).parse_args(argv)
    cases = [Case(name, _start(statement)) for name, statement in STATEMENTS.items()]
    timings = measure(cases, rounds=arguments.rounds, seconds=0.0, clock=_children_cpu)
    base = timings["interpreter alone"].median
    for name, timing in timings.items():
        print(
            f"{name:<22} {timing.median / 1e6:6.3f} s CPU, {(timing.median - base) / 1e6:6.3f} s above the interpreter"
        )
    write_record(arguments.output, ["gymnasium", "numpy"], timings=timings)
    return 0
