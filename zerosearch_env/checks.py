"""Argument checks shared by several modules."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def is_whole_number(value: Any) -> bool:
    """True for Python's and NumPy's integers; False for booleans, which Python counts as integers."""
    return isinstance(value, Integral) and not isinstance(value, bool)
