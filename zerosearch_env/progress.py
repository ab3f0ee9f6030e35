"""Progress of long work: a bar in a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn


class ProgressBar:
    """Context manager that shows how many items of a known total are done.

    Args:
        what: name of the items, in one word.
        total: number of items; None: unknown.
        done: number of items finished by an earlier run.
        every_s: minimum seconds between two lines if the output is not a terminal; None writes no lines.
        remaining: whether to show the estimated remaining time.
        transient: whether the bar disappears at the end.
        console: where to write; None uses standard error.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        done: int = 0,
        every_s: float | None = 15.0,
        remaining: bool = True,
        transient: bool = False,
        console: Console | None = None,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console or Console(stderr=True)
        self._what, self._total, self._done, self._every_s = what, total, done, every_s
        self._first, self._remaining = done, remaining
        self._began = self._shown = time.monotonic()
        columns: list[ProgressColumn] = [
            TextColumn("{task.description} {task.completed}" + ("" if total is None else "/{task.total}")),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
        ]
        if remaining:
            columns.append(TimeRemainingColumn())
        terminal = self.console.is_terminal
        self._bar = Progress(*columns, console=self.console, transient=transient, disable=not terminal)
        self._task = self._bar.add_task(what, total=total, completed=done, figures="")

    def advance(self, figures: str = "", count: int = 1) -> None:
        """Count `count` more items as done; `figures` is shown next to the bar."""
        self.update(self._done + count, figures)

    def update(self, done: int, figures: str = "") -> None:
        """Show that `done` items are done; `figures` is shown next to the bar."""
        self._done = done
        self._bar.update(self._task, completed=done, figures=figures)
        if self.console.is_terminal or self._every_s is None:
            return
        if time.monotonic() - self._shown >= self._every_s or (self._total is not None and done >= self._total):
            self._shown = time.monotonic()
            self.print("  ".join(filter(None, [f"{self._what} {self._count()}", figures, self._time_left()])))

    def _count(self) -> str:
        return f"{self._done}" if self._total is None else f"{self._done}/{self._total}"

    def _time_left(self) -> str:
        """The estimated remaining time for a line, such as `0:04:10 left`; "" if there is none to show."""
        if not self._remaining or self._total is None or not self._first < self._done < self._total:
            return ""
        seconds = (time.monotonic() - self._began) / (self._done - self._first) * (self._total - self._done)
        return f"{timedelta(seconds=round(seconds))} left"

    def print(self, line: str) -> None:
        """Print a line above the bar, whatever the width of the console."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()


@contextlib.contextmanager
def stage_bars(console: Console | None = None) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show work that has several stages: yields a function to call as `progress(stage, done, total)`.

    Args:
        console: where to write; None uses standard error.
    """
    bars: dict[str, ProgressBar] = {}
    with contextlib.ExitStack() as stack:

        def progress(stage: str, done: int, total: int | None) -> None:
            if stage not in bars:
                stack.close()  # the bar of the stage before
                bars[stage] = stack.enter_context(ProgressBar(stage, total, done=done, console=console))
            bars[stage].update(done)

        yield progress
