"""Time until a fresh interpreter has imported the package, has made its first search, or shows the help of a command.

The bytecode of all modules is compiled before, as pip does at installation. The index of the world is built during the
first search, or opened from the cache that an earlier process has left.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zerosearch_env import cli

from ..measure import alternating, make_parser, write_record

IMPORTS = {name: f"import {name}" for name in ("gymnasium", "zerosearch_env")}
FIRST_SEARCH = (
    "import gymnasium as gym, zerosearch_env; "
    "env = gym.make('ZeroSearch-v0'); env.reset(seed=0); env.step('<search>Who founded it?</search>')"
)
BUILT, CACHED = "first search, index built", "first search, index from the cache"


@dataclass(frozen=True)
class Start:
    """Medians of the runs of one case, in seconds, from the start of the process to its end."""

    cpu_s: float
    wall_s: float


def helps(words: Sequence[str] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command with its help, found as a user does: a help that lists commands leads to theirs.

    Args:
        words: the command to start at, for example `("index",)`; by default `zerosearch` itself.

    Yields:
        The words of a command, and the text of its `--help`, which runs in this process.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    text = printed.getvalue()
    yield tuple(words), text
    if re.match("usage: [a-z ]+ [A-Z]+ ", text):
        for name in re.findall(r"^  ([a-z-]+)  ", text, re.MULTILINE):
            yield from helps([*words, name])


def cases() -> dict[str, list[str]]:
    """Name of each case -> arguments of the interpreter."""
    run = "import sys; from zerosearch_env.cli import main; sys.exit(main())"
    commands = {" ".join(["zerosearch", *words, "--help"]): ["-c", run, *words, "--help"] for words, _ in helps()}
    statements = {"interpreter alone": "pass", **{f"import {name}": code for name, code in IMPORTS.items()}}
    statements |= {BUILT: FIRST_SEARCH, CACHED: FIRST_SEARCH}
    return {name: ["-c", code] for name, code in statements.items()} | commands


def measure_starts(arguments: Mapping[str, Sequence[str]], rounds: int) -> dict[str, Start]:
    """Start an interpreter for each case, `rounds` times in alternating order, after one run that is not counted.

    Args:
        arguments: name of each case -> arguments of the interpreter.
        rounds: number of counted runs of each case.

    Raises:
        CalledProcessError: a run fails.
    """
    samples: dict[str, list[Start]] = {name: [] for name in arguments}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name in arguments:
            _start(arguments[name], {**environment, "ZEROSEARCH_CACHE": f"{folder}/cache"})
        for number, name in enumerate(alternating(list(arguments), rounds)):
            cache = f"{folder}/{number}" if name == BUILT else f"{folder}/cache"
            samples[name].append(_start(arguments[name], {**environment, "ZEROSEARCH_CACHE": cache}))
    return {
        name: Start(statistics.median(run.cpu_s for run in runs), statistics.median(run.wall_s for run in runs))
        for name, runs in samples.items()
    }


def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> Start:
    cpu, wall = _children_cpu(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return Start(_children_cpu() - cpu, time.perf_counter() - wall)


def _children_cpu() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    arguments = make_parser("start", __doc__, rounds=7).parse_args(argv)
    starts = measure_starts(cases(), arguments.rounds)
    base = starts["import gymnasium"]
    print(f"{'':<40} CPU s  wall s  CPU above import gymnasium")
    for name, start in starts.items():
        print(f"{name:<40} {start.cpu_s:5.2f}  {start.wall_s:6.2f}  {start.cpu_s - base.cpu_s:+26.2f}")
    write_record(
        arguments.output, ["gymnasium", "numpy", "bm25s", "tyro"], unit="seconds, medians of rounds", starts=starts
    )
    return 0
