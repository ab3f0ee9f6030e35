"""The noise curriculum: maps training progress in [0, 1] to the probability that a search returns noisy documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..checks import check_number
from ..errors import ConfigError, unknown_name
from ..loading import load_function, names_code

Schedule = Callable[[float], float]
"""Progress in [0, 1] -> noise level in [0, 1]."""


def check_level(level: object, what: str = "noise level") -> float:
    """Check that `level` is a probability and return it as a float.

    Args:
        level: the value to check.
        what: the name of the value in the error message.

    Raises:
        ConfigError: the value is not a number in [0, 1]; booleans and NaN are rejected too.
    """
    if type(level) is float and 0.0 <= level <= 1.0:
        return level
    hint = "Give the probability of a noisy search: 0.0 (never) to 1.0 (always)."
    return check_number(what, level, least=0, most=1, hint=hint)


def check_progress(progress: object) -> float:
    """Check that `progress` is in [0, 1] and return it as a float.

    Raises:
        ConfigError: the value is not a number in [0, 1]; booleans and NaN are rejected too.
    """
    hint = "Give the fraction of training that is done: 0.0 (start) to 1.0 (end)."
    return check_number("progress", progress, least=0, most=1, hint=hint)


@dataclass(frozen=True, slots=True)
class NamedSchedule:
    """The curriculum of the ZeroSearch paper (arXiv 2505.04588), and its special cases.

    p(x) = start + (base^x - 1) / (base - 1) * (end - start), where x = i/m is the fraction of training that is done.
    With a base above 1 the noise rises late, with a base below 1 it rises early. base = 1 is the linear limit. With
    start = end the level is constant (the variant called "random" in the paper's ablation).
    """

    start: float = 0.0
    end: float = 0.5
    base: float = 4.0

    def __call__(self, progress: float) -> float:
        """The noise level at `progress` in [0, 1]."""
        part = check_progress(progress)
        rate = math.log(self.base)
        if rate:
            part = math.expm1(rate * part) / math.expm1(rate)
        # Exact at both ends; clamped so that rounding errors cannot leave the range.
        level = self.start * (1.0 - part) + self.end * part
        return min(max(level, min(self.start, self.end)), max(self.start, self.end))


@dataclass(frozen=True, slots=True)
class CheckedSchedule:
    """A user's schedule with its input and its output checked."""

    function: Schedule

    def __call__(self, progress: float) -> float:
        """The noise level at `progress` in [0, 1].

        Raises:
            ConfigError: the function raises, or does not return a number in [0, 1].
        """
        progress = check_progress(progress)
        name = getattr(self.function, "__qualname__", repr(self.function))
        try:
            level = self.function(progress)
        except (Exception, SystemExit) as cause:
            raise ConfigError(
                f"the noise schedule {name} raised {type(cause).__name__} at progress {progress}: {cause}"
            ) from cause
        return check_level(level, f"what the noise schedule {name} returned at progress {progress}")


def get_schedule(schedule: str | Schedule, *, start: float = 0.0, end: float = 0.5, base: float = 4.0) -> Schedule:
    """Make a noise schedule from its name, or wrap a user's function so that its results are checked.

    Args:
        schedule: `"exp"` (the paper's), `"linear"`, `"constant"` (always `end`), a callable progress -> level, or
            `"module:attribute"` or `"file.py:attribute"`, which is loaded.
        start: noise level at progress 0, in [0, 1]; not used by `"constant"`.
        end: noise level at progress 1, in [0, 1]; may be below `start`.
        base: the base of `"exp"`, above 0; 1 is linear.

    Returns:
        A picklable callable from progress in [0, 1] to a level in [0, 1].

    Raises:
        ConfigError: the name is unknown or cannot be loaded, or a value is out of range.
    """
    if names_code(schedule):
        schedule = load_function(str(schedule), "noise schedule")
    if callable(schedule):
        return schedule if isinstance(schedule, NamedSchedule | CheckedSchedule) else CheckedSchedule(schedule)
    first, last = check_level(start, "noise_start"), check_level(end, "noise_end")
    root = check_number("noise_base", base, above=0, hint="The paper uses 4.0; 1.0 gives a linear schedule.")
    shapes = {"exp": (first, last, root), "linear": (first, last, 1.0), "constant": (last, last, 1.0)}
    if not isinstance(schedule, str) or schedule not in shapes:
        raise unknown_name("noise schedule", schedule, shapes)
    return NamedSchedule(*shapes[schedule])
