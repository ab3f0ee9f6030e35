"""`python -m MODULE` in a forked process, which does not load torch again, and a smaller model of a benchmark."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from zerosearch_benchmarks.speed.learner import work

SMALL = {"WIDTH": 64, "LAYERS": 2, "HEAD": 16, "MLP": 128}
"""Sizes of the learner's benchmark instead of those in `work`."""


def run_module(
    command: Sequence[str], variables: Mapping[str, str], streams: Sequence[Connection], sizes: Mapping[str, int]
) -> None:
    """What `python -m COMMAND` does.

    Args:
        command: module and arguments.
        variables: the environment.
        streams: standard input and output, or none of them.
        sizes: see `SMALL`.
    """
    for descriptor, stream in enumerate(streams):
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(variables)
    for name, value in sizes.items():
        setattr(work, name, value)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
