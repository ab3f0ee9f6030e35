from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import pytest

from zerosearch_env.drafts import draft_of
from zerosearch_env.protocols import ParsedAction
from zerosearch_env.types import Scores, SearchRequest, Step


@pytest.mark.parametrize("record", [Step, SearchRequest, Scores, ParsedAction])
def test_a_finished_draft_is_the_record(record: Any) -> None:
    values = [f"value of {field.name}" for field in fields(record)]
    made = draft_of(record)(*values)
    made.__class__ = record
    ordinary = record(*values)
    assert type(made) is record
    assert made == ordinary
    assert hash(made) == hash(ordinary)
    assert repr(made) == repr(ordinary)
    assert pickle.loads(pickle.dumps(made)) == ordinary
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(record)[0].name, "changed")


def test_defaults_are_the_records_own() -> None:
    made = draft_of(Step)("text", "invalid", 1, 0.5)
    made.__class__ = Step
    assert made == Step("text", "invalid", 1, 0.5)


def test_records_that_a_draft_would_not_match_are_refused() -> None:
    @dataclass(frozen=True)
    class Dictionary:
        x: int

    @dataclass(frozen=True, slots=True)
    class Working:
        x: int

        def __post_init__(self) -> None: ...

    with pytest.raises(TypeError):
        draft_of(Dictionary)
    with pytest.raises(TypeError, match="__post_init__"):
        draft_of(Working)
