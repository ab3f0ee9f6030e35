from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.datasets import load_corpus, load_dataset
from zerosearch_env.errors import DataError

GOOD = b'{"id": "1", "question": "q", "answer": "a"}\n'
PARAGRAPH = {"title": "t", "paragraph_text": "x", "is_supporting": True}
HOTPOT = {"question": "q", "answer": "a", "supporting_facts": [["t", 0]], "context": [["t", ["s"]]]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "2", "question": "q", "answer": "a"', "one JSON object per line .*may be cut off"),
        (b'{"id": "2"\n', "one JSON object per line"),
        (b"[1, 2]\n", r"expected a JSON object, got \[1, 2\]"),
        (b'{"id": "2", "question": "caf\xe9", "answer": "a"}\n', "expected UTF-8 text"),
        (b'{"id": "2", "question": "\\ud800", "answer": "a"}\n', "field 'question': expected valid Unicode"),
        (
            b'{"id": "2", "question": "  ", "answer": "a"}\n',
            "field 'question': expected a non-empty string, got '  '",
        ),
        (b'{"id": "2", "question": 5, "answer": "a"}\n', "field 'question': expected a non-empty string.*got 5"),
        (
            b'{"id": "2", "answer": "a"}\n',
            "field 'question': expected a question in a column .*got the columns 'id', 'answer'",
        ),
        (
            b'{"id": "2", "question": "q"}\n',
            "field 'answers': expected answers in a column .*got the columns 'id', 'question'",
        ),
        (b'{"id": "2", "question": "q", "answer": []}\n', "field 'answer': expected at least one non-empty answer"),
        (
            b'{"id": "2", "question": "q", "answer": ["", " "]}\n',
            "field 'answer': expected at least one non-empty answer",
        ),
        (b'{"id": "2", "question": "q", "answer": [["a"]]}\n', "field 'answer': expected strings, numbers, true or"),
        (b'{"id": "2", "question": "q", "answer": {"x": 1}}\n', "field 'answer': expected a dict with 'target'"),
        (GOOD, r"field 'id': expected a row that is not a copy of another \(.*q.jsonl, row 1\), got '1'"),
        (b'{"id": "2", "question": "q", "answer": ' + b"9" * 5000 + b"}\n", "one JSON object per line"),
        (b"[" * 100_000 + b"\n", "one JSON object per line"),
    ],
)
def test_bad_rows_say_where_and_can_be_skipped(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(GOOD + b"\n" + line)
    with pytest.raises(DataError, match=rf"q\.jsonl, row 3: .*{message}") as caught:
        load_dataset(path)
    assert 'on_bad_row="skip"' in str(caught.value)
    assert len(str(caught.value)) < 700
    data = load_dataset(path, on_bad_row="skip")
    assert [question.id for question in data.questions] == ["1"]
    assert data.skipped_rows == 1


@pytest.mark.parametrize(
    ("row", "field", "expected"),
    [
        (HOTPOT | {"context": []}, "context", "a non-empty"),
        (HOTPOT | {"context": [["t"]]}, "context", r"\[title, sentences\]"),
        (HOTPOT | {"context": [["t", [1]]]}, "context", r"\[title, sentences\]"),
        (HOTPOT | {"context": {"title": ["t"], "sentences": []}}, "context", "of equal length"),
        (HOTPOT | {"context": "not json"}, "context", "JSON or Python text"),
        (HOTPOT | {"supporting_facts": 3}, "supporting_facts", "a list"),
        (HOTPOT | {"supporting_facts": [[1, 0]]}, "supporting_facts", r"\[title, sentence number\]"),
        (HOTPOT | {"answer": None}, "answer", "at least one non-empty answer"),
        ({"question": "q", "answer": "a", "paragraphs": []}, "paragraphs", "a non-empty"),
        ({"question": "q", "answer": "a", "paragraphs": [{"title": "t"}]}, "paragraphs", "is_supporting"),
        (
            {"question": "q", "answer": "a", "paragraphs": [PARAGRAPH | {"paragraph_text": ""}]},
            "paragraph_text",
            "a non-empty string",
        ),
        ({"question": "q", "answer": "a", "paragraphs": [PARAGRAPH], "answerable": False}, "answerable", "answer"),
        ({"data_source": "nq", "question": "q"}, "reward_model.ground_truth", "at least one non-empty answer"),
        ({"data_source": "nq", "question": "q", "reward_model": "x"}, "reward_model", "a list, a dict"),
        ({"data_source": "nq", "question": "q", "reward_model": ["x"]}, "reward_model", "a dict with 'ground_truth'"),
        ({"data_source": "nq", "golden_answers": ["a"]}, "question", "a question in a column"),
        ({"data_source": "nq", "golden_answers": ["a"], "prompt": [{"role": "system"}]}, "prompt", "a non-empty"),
        ({"data_source": "nq", "golden_answers": ["a"], "prompt": "Question: "}, "prompt", "a non-empty"),
        ({"foo": 1}, "", "a question in a column such as 'question'.*got the columns 'foo'"),
    ],
)
def test_rows_of_the_formats_say_which_field(tmp_path: Path, row: dict[str, Any], field: str, expected: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"row 1: .*{field}.*expected .*{expected}"):
        load_dataset(path)
    with pytest.raises(DataError, match=r"no usable row: all 1 were skipped. The first problem: .*row 1"):
        load_dataset(path, on_bad_row="skip")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]"])
