from __future__ import annotations

from typing import Any

import pytest

from zerosearch_env.retrieve_api.results import parse_results
from zerosearch_env.types import Document


@pytest.mark.parametrize(
    ("data", "count", "documents"),
    [
        ({"result": [[{"id": 7, "contents": '"T"\nx'}]]}, 1, [[Document("T", "x", "7")]]),
        ({"result": [{"id": "a", "contents": "x"}]}, 1, [[Document("", "x", "a")]]),
        ([{"text": "one\ntwo"}], 1, [[Document("", "one\ntwo")]]),
        ([{"title": "T", "content": "x", "link": "u", "score": 1}], 1, [[Document("T", "x", "u", 1.0)]]),
        ({"results": [{"document": "plain", "score": 2}]}, 1, [[Document("", "plain", "", 2.0)]]),
        ({"result": [[], []]}, 2, [[], []]),
        ({"result": []}, 1, [[]]),
        ([[], []], 1, [[]]),
        ([[[]], [[]]], 1, [[]]),
        ([[{"id": 1, "contents": "a"}], [0.5]], 1, [[Document("", "a", "1", 0.5)]]),
        ([[[{"contents": "a"}], []], [[0.5], []]], 2, [[Document("", "a", "", 0.5)], []]),
        ([[{"contents": "a"}], [{"contents": "b"}]], 2, [[Document("", "a")], [Document("", "b")]]),
        ([[[], []], [[], []]], 2, [[], []]),
        ([{"text": "  "}, {"title": "", "text": ""}], 1, [None]),
        ([[{"text": ""}], [{"text": "a"}], []], 3, [None, [Document("", "a")], []]),
        ([{"text": "  "}, {"text": "a", "score": float("nan")}], 1, [[Document("", "a")]]),
        (
            {"answers": [["12 Title text", "no number"]]},
            1,
            [[Document("", "Title text", "12"), Document("", "no number")]],
        ),
    ],
)
def test_shapes(data: Any, count: int, documents: list[list[Document] | None]) -> None:
    assert parse_results(data, count, numbered=isinstance(data, dict) and "answers" in data) == documents


@pytest.mark.parametrize(
    ("data", "count"),
    [
        *[({"error": "no index"}, 1), ({}, 1), ("text", 1), (None, 1), (3, 1), ({"result": "x"}, 1)],
        *[({"result": [[]]}, 2), ({"result": [[], [], []]}, 2), ([{"text": "a"}], 2), ([{"nothing": 1}], 1)],
        *[([[1, 2]], 1), ({"result": [[None]]}, 1), ({"result": [["a"], "b"]}, 2)],
    ],
)
def test_what_has_no_shape_is_an_error(data: Any, count: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_results(data, count)
