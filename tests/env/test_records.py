"""A document and a question have their own constructor; in everything else they are ordinary frozen dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from zerosearch_env import Document, Question


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


def test_a_question_is_a_frozen_dataclass() -> None:
    question = Question("q", "Who?", ("Ada",), split="test", metadata={"hops": 1})
    assert dataclasses.astuple(question) == ("q", "Who?", ("Ada",), "", "test", None, {"hops": 1}, None)
    assert question == pickle.loads(pickle.dumps(question)) == copy.deepcopy(question)
    assert hash(Question("q", "Who?", ("Ada",))) == hash(Question("q", "Who?", ("Ada",), "", "", None, None))
    assert dataclasses.replace(question, id="r").id == "r"
    with pytest.raises(dataclasses.FrozenInstanceError):
        question.id = "s"  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'answers'"):
        Question("q", "Who?")  # type: ignore[call-arg]
