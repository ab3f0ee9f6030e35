"""The noise curriculum: maps training progress in [0, 1] to the probability that a search returns noisy documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..checks import check_number
from ..errors import ConfigError, unknown_name
from ..loading import load_function, names_code

SCHEDULES = ("exp", "linear", "constant")
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

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            object.__setattr__(self, name, check_level(getattr(self, name), f"noise_{name}"))
        hint = "The paper uses 4.0; 1.0 gives a linear schedule."
        object.__setattr__(self, "base", check_number("noise_base", self.base, above=0, hint=hint))

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
        ConfigError: see `check_schedule`; or the function cannot be loaded.
    """
    check_schedule(schedule, start=start, end=end, base=base)
    if names_code(schedule):
        schedule = load_function(str(schedule), "noise schedule")
    if callable(schedule):
        return schedule if isinstance(schedule, NamedSchedule | CheckedSchedule) else CheckedSchedule(schedule)
    return {
        "exp": NamedSchedule(start, end, base),
        "linear": NamedSchedule(start, end, 1.0),
        "constant": NamedSchedule(end, end, 1.0),
    }[schedule]


def check_schedule(schedule: object, *, start: float = 0.0, end: float = 0.5, base: float = 4.0) -> None:
    """Check the arguments of `get_schedule` without loading code.

    Raises:
        ConfigError: the name is unknown, a value is out of range, or your own function is given together with values
            that it would ignore.
    """
    shape, default = NamedSchedule(start, end, base), NamedSchedule()
    if names_code(schedule) or callable(schedule):
        if shape != default:
            raise ConfigError(
                f"start, end and base of the noise have no effect on your own schedule, which returns the level: got "
                f"{start}, {end} and {base}; leave them at {default.start}, {default.end} and {default.base}"
            )
    elif not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise unknown_name("noise schedule", schedule, SCHEDULES)


def choose_noise(
    schedule: str | Schedule | None, level: float | None, *, start: float = 0.0, end: float = 0.5, base: float = 4.0
) -> Schedule | float:
    """The schedule or the fixed noise level that a user asks for; 0.0 without either.

    Args:
        schedule: see `get_schedule`.
        level: a fixed noise level.
        start: see `get_schedule`.
        end: see `get_schedule`.
        base: see `get_schedule`.

    Raises:
        ConfigError: both were given, or values that would have no effect; or see `get_schedule`.
    """
    if schedule is not None and level is not None:
        raise ConfigError(
            f"noise_schedule={schedule!r} and noise_level={level!r} were both given, but a schedule sets the level. "
            "Give one of them."
        )
    if schedule is not None:
        return get_schedule(schedule, start=start, end=end, base=base)
    if NamedSchedule(start, end, base) != NamedSchedule():
        raise ConfigError(
            "noise_start, noise_end and noise_base belong to a noise_schedule, and none was given. "
            'Add noise_schedule="exp", or use noise_level for a fixed level.'
        )
    return 0.0 if level is None else check_level(level)
