"""Checks of arguments, shared by all packages.

A check of a number returns the value as a Python number. Its error names the argument, says what was expected (with the
unit, if the argument's name ends in one) and what was given. Booleans are not numbers here, although Python counts them
as integers: `True` as a count or a probability is nearly always a mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeGuard, TypeVar

from .errors import ConfigError, unknown_name

_UNITS = {"s": "seconds", "seconds": "seconds", "ms": "milliseconds", "minutes": "minutes", "bytes": "bytes"}
"""Units by the last word of an argument's name."""

P = ParamSpec("P")
Options = TypeVar("Options")


def is_whole_number(value: object) -> TypeGuard[int]:
    """True for Python's and NumPy's integers, False for booleans."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """True for integers and floating-point numbers, also NumPy's; False for booleans."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole_number(name: str, value: object, least: int = 1, *, hint: str = "") -> int:
    """Check that an argument is a whole number of at least `least`.

    Args:
        name: the name of the argument in the error message.
        value: the argument.
        least: the smallest allowed value.
        hint: a sentence for the end of the message, for example about another way.

    Raises:
        ConfigError: the value is not a whole number, or is below `least`.
    """
    if not is_whole_number(value) or value < least:
        raise _error(name, _expected(name, "a whole number", f"of at least {least}"), value, hint)
    return int(value)


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    hint: str = "",
) -> float:
    """Check that an argument is a number within bounds; NaN is always refused.

    Args:
        name: the name of the argument in the error message.
        value: the argument.
        least: the smallest allowed value.
        above: a value that the argument must exceed.
        most: the largest allowed value; `math.inf` allows infinity, None any finite number.
        hint: a sentence for the end of the message, for example about another way.

    Raises:
        ConfigError: the value is not a number, or is out of bounds.
    """
    number = math.nan
    if is_number(value):
        try:
            number = float(value)
        except OverflowError:  # an integer too large for a float
            number = math.inf if value > 0 else -math.inf
    too_low = (least is not None and not number >= least) or (above is not None and not number > above)
    too_high = not math.isfinite(number) if most is None else not number <= most
    if not (too_low or too_high):
        return number
    limits = {"above": above, "of at least": least, "and at most": None if most == math.inf else most}
    bounds = " ".join(f"{words} {limit:g}" for words, limit in limits.items() if limit is not None)
    kind = "a finite number" if most is None else "a number"
    raise _error(name, _expected(name, kind, bounds), value, hint)


# Any: the values are checked where they are used
def check_options(name: str, value: object, example: str) -> dict[str, Any]:
    """Check that an argument is a mapping from names to values, and copy it.

    Args:
        name: the name of the argument in the error message.
        value: the argument.
        example: a valid value, as it is written in Python.

    Raises:
        ConfigError: the value is not a mapping, or one of its keys is not a string.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _error(name, f"a mapping from names to values such as {example}", value, "")
    return dict(value)


def make_options(kind: Callable[P, Options], what: str, /, *args: P.args, **values: P.kwargs) -> Options:
    """Make a dataclass of options from values by name.

    Args:
        kind: the dataclass.
        what: what one of its fields is called in the error message, for example "option of world".
        *args: values by position.
        **values: values by name.

    Raises:
        ConfigError: a name is unknown; the message suggests the most similar valid one.
    """
    valid = signature(kind).parameters
    for name in values:
        if name not in valid:
            raise unknown_name(what, name, valid)
    return kind(*args, **values)


def _expected(name: str, kind: str, bounds: str) -> str:
    unit = _UNITS.get(name.rpartition("_")[2])
    if unit is not None:
        kind, bounds = f"{kind} of {unit}", bounds.replace("of at least", "not below")
    return f"{kind} {bounds}".rstrip()


def _error(name: str, expected: str, value: object, hint: str) -> ConfigError:
    return ConfigError(f"{name} must be {expected}, got {value!r}. {hint}".rstrip())
