"""A document has a constructor of its own; in everything else it is an ordinary frozen dataclass."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from zerosearch_env import Document


def test_a_document_is_a_frozen_dataclass() -> None:
    document = Document("Mill", "It is old.", score=0.5)
    assert dataclasses.astuple(document) == ("Mill", "It is old.", "", 0.5)
    assert document == Document("Mill", "It is old.", "", 0.5) != Document("Mill", "It is old.")
    assert hash(document) == hash(copy.deepcopy(document)) == hash(pickle.loads(pickle.dumps(document)))
    assert dataclasses.replace(document, source="p1").source == "p1"
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.title = "Dam"  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'text'"):
        Document("Mill")  # type: ignore[call-arg]
