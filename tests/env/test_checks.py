"""The checks of numeric arguments."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.errors import ConfigError


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2)])
def test_whole_numbers_become_ints(value: Any) -> None:
    assert check_whole_number("top_k", value) == 2
    assert type(check_whole_number("top_k", value)) is int


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", None, True, math.nan, np.bool_(True)])
def test_other_values_name_the_argument_the_bound_and_the_value(value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        check_whole_number("top_k", value, hint="The paper uses 5.")
    assert str(error.value) == f"top_k must be a whole number of at least 1, got {value!r}. The paper uses 5."
    assert error.value.__cause__ is None


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1), Fraction(1, 2)])
def test_numbers_become_floats(value: Any) -> None:
    assert check_number("top_p", value, above=0, most=1) == value
    assert type(check_number("top_p", value, above=0, most=1)) is float


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (0.0, {"above": 0}, "a finite number above 0"),
        (-1, {"least": 0}, "a finite number of at least 0"),
        (math.inf, {"least": 0}, "a finite number of at least 0"),
        (10**400, {}, "a finite number"),
        (-(10**400), {"least": 0, "most": math.inf}, "a number of at least 0"),
        (math.nan, {"most": math.inf}, "a number"),
        (1.5, {"least": 0, "most": 1}, "a number of at least 0 and at most 1"),
        (0, {"above": 0, "most": 1}, "a number above 0 and at most 1"),
        (True, {"least": 0}, "a finite number of at least 0"),
        ("1", {"least": 0}, "a finite number of at least 0"),
    ],
)
def test_numbers_out_of_bounds(value: Any, bounds: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_number("rate", value, **bounds)  # type: ignore[arg-type]
    assert str(error.value) == f"rate must be {expected}, got {value!r}."


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("vllm.timeout_s", "seconds"),
        ("max_seconds", "seconds"),
        ("max_wait_ms", "milliseconds"),
        ("save_every_minutes", "minutes"),
        ("max_body_bytes", "bytes"),
    ],
)
def test_the_unit_in_a_name_is_said(name: str, unit: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must be a finite number of {unit} above 0, got -1\.$"):
        check_number(name, -1, above=0)
    with pytest.raises(ConfigError, match=rf"^{name} must be a whole number of {unit} not below 1, got 0\.$"):
        check_whole_number(name, 0)


def test_infinity_is_allowed_on_request() -> None:
    assert check_number("rate", math.inf, above=0, most=math.inf) == math.inf
