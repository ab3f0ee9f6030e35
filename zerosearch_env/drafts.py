"""Frozen records at the price of mutable ones, for the few that are made at every step.

The `__init__` of a frozen dataclass sets each field through `object.__setattr__`: 1.1 microseconds for a `Step` of
eleven fields, a quarter of what a whole step of the environment costs. A draft is the same record without the guard;
it is filled by ordinary assignment (0.3 microseconds) and then becomes the frozen record by its `__class__`:

    step = StepDraft(observation, "search", turn, level)
    step.__class__ = Step
"""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import Any, TypeVar, cast

Record = TypeVar("Record")


def draft_of(record: type[Record]) -> type[Record]:
    """A class with the fields, defaults and memory layout of a frozen dataclass with slots, but not frozen.

    Raises:
        TypeError: when an object cannot change from the draft to the record: the record has no slots, a base class
            with fields, or does work in `__post_init__` that the draft would skip.
    """
    if hasattr(record, "__post_init__"):
        raise TypeError(f"{record.__name__} has a __post_init__, which a draft would skip.")
    columns: list[Any] = [(f.name, f.type, f) for f in fields(cast(Any, record))]
    draft = make_dataclass(f"{record.__name__}Draft", columns, slots=True, eq=False)
    probe: Any = object.__new__(draft)
    probe.__class__ = record
    return cast("type[Record]", draft)
