"""Rows in memory, columns with other names, bad rows left out, and several datasets in one."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.datasets import load_dataset, parse_columns
from zerosearch_env.datasets.sources import mixture
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.types import Dataset, Question

ROWS = [{"id": str(i), "question": f"q{i}?", "answers": [f"a{i}"]} for i in range(3)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(**arguments: Any) -> ZeroSearchEnv:
    env = gym.make("ZeroSearch-v0", **arguments).unwrapped
    assert isinstance(env, ZeroSearchEnv)
    return env


def tables() -> list[Any]:
    return [
        ROWS,
        tuple(ROWS),
        {"train": ROWS, "test": ROWS[:1]},
        SimpleNamespace(to_pylist=lambda: ROWS),
        SimpleNamespace(to_dicts=lambda: ROWS),
        SimpleNamespace(columns=["id"], to_dict=lambda orient: ROWS),
    ]


@pytest.mark.parametrize("number", range(6))
def test_rows_in_every_container(number: int) -> None:
    for data in (
        load_dataset(tables()[number]),
        make(dataset=tables()[number], search_engine="simulated:tiny").dataset,
    ):
        assert [(q.id, q.text, q.answers) for q in data.questions] == [(str(i), f"q{i}?", (f"a{i}",)) for i in range(3)]
    if isinstance(tables()[number], dict):
        assert len(load_dataset(tables()[number], "test").questions) == 1
        with pytest.raises(ConfigError, match=r"unknown split 'tets'. Did you mean 'test'"):
            load_dataset(tables()[number], "tets")


@pytest.mark.slow
def test_tables_of_pandas_pyarrow_and_datasets(tmp_path: Path) -> None:
    pandas, arrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    rows: list[dict[str, Any]] = [
        {"question": "q?", "answer": 2008, "n": 1},
        {"question": "p?", "answer": None, "n": 2},
    ]
    frame = pandas.DataFrame(rows)
    with pytest.raises(DataError, match=r"dataset\[1\]: field 'answer': .*got nan"):
        load_dataset(frame)
    hub = datasets.Dataset.from_list(ROWS)
    hub.save_to_disk(tmp_path / "saved")
    for table in (frame, arrow.Table.from_pylist(rows), datasets.Dataset.from_list(rows)):
        data = load_dataset(table, on_bad_row="skip")
        assert (data.questions[0].answers, data.skipped_rows) == (("2008",), 1)
    for source in (hub, datasets.DatasetDict(train=hub), tmp_path / "saved"):
        assert [q.id for q in load_dataset(source).questions] == ["0", "1", "2"]


def test_objects_without_rows_are_named() -> None:
    for wrong in (3, object(), b"x"):
        with pytest.raises(ConfigError, match=f"got {type(wrong).__name__}"):
            load_dataset(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"dataset\[1\]: expected a Question or a mapping with a question.*got 3"):
        load_dataset([ROWS[0], 3])  # type: ignore[list-item]


def test_questions_and_rows_in_one_list() -> None:
    questions = load_dataset([Question("x", "q?", ("a",)), {"question": "p?", "answer": 3}]).questions
    assert [(q.id, q.answers) for q in questions] == [("x", ("a",)), ("questions-1", ("3",))]


def test_columns_with_other_names(tmp_path: Path) -> None:
    rows = [{"Nr": i, "meta": {"Frage": f"q{i}?"}, "A": f"a{i}", "B": None, "answer": "not this"} for i in range(3)]
    columns = {"id": "Nr", "question": "meta.Frage", "answers": ["A", "B"]}
    path = write(tmp_path / "own.jsonl", rows)
    for data in (
        load_dataset(path, columns=columns),
        make(dataset=path, columns=columns, search_engine="simulated:tiny").dataset,
    ):
        assert [(q.id, q.text, q.answers) for q in data.questions] == [(str(i), f"q{i}?", (f"a{i}",)) for i in range(3)]
    swapped = load_dataset([{"question": "a", "answer": "q?"}], columns={"question": "answer", "answers": "question"})
    assert (swapped.questions[0].text, swapped.questions[0].answers) == ("q?", ("a",))
    verl = {"data_source": "nq", "prompt": "p", "reward_model": {"ground_truth": "x"}, "extra_info": {"g": ["y"]}}
    assert load_dataset([verl], columns={"answers": "extra_info.g"}).questions[0].answers == ("y",)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{"Frage": "q?", "Antwort": "a"}])
    with pytest.raises(
        DataError, match=r"own.jsonl, row 1: field 'question': .* in the column 'Fraage'.*nearest is 'Frage'"
    ):
        load_dataset(path, columns={"question": "Fraage"})
    with pytest.raises(ConfigError, match=r"unknown field in columns 'qestion'. Did you mean 'question'"):
        load_dataset(path, columns={"qestion": "Frage"})
    with pytest.raises(ConfigError, match="columns must be a mapping"):
        make(dataset=path, columns=["question"])
    for column in (3.0, -1, True, "", []):
        with pytest.raises(ConfigError, match="must be the name of a column, its number from 0"):
            load_dataset(path, columns={"question": column})  # type: ignore[dict-item]
    with pytest.raises(
        DataError, match=r"the nearest is 'quesiton', columns=\{\"question\": \"quesiton\"\} would read it"
    ):
        load_dataset([{"quesiton": "q?", "answer": "a"}])
    row = {"data_source": "nq", "question": "q?", "reward_model": {"ground_truths": ["a"]}}
    with pytest.raises(DataError, match="would read it") as caught:
        load_dataset([row])
    assert 'columns={"answers": "reward_model.ground_truths"}' in str(caught.value)
    assert load_dataset([row], columns={"answers": "reward_model.ground_truths"}).questions[0].answers == ("a",)
    with pytest.raises(DataError, match=r"field 'A': expected strings, numbers"):
        load_dataset([{"question": "q?", "A": {"target": [float("inf")]}}], columns={"answers": "A"})
    with pytest.raises(DataError, match=r'columns=\{"question": ...\} can name it'):
        load_dataset([{"Frage": "q?", "answer": "a"}])
    with pytest.raises(DataError, match="'answers': expected a dict in the column 'question'"):
        load_dataset([row], columns={"answers": "question.text"})
    with pytest.raises(ConfigError, match=r"on_bad_row 'skp'. Did you mean 'skip'"):
        make(dataset=path, on_bad_row="skp")
    assert parse_columns(["question=Frage", "id=a=b"]) == {"question": "Frage", "id": "a=b"}
    with pytest.raises(ConfigError, match="expected FIELD=COLUMN"):
        parse_columns(["question"])


def test_rows_left_out_are_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "q.jsonl", [*ROWS, {"id": "3", "question": "q"}])
    with pytest.raises(DataError, match=r"q.jsonl, row 4: .* on_bad_row=\"skip\" .* leaves such rows out"):
        make(dataset=path, search_engine="simulated:tiny")
    with caplog.at_level(logging.WARNING):
        env = make(dataset=path, on_bad_row="skip", search_engine="simulated:tiny")
    assert (len(env.dataset.questions), env.dataset.skipped_rows) == (3, 1)
    assert "1 row was left out. The first problem" in caplog.text
    corpus = write(tmp_path / "c.jsonl", [{"text": f"passage {i}"} for i in range(20)] + [{"txt": "x"}])
    with pytest.raises(DataError, match=r"row 21: field 'text'.*nearest is 'txt'"):
        make(dataset=path, on_bad_row="skip", search_engine=f"corpus:{corpus}").reset(seed=0)
    caplog.clear()
    engine = {"kind": "corpus", "argument": str(corpus), "on_bad_row": "skip"}
    with caplog.at_level(logging.WARNING):
        make(dataset=path, on_bad_row="skip", search_engine=engine).reset(seed=0)
    assert f"{corpus}: 1 row was left out" in caplog.text
    with pytest.raises(ConfigError, match="describe a corpus file"):
        make(dataset="world", search_engine={"kind": "corpus", "on_bad_row": "skip"})


def sets(folder: Path) -> list[Path]:
    return [
        write(
            folder / name / "test.jsonl",
            [{"id": str(i), "question": f"{name} {i}?", "answers": ["a"]} for i in range(n)],
        )
        for name, n in (("nq", 6), ("popqa", 3))
    ]


def test_several_files_in_one_dataset(tmp_path: Path) -> None:
    nq, popqa = sets(tmp_path)
    for source in (
        f"{nq},{popqa}",
        [nq, str(popqa)],
        [load_dataset(nq.parent, "test"), load_dataset(popqa.parent, "test")],
    ):
        data = load_dataset(source, "test")
        assert Counter(q.dataset for q in data.questions) == {"nq": 6, "popqa": 3}
        assert [q.id for q in data.questions][5:7] == ["nq/5", "popqa/0"]
    assert make(dataset=f"{nq},{popqa}", search_engine="simulated:tiny").dataset.name == "nq,popqa"


def test_weights_are_shares_of_the_questions(tmp_path: Path) -> None:
    nq, popqa = sets(tmp_path)
    for source in (f"{nq}=1,{popqa}=1", {str(nq): 2, str(popqa): 2.0}):
        assert Counter(q.dataset for q in load_dataset(source, "test").questions) == {"nq": 3, "popqa": 3}
    assert Counter(q.dataset for q in load_dataset(f"{nq},{popqa}", limit=6).questions) == {"nq": 4, "popqa": 2}
    for wrong, message in (
        (f"{nq}=x,{popqa}=1", "must be a number, got 'x'"),
        (f"{nq}=0,{popqa}=1", "above 0"),
        (f"{nq}=2,{popqa}", "all datasets a weight, or none"),
        (f"{nq},{nq}", "given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_dataset(wrong)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 10)), min_size=1, max_size=4), st.integers(1, 60))
def test_a_mixture_has_its_shares(parts: list[tuple[int, float]], limit: int) -> None:
    datasets = [
        Dataset(str(k), "test", [Question(f"{k}-{i}", "q", ("a",), str(k)) for i in range(n)])
        for k, (n, _) in enumerate(parts)
    ]
    weights = [weight for _, weight in parts]
    mixed = mixture(datasets, weights, limit=limit)
    assert len({q.id for q in mixed.questions}) == len(mixed.questions) <= limit
    counts = Counter(q.dataset for q in mixed.questions)
    scale = min(*(n / weight for n, weight in parts), limit / sum(weights))
    for k, weight in enumerate(weights):
        assert abs(counts[str(k)] - scale * weight) <= 1
    assert mixed.questions == mixture(datasets, weights, limit=limit).questions


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a,b=2.jsonl", ROWS)
    assert len(load_dataset(path).questions) == len(load_dataset(str(path)).questions) == 3


def test_rows_name_their_source() -> None:
    rows = [{"question": f"q{i}?", "answer": "a", "data_source": name} for i, name in enumerate(("nq", "popqa"))]
    assert [q.dataset for q in load_dataset(rows).questions] == ["nq", "popqa"]
    assert [q.dataset for q in load_dataset([{"question": "q?", "answer": "a", "dataset": "x"}]).questions] == ["x"]
