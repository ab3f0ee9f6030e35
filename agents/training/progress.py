"""Live progress of a training run: a bar in a terminal, otherwise one plain line per step."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from zerosearch_env.progress import ProgressBar

from ..runs.advice import format_seconds

if TYPE_CHECKING:
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


class TrainProgress(ProgressBar):
    """A callback for `train` that shows progress, with one plain line per step outside a terminal.

    As a context manager it also shows what the training logs: the first step's episodes, evaluations, warnings.

    Args:
        steps: total steps of the run.
        max_seconds: the run's time limit; limits the remaining time shown.
        stream: where to write; None: standard error.
    """

    def __init__(self, steps: int, *, max_seconds: float | None = None, stream: IO[str] | None = None) -> None:
        from rich.console import Console

        super().__init__("step", steps, every_s=0.0, remaining=False, console=Console(file=stream or sys.stderr))
        self._max_seconds = max_seconds
        self._began = self._last = time.monotonic()
        self._durations: list[float] = []

        self._log = logging.getLogger(__package__)
        self._handler = _Lines(self)

    def __enter__(self) -> Self:
        self._level_before = self._log.level
        self._log.addHandler(self._handler)
        self._log.setLevel(logging.INFO)
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._log.removeHandler(self._handler)
        self._log.setLevel(self._level_before)
        super().__exit__(kind, error, at)

    def __call__(self, report: StepReport) -> None:
        """Shows a finished step."""
        now = time.monotonic()
        self._durations = [*self._durations[-9:], now - self._last]
        self._last = now
        for alarm in report.alarms:
            self.print(f"alarm: {alarm}")
        self.update(report.step, f"{describe(report)}  {format_seconds(self._seconds_left(report))} left")

    def _seconds_left(self, report: StepReport) -> float:
        """Estimate from the mean of the last ten steps; the first step includes loading and is used only if alone."""
        steps = self._durations[1:] or self._durations
        left = (report.steps - report.step) * sum(steps) / len(steps)
        if self._max_seconds is None:
            return left
        return min(left, self._max_seconds - (self._last - self._began))


class _Lines(logging.Handler):
    """Prints log records above a bar."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        self._bar.print(record.getMessage())