def test_empty_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="has no questions"):
        load_dataset(path)
    with pytest.raises(DataError, match=r"q\.json is empty: it has no passages"):
        load_corpus(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.json", b'[{"question": "q", "answer": "a"}, {"que', "cut off"),
        ("q.json", b'["\xff"]', "not UTF-8"),
        ("q.jsonl.gz", b"not gzip", "damaged or cut off"),
        (
            "q.jsonl.gz",
            gzip.compress(b"".join(GOOD.replace(b'"1"', b'"%d"' % i) for i in range(1000)))[:-20],
            "damaged or cut off",
        ),
        ("q.parquet", b"not parquet", "not a parquet file"),
    ],
)
def test_broken_containers(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(path)


def test_missing_files_suggest_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "questions.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"question\.jsonl does not exist. Did you mean 'questions.jsonl'"):
        load_dataset(tmp_path / "question.jsonl")
    with pytest.raises(DataError, match=r"zzz\.parquet does not exist\.$"):
        load_dataset(tmp_path / "zzz.parquet")
    monkeypatch.chdir(tmp_path)  # the hub is not asked for a name that resembles a file
    with pytest.raises(DataError, match=r"^questions\.jsnol does not exist\. Did you mean 'questions\.jsonl'\?$"):
        load_dataset("questions.jsnol")
    with pytest.raises(DataError, match="there is no folder"):
        load_dataset(tmp_path / "nowhere" / "q.jsonl")
    with pytest.raises(DataError, match=r"no file for the split 'test'.*it has: questions.jsonl"):
        load_dataset(tmp_path, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file at all"):
        load_dataset(tmp_path / "empty")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "1"}\n', "field 'text': expected a passage in a column such as 'text', 'contents'"),
        (b'{"id": "1", "contents": ""}\n', "field 'contents': expected a non-empty string"),
        (b'{"id": "1", "contents": "x', "cut off"),
    ],
)
def test_bad_passages(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"contents": "fine"}\n' + line)
    with pytest.raises(DataError, match=rf"row 2: .*{message}"):
        load_corpus(path)
    assert len(load_corpus(path, on_bad_row="skip")) == 1


@settings(max_examples=15)
@given(st.sampled_from(["csv", "tsv", "json", "jsonl", "csv.gz"]), st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_read_or_are_an_error_of_the_file(ending: str, content: bytes | str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"q.{ending}"
        raw = content if isinstance(content, bytes) else f"question,answer\n{content}".encode("utf-8", "replace")
        path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
        message = str(path)
        try:
            assert load_dataset(path, on_bad_row="skip").questions
        except DataError as problem:
            message = str(problem)
        assert str(path) in message
