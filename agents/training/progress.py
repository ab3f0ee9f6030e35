"""Live progress of a training run: a bar in a terminal, otherwise one plain line per step."""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING

from zerosearch_env.progress import ProgressBar

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


def format_seconds(seconds: float) -> str:
    """Formats seconds as m:ss, or as h:mm:ss from one hour on."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TrainProgress(ProgressBar):
    """A callback for `train` that shows progress, with one plain line per step outside a terminal.

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
