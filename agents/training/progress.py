"""Live progress of a training run: a bar in a terminal, otherwise one plain line per step."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .trainer import StepReport


def describe(report: StepReport) -> str:
    """One line with a step's main metrics: reward, EM, searches per episode, noise level, tokens per second."""
    metrics = report.metrics
    parts = [
        f"{label} {metrics[name]:{style}}"
        for name, label, style in (
            ("reward", "reward", ".2f"),
            ("em", "EM", ".2f"),
            ("searches", "searches", ".2f"),
            ("noise_level", "noise", ".2f"),
            ("tokens_per_second", "tokens/s", ",.0f"),
        )
        if name in metrics
    ]
    if metrics.get("engine_failures"):
        parts.append(f"failed searches {metrics['engine_failures']:.0f}")
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """Formats seconds as m:ss, or as h:mm:ss from one hour on."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TrainProgress:
    """A callback for `train` that shows progress. A context manager.

    Args:
        steps: total steps of the run.
        max_seconds: the run's time limit; limits the remaining time shown.
        stream: where to write; None: standard error.
    """

    def __init__(self, steps: int, *, max_seconds: float | None = None, stream: IO[str] | None = None) -> None:
        self._console = Console(file=stream or sys.stderr)
        self._max_seconds = max_seconds
        self._began = self._last = time.monotonic()
        self._durations: list[float] = []
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[figures]}"),
                TextColumn("{task.fields[left]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("train", total=steps, figures="starting", left="")

    def __call__(self, report: StepReport) -> None:
        """Shows a finished step."""
        now = time.monotonic()
        self._durations = [*self._durations[-9:], now - self._last]
        self._last = now
        for alarm in report.alarms:
            self._console.print(f"alarm: {alarm}", soft_wrap=True, highlight=False, markup=False)
        left = f"{format_seconds(self._seconds_left(report))} left"
        if self._bar is None:
            # soft_wrap: one step is one line, whatever the width of the console.
            line = f"step {report.step}/{report.steps}  {describe(report)}  {left}"
            self._console.print(line, soft_wrap=True, highlight=False)
        else:
            self._bar.update(self._task, completed=report.step, figures=describe(report), left=left)

    def _seconds_left(self, report: StepReport) -> float:
        """Estimate from the mean of the last ten steps; the first step includes loading and is used only if alone."""
        steps = self._durations[1:] or self._durations
        left = (report.steps - report.step) * sum(steps) / len(steps)
        if self._max_seconds is None:
            return left
        return min(left, self._max_seconds - (self._last - self._began))

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
