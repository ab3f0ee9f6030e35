"""Progress of a stage: a bar in a terminal, an occasional plain line otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY_S = 15.0
"""Minimum seconds between two lines if the output is not a terminal."""


class CountBar:
    """Context manager that shows how many items of a known total are done.

    Args:
        what: name of the items, in one word.
        total: number of items.
        done: number of items finished by an earlier run.
        stream: where to write; None uses standard error.
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
        """Count `count` more items as done; `figures` is shown next to the bar."""
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
