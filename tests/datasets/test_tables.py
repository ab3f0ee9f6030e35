"""Large parquet and arrow files stay tables; their questions are those of reading row by row."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env import ConstantEngine, DataError, Dataset, load_dataset
from zerosearch_env.datasets.files import tables
from zerosearch_env.datasets.files.tables import TableQuestions

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Rows = Sequence[dict[str, Any]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large."""
    monkeypatch.setattr(tables, "LEAST_ROWS", 1)
    monkeypatch.setattr(tables, "_MOST_UNUSUAL", 1.0)


def write_parquet(path: Path, rows: Rows) -> Path:
    parquet.write_table(arrow.Table.from_pylist(list(rows)), path, row_group_size=2)
    return path


def write_stream(path: Path, rows: Rows) -> Path:
    table = arrow.Table.from_pylist(list(rows))
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def write_file(path: Path, rows: Rows) -> Path:
    table = arrow.Table.from_pylist(list(rows))
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def by_rows(path: Path, **options: Any) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "LEAST_ROWS", 1_000_000)
        return load_dataset(path, **options)


PLAIN = [
    {"id": f"q{i}", "question": f" Who is number {i}? ", "answers": [f"Ada {i}", "Zoë"], "level": i} for i in range(7)
]
SEARCH_R1 = [
    {
        "id": f"test_{i}",
        "question": f"who is {i}",
        "golden_answers": [str(i)],
        "data_source": "nq",
        "prompt": [{"role": "user", "content": f"Question: who is {i}"}],
        "reward_model": {"ground_truth": {"target": [str(i)]}, "style": "rule"},
        "extra_info": {"index": i, "split": "test"},
        "metadata": None,
    }
    for i in range(5)
]


@pytest.mark.parametrize("rows", [PLAIN, SEARCH_R1, [{**row, "id": 10 * i} for i, row in enumerate(PLAIN)]])
@pytest.mark.parametrize(
    ("name", "write"), [("q.parquet", write_parquet), ("s.arrow", write_stream), ("f.arrow", write_file)]
)
def test_questions_are_those_of_reading_row_by_row(
    rows: Rows, name: str, write: Callable[[Path, Rows], Path], tmp_path: Path
) -> None:
    data = load_dataset(write(tmp_path / name, rows))
    expected = by_rows(tmp_path / name)
    assert isinstance(data.questions, TableQuestions)
    assert isinstance(expected.questions, list)
    assert data == expected
    assert list(data.questions) == expected.questions
    assert [data.questions[i] for i in range(-1, 3)] == [expected.questions[i] for i in range(-1, 3)]
    assert data.questions[1:4] == expected.questions[1:4]
    assert data.questions[3] in data.questions
    assert data.questions != expected.questions[1:]
    with pytest.raises(IndexError):
        data.questions[len(rows)]
    assert pickle.loads(pickle.dumps(data)) == copy.deepcopy(data) == expected


def test_rows_without_ids_are_numbered_across_shards(tmp_path: Path) -> None:
    for shard in range(2):
        rows = [{"question": f"who is {shard}{i}?", "answer": "Ada"} for i in range(3)]
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", rows)
    data = load_dataset(tmp_path)
    assert isinstance(data.questions, TableQuestions)
    assert data.questions[5].id == f"{tmp_path.name}-6"
    assert data == by_rows(tmp_path)


@settings(max_examples=30, deadline=None)
@given(numbers=st.lists(st.integers(0, 10**6), max_size=8), prefix=st.sampled_from(["", "q", "nq-"]))
def test_ids_that_are_counted_up_are_distinct(numbers: list[int], prefix: str) -> None:
    ids = [f"{prefix}{number}" for number in numbers]
    counted = tables._are_counted_up(arrow.chunked_array([ids[:2], ids[2:]], arrow.string()))
    assert counted == (numbers == sorted(set(numbers)))


UNUSUAL = (
    st.sampled_from(["", "  ", "\u00a0", "(x)", "[x]", '["a", "b"]', "['a'", "{", "-", "a ", " (y", "\n b", "\x1f"])
    | st.none()
)
TEXTS = st.one_of(*[st.sampled_from(["Ada", "ada (2)", "Zoë", "1", '"x"', "the end "])] * 9, UNUSUAL)
LISTS = st.lists(TEXTS, min_size=1, max_size=3) | st.sampled_from([["Ada"], [], None])
IDS = st.one_of(*[st.integers(0, 10_000).map(str)] * 9, UNUSUAL)
OTHERS = {"query": TEXTS, "Golden Answers": TEXTS, "aliases": LISTS, "id": IDS, "data_source": TEXTS}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_table_gives_the_questions_or_the_error_of_reading_row_by_row(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    answers = data.draw(st.sampled_from([TEXTS, LISTS]))
    others = data.draw(st.sets(st.sampled_from(sorted(OTHERS))))
    row = st.fixed_dictionaries({"question": TEXTS, "answers": answers, **{name: OTHERS[name] for name in others}})
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    path = write_parquet(tmp_path_factory.getbasetemp() / "any.parquet", rows)
    for on_bad_row in ("raise", "skip"):
        try:
            expected: Dataset | str = by_rows(path, on_bad_row=on_bad_row)
        except DataError as problem:
            expected = str(problem)
        try:
            given_: Dataset | str = load_dataset(path, on_bad_row=on_bad_row)  # type: ignore[arg-type]
        except DataError as problem:
            given_ = str(problem)
        assert given_ == expected


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    rows = [*PLAIN, {**PLAIN[0], "id": "x", "question": "  "}]
    with pytest.raises(DataError, match=r"q\.parquet, row 8: field 'question': expected a non-empty string"):
        load_dataset(write_parquet(tmp_path / "q.parquet", rows))
    with pytest.raises(DataError, match="row 8: field 'id': expected a row that is not a copy of another"):
        load_dataset(write_parquet(tmp_path / "q.parquet", [*PLAIN, PLAIN[2]]))


def test_an_environment_plays_the_questions_of_a_table(tmp_path: Path) -> None:
    env = gym.make(
        "ZeroSearch-v0",
        dataset=str(write_parquet(tmp_path / "q.parquet", PLAIN)),
        search_engine=ConstantEngine(),
        noise_level=0.0,
    )
    observation, _ = env.reset(seed=0, options={"question": "q3"})
    assert "Who is number 3?" in observation
    env.close()
