"""Progress of a stage: a bar in a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY_S = 15.0
"""Seconds between two lines where there is no terminal."""


class CountBar:
    """Shows how many of a known number of things are done. A context manager.

    Args:
        what: what is counted, in one word.
        total: how many there are.
        done: how many an earlier run has finished.
        stream: where to write; None: standard error.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, stream: IO[str] | None = None) -> None:
        self._what, self._total, self._done = what, total, done
        self._console = Console(file=stream or sys.stderr)
        self._shown = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn(what),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, figures="")

    def advance(self, figures: str = "", count: int = 1) -> None:
        """Count `count` more as done; `figures` is shown beside the bar."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, figures=figures)
        elif time.monotonic() - self._shown >= _EVERY_S or self._done >= self._total:
            self._shown = time.monotonic()
            line = f"{self._what} {self._done}/{self._total}  {figures}".rstrip()
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
