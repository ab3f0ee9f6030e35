from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise import check_level, check_progress, choose_noise, get_schedule

few = settings(max_examples=60)
unit = st.floats(0.0, 1.0)


def test_exponential_is_the_papers_formula() -> None:
    schedule = get_schedule("exp", start=0.0, end=0.5, base=4.0)
    for x in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        assert schedule(x) == pytest.approx((4.0**x - 1.0) / 3.0 * 0.5)
    assert schedule(0.5) == pytest.approx(1 / 6)


@pytest.mark.parametrize(("step", "level"), [(1, 0.001), (51, 0.07), (102, 0.17), (152, 0.30)])
def test_exponential_gives_the_levels_of_the_released_run(step: int, level: float) -> None:
    # peers of this package report these values for 0 -> 0.5 over 203 steps, rounded
    assert get_schedule("exp", end=0.5)(step / 203) == pytest.approx(level, abs=0.005)


def test_base_one_is_linear_and_bases_near_one_are_close_to_it() -> None:
    linear = get_schedule("linear", start=0.2, end=0.8)
    for base in (1.0, 1.0 + 1e-12, 1.0 - 1e-12, math.nextafter(1.0, 2.0)):
        bent = get_schedule("exp", start=0.2, end=0.8, base=base)
        assert [bent(x / 8) for x in range(9)] == pytest.approx([linear(x / 8) for x in range(9)], abs=1e-9)


@pytest.mark.parametrize("base", [1e-300, 1e-3, 0.5, 2.0, 1e3, 1e300])
def test_any_base_starts_and_ends_exactly(base: float) -> None:
    schedule = get_schedule("exp", start=0.1, end=0.7, base=base)
    assert schedule(0.0) == 0.1
    assert schedule(1.0) == 0.7


@few
@given(name=st.sampled_from(["exp", "linear", "constant"]), start=unit, end=unit, base=st.floats(1e-6, 1e6), x=unit)
def test_levels_stay_between_start_and_end(name: str, start: float, end: float, base: float, x: float) -> None:
    level = get_schedule(name, start=start, end=end, base=base)(x)
    assert min(start, end) <= level <= max(start, end)


@few
@given(start=unit, end=unit, base=st.floats(0.01, 100.0), x=unit, y=unit)
def test_levels_move_one_way(start: float, end: float, base: float, x: float, y: float) -> None:
    schedule = get_schedule("exp", start=start, end=end, base=base)
    low, high = sorted((x, y))
    assert (schedule(high) - schedule(low)) * (end - start) >= -1e-12


def test_constant_is_the_end_level_and_ignores_the_start() -> None:
    schedule = get_schedule("constant", start=0.1, end=0.4)
    assert [schedule(x) for x in (0.0, 0.5, 1.0)] == [0.4, 0.4, 0.4]


def test_schedules_are_picklable() -> None:
    for name in ("exp", "linear", "constant"):
        schedule = get_schedule(name, start=0.1)
        assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_a_callable_is_used_and_its_results_are_checked() -> None:
    assert get_schedule(lambda x: x / 2)(0.5) == 0.25
    single: Any = np.float32(0.5)
    assert get_schedule(lambda x: single)(0.5) == 0.5
    assert get_schedule(lambda x: 1)(0.5) == 1.0

    def too_much(x: float) -> float:
        return 1.0 + x

    schedule = get_schedule(too_much)
    assert get_schedule(schedule) is schedule
    with pytest.raises(ConfigError, match=r"too_much returned at progress 0\.5.* at most 1, got 1\.5"):
        schedule(0.5)
    with pytest.raises(ConfigError, match="at most 1, got None"):
        get_schedule(lambda x: None)(0.5)  # type: ignore[arg-type, return-value]


BAD = [-0.01, 1.01, math.nan, math.inf, -math.inf, True, False, "0.5", None, 10**400, [0.5], 1j]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_probability_is_an_error(bad: object) -> None:
    with pytest.raises(ConfigError, match=r"noise level must be .*got .*0\.0 \(never\) to 1\.0"):
        check_level(bad)
    for option in ("start", "end"):
        with pytest.raises(ConfigError, match=f"noise_{option} must be"):
            get_schedule("exp", **{option: bad})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="progress must be"):
        check_progress(bad)
    with pytest.raises(ConfigError, match="progress must be"):
        get_schedule("linear")(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("good", [0, 1, 0.0, 1.0, 0.5, np.float64(0.5), np.float32(0.25), np.int64(1)])
def test_every_kind_of_number_is_a_level(good: float) -> None:
    assert check_level(good) == good
    assert type(check_level(good)) is float


@pytest.mark.parametrize("base", [0.0, -4.0, math.nan, math.inf, True, "4"])
def test_bases_that_cannot_be(base: object) -> None:
    with pytest.raises(ConfigError, match=r"noise_base must be .*4\.0"):
        get_schedule("exp", base=base)  # type: ignore[arg-type]


def test_values_that_a_schedule_of_your_own_would_ignore_are_refused() -> None:
    for own in (lambda x: x, "file.py:schedule"):
        for shape in ({"start": 0.1}, {"end": 0.4}, {"base": 2.0}):
            with pytest.raises(ConfigError, match=r"no effect on your own schedule.*leave them at 0\.0, 0\.5 and 4\.0"):
                get_schedule(own, **shape)
    assert choose_noise(None, None) == 0.0
    assert choose_noise(None, 1) == 1.0
    assert choose_noise("constant", None, end=0.25)(0.0) == 0.25  # type: ignore[operator]
    with pytest.raises(ConfigError, match="both given"):
        choose_noise("exp", 0.5)
    with pytest.raises(ConfigError, match="none was given"):
        choose_noise(None, 0.5, end=0.25)


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown noise schedule 'expo'\. Did you mean 'exp'\?"):
        get_schedule("expo")
    with pytest.raises(ConfigError, match="unknown noise schedule 5"):
        get_schedule(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown noise schedule \['exp'\]"):  # a list cannot be hashed
        get_schedule(["exp"])  # type: ignore[arg-type]
