"""Progress of long work: a bar in a terminal, plain lines otherwise; and what players have done so far.

An episode may take minutes, so finished episodes alone say little about the progress of an evaluation. Whoever writes
turns therefore counts them in `WORK`, which a bar may show and a budget may limit.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn


_REFRESH_S = 1.0


class WorkCounts(NamedTuple):
    """What players have done."""

    turns: int = 0
    tokens: int = 0
    """Tokens that models have written."""
    read: int = 0
    """Tokens that models have read: as servers count them, or the whole context of every turn."""
    requests: int = 0
    """Requests to servers, retries included; for players that ask no server, one per turn or completion."""
    uncounted: int = 0
    """Completions of which the server has not said how many tokens they took."""


class Work:
    """Turns and tokens that players have written, in this process and its workers. Thread-safe.

    Samplers count what they sample, agents and players without a sampler their turns. A turn from memory counts as a
    turn without tokens, so tokens per second are the speed of sampling. Worker processes count into
    memory that they share with the process that started them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own: MutableSequence[int] = [0] * len(WorkCounts._fields)
        self._workers: list[MutableSequence[int]] = []

    def add(
        self, turns: int = 0, tokens: int = 0, read: int = 0, requests: int | None = None, uncounted: int = 0
    ) -> None:
        """Count finished turns, and tokens as soon as they are sampled; see `WorkCounts`.

        Args:
            turns: finished turns.
            tokens: tokens that a model has written.
            read: tokens that a model has read.
            requests: requests to a server or a model; None: one per turn.
            uncounted: completions without token counts.
        """
        with self._lock:
            counts = (turns, tokens, read, turns if requests is None else requests, uncounted)
            for position, count in enumerate(counts):
                self._own[position] += count

    def total(self) -> WorkCounts:
        """The counts so far."""
        return WorkCounts(*map(sum, zip(self._own, *self._workers, strict=True)))

    def include(self, counts: MutableSequence[int]) -> None:
        """Also report what a worker process counts into `counts`: integers in shared memory, one per count."""
        self._workers.append(counts)

    def count_into(self, counts: MutableSequence[int]) -> None:
        """Count into `counts` from now on (in a worker process); one integer per entry of `WorkCounts`."""
        self._own = counts


WORK = Work()
"""What is written in this process and its workers."""


def work_figures() -> Callable[[], str]:
    """A function for `ProgressBar(live=...)`: turns and tokens since now, such as `12 turns, 3,400 tokens (31/s)`."""
    began, before = time.monotonic(), WORK.total()

    def figures() -> str:
        now = WORK.total()
        turns, tokens = now.turns - before.turns, now.tokens - before.tokens
        rate = tokens / max(time.monotonic() - began, 1e-9)
        return f"{turns:,} turns" + (f", {tokens:,} tokens ({rate:,.0f}/s)" if tokens else "")

    return figures


class ProgressBar:
    """Context manager that shows how many items of a known total are done.

    Args:
        what: name of the items, in one word.
        total: number of items; None: unknown.
        done: number of items finished by an earlier run.
        every_s: minimum seconds between two lines if the output is not a terminal; None writes no lines.
        live: further figures, which change between two items. The bar then reads them every second, and lines are
            written every `every_s` seconds, whether or not an item is done.
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
        live: Callable[[], str] | None = None,
        remaining: bool = True,
        transient: bool = False,
        console: Console | None = None,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = console or Console(stderr=True)
        self._what, self._total, self._done, self._every_s = what, total, done, every_s
        self._first, self._remaining = done, remaining
        self._live, self._figures = live, ""
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None
        self._began = self._shown = time.monotonic()
        columns: list[ProgressColumn] = [
            TextColumn("{task.description} {task.completed}" + ("" if total is None else "/{task.total}")),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("{task.fields[left]}"),
        ]
        terminal = self.console.is_terminal
        self._bar = Progress(*columns, console=self.console, transient=transient, disable=not terminal)
        self._task = self._bar.add_task(what, total=total, completed=done, figures="", left="")

    def advance(self, figures: str = "", count: int = 1) -> None:
        """Count `count` more items as done; `figures` is shown next to the bar."""
        self.update(self._done + count, figures)

    def update(self, done: int, figures: str = "") -> None:
        """Show that `done` items are done; `figures` is shown next to the bar."""
        self._done, self._figures = done, figures
        self._bar.update(self._task, completed=done, figures=self._all_figures(), left=self._time_left())
        if self.console.is_terminal or self._every_s is None or self._live is not None:
            return
        if time.monotonic() - self._shown >= self._every_s or (self._total is not None and done >= self._total):
            self._shown = time.monotonic()
            self._print_line()

    def skip(self, count: int) -> None:
        """Count items that an earlier run has done: they say nothing about the time that the others take."""
        self._first += count

    def _all_figures(self) -> str:
        return "  ".join(filter(None, [self._figures, self._live() if self._live else ""]))

    def _print_line(self) -> None:
        parts = [f"{self._what} {self._count()}", self._all_figures(), self._time_left()]
        self.print("  ".join(filter(None, parts)))

    def _tick(self, period_s: float) -> None:
        """Show the live figures until the bar ends; the loop of a thread."""
        while not self._over.wait(period_s):
            if self.console.is_terminal:
                self._bar.update(self._task, figures=self._all_figures(), left=self._time_left())
            else:
                self._print_line()

    def _count(self) -> str:
        return f"{self._done}" if self._total is None else f"{self._done}/{self._total}"

    def _time_left(self) -> str:
        """The estimated remaining time, such as `0:04:10 left`; "" if there is none to show.

        It is estimated from all items so far, since a language model may take minutes for one.
        """
        if not self._remaining or self._total is None or not self._first < self._done < self._total:
            return ""
        seconds = (time.monotonic() - self._began) / (self._done - self._first) * (self._total - self._done)
        return f"{timedelta(seconds=round(seconds))} left"

    def print(self, line: str) -> None:
        """Print a line above the bar, whatever the width of the console."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        period_s = _REFRESH_S if self.console.is_terminal else self._every_s
        if self._live is not None and period_s is not None:
            self._ticker = threading.Thread(
                target=self._tick, args=(period_s,), daemon=True, name="zerosearch-progress"
            )
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
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
