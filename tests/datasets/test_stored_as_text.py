"""Lists, dicts, turns and numbers that are stored as text, and numbers that are not whole."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.files.packed import unpack
from zerosearch_env.datasets.files.rows import RowError
from zerosearch_env.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
VALUES = st.recursive(TEXTS | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def golds(value: Any) -> tuple[str, ...]:
    return load_dataset([{"question": "q?", "golden_answers": value}]).questions[0].answers


@settings(max_examples=25)
@given(st.lists(VALUES, max_size=3) | st.dictionaries(TEXTS, VALUES, max_size=3))
def test_what_json_and_python_write_is_read_back(value: Any) -> None:
    assert unpack(json.dumps(value), "f") == value
    assert unpack(repr(value), "f") == value


@settings(max_examples=25)
@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5))
def test_what_numpy_writes_is_read_back(texts: list[str]) -> None:
    array = np.array(texts, dtype=object)
    assert unpack(str(array), "f") == texts
    assert unpack(repr({"target": array}), "f") == {"target": texts}


@settings(max_examples=25)
@given(st.text(max_size=40))
def test_any_text_is_kept_unpacked_or_refused(text: str) -> None:
    try:
        value = unpack(text, "f")
    except RowError:
        return
    assert value is text or isinstance(value, (list, dict, tuple))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('["a", "b"]', ("a", "b")),
        ("['a', \"b's\"]", ("a", "b's")),
        ("('a', 'b')", ("a", "b")),
        ("{'b', 'a'}", ("b", "a")),
        ("['a' 'b']", ("a", "b")),
        ("array(['a', 'b'], dtype=object)", ("array(['a', 'b'], dtype=object)",)),
        ("{'target': array(['a'], dtype=object)}", ("a",)),
        ('{"target": ["a"]}', ("a",)),
        (['["a", "b"]'], ("a", "b")),
        ("[sic]", ("[sic]",)),
        ("(A)", ("(A)",)),
        ("{x} and [y]", ("{x} and [y]",)),
        ("__import__('os')", ("__import__('os')",)),
        ("[__import__('os').getcwd()]", ("[__import__('os').getcwd()]",)),
        (2008.0, ("2008",)),
        ([1.5, 2, np.float32(3.0)], ("1.5", "2", "3")),
        (1e300, ("1e+300",)),
        (-0.0, ("0",)),
    ],
)
def test_answers_stored_as_text_and_as_floats(value: Any, expected: tuple[str, ...]) -> None:
    assert golds(value) == expected


@pytest.mark.parametrize(
    "value", ['["a", "b', "['a', 'b'", '{"target": ["a"}', '["a", ... "b"]', [math.nan], [math.inf]]
)
def test_cut_off_lists_and_numbers_that_are_none_are_bad_rows(value: Any) -> None:
    with pytest.raises(DataError, match=r"dataset\[0\]: field 'golden_answers': expected"):
        golds(value)


def test_an_empty_cell_of_pandas_is_no_answer() -> None:
    row = {"question": "q?", "answer": math.nan, "aliases": math.nan, "id": 7.0}
    with pytest.raises(DataError, match="field 'answer': expected at least one non-empty answer, got nan"):
        load_dataset([row])
    question = load_dataset([row | {"answers": "a"}]).questions[0]
    assert (question.id, question.answers, question.metadata) == ("7", ("a",), None)


VERL = {
    "data_source": "nq",
    "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Answer. Question: who?"}],
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Ada"]}},
    "extra_info": {"index": 3, "split": "dev"},
}
HOTPOT = {
    "question": "who?",
    "answer": "Ada",
    "supporting_facts": {"title": ["T"], "sent_id": [0]},
    "context": {"title": ["T", "U"], "sentences": [["Ada."], ["Bob."]]},
}
MUSIQUE = {
    "question": "who?",
    "answer": "Ada",
    "answer_aliases": ["Ada L."],
    "paragraphs": [{"title": "T", "paragraph_text": "Ada.", "is_supporting": True}],
}


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize("row", [VERL, HOTPOT, MUSIQUE])
def test_a_row_whose_nested_fields_are_text(row: dict[str, Any], write: Any) -> None:
    as_text = {key: value if isinstance(value, str) else write(value) for key, value in row.items()}
    assert load_dataset([as_text]).questions == load_dataset([row]).questions


NAMES = st.sampled_from(
    [
        *(
            "id",
            "question",
            "Question",
            "prompt",
            "answers",
            "Final answer",
            "golden_answers",
            "aliases",
            "annotations",
        ),
        *(
            "reward_model",
            "extra_info",
            "metadata",
            "data_source",
            "context",
            "supporting_facts",
            "paragraphs",
            "answer1",
        ),
        *("question_decomposition", "answerable", "targetValue"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", '["a"]', "{'target': 1}"])
KEYS = st.sampled_from(["text", "target", "ground_truth", "answer", "qaPairs", "aliases", "title", "role", "content"])
CELLS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=4
)


@settings(max_examples=20)
@given(st.dictionaries(NAMES, CELLS, max_size=5))
def test_any_row_is_read_or_is_a_bad_row(row: dict[str, Any]) -> None:
    message = "dataset[0]: "
    try:
        question = load_dataset([row]).questions[0]
    except DataError as problem:
        message = str(problem)
    else:
        assert question.text
        assert question.answers
        assert all(question.answers)
    assert message.startswith("dataset[0]: ")
