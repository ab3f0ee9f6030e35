"""The checks of numbers and of mappings with options."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import EchoEngine

import zerosearch_env
from zerosearch_env.checks import check_number, check_options, check_whole_number
from zerosearch_env.envs.wrappers import TranscriptRecorder, VectorTranscriptRecorder
from zerosearch_env.errors import ConfigError

FAKE = {"dataset": [{"question": "Who?", "answers": ["A"]}], "search_engine": EchoEngine()}


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


def test_options_are_copied() -> None:
    options = {"seed": 1}
    copy = check_options("world", options, "")
    assert copy == options
    assert copy is not options


@pytest.mark.parametrize("value", [{1: 1}, {"seed": 1, None: 2}, [("seed", 1)], "seed"])
def test_other_options_name_the_argument_an_example_and_the_value(value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        check_options("world", value, '{"seed": 1}')
    expected = 'a mapping from names to values such as {"seed": 1}'
    assert str(error.value) == f"world must be {expected}, got {value!r}."


def _env() -> Any:
    return gym.make("ZeroSearch-v0", **FAKE)


def _engine(kind: str, **options: Any) -> Any:
    return zerosearch_env.make_engine({"kind": "simulated", "argument": kind, **options})


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda wrong: gym.make("ZeroSearch-v0", world=wrong), "world"),
        (lambda wrong: _env().reset(options=wrong), "options"),
        (lambda wrong: gym.make_vec("ZeroSearch-v0", 2, **FAKE).reset(options=wrong), "options"),
        (lambda wrong: TranscriptRecorder(_env(), "never.jsonl", wrong), "extra"),
        (lambda wrong: VectorTranscriptRecorder(_env(), "never.jsonl", wrong), "extra"),
        (lambda wrong: _engine("openai:http://127.0.0.1:9/v1", http=wrong), "http"),
        (lambda wrong: _engine("openai:http://127.0.0.1:9/v1", extra_body=wrong), "extra_body"),
        (lambda wrong: _engine("vllm:model", engine_options=wrong), "engine_options"),
    ],
)
def test_every_mapping_of_options_is_checked(use: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must be a mapping from names to values such as .*, got {{1: 1}}"):
        use({1: 1})


def test_a_name_that_is_no_string_is_an_unknown_option_of_an_engine() -> None:
    with pytest.raises(ConfigError, match="unknown option of the search engine 'corpus' 1"):
        zerosearch_env.make_engine({"kind": "corpus", 1: 1})
