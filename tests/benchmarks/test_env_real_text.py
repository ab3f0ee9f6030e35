"""The benchmark of the environment on real text: its workload is what it says, and every case ends right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zerosearch_benchmarks.measure import Timing
from zerosearch_benchmarks.speed import env_real_text as bench
from zerosearch_benchmarks.speed import real_text
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import SearchRequest

QUESTIONS = [{"id": f"q{i}", "question": f"Who built mill {i}?", "answers": [f"Zoë {i}"]} for i in range(8)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    passages = [{"contents": f'"Mill {i}"\n' + "The mill – old – stands by the river. " * 15} for i in range(40)]
    for name, rows in (real_text.PASSAGES, passages), (real_text.QUESTIONS, QUESTIONS):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


def test_searches_return_five_new_documents_of_100_words(data: Path) -> None:
    workload = real_text.load_workload(data)
    engine = bench.NewDocuments(workload)
    request = SearchRequest("q", "q", ("a",), False, 5, 1)
    first, second = engine.search([request, request])
    assert [len(document.text.split()) for document in first.documents] == [100] * 5
    assert first.documents[0] is not second.documents[0]
    assert [len(turns) for turns in workload.searches] == [3] * 8
    assert len({turn for turns in workload.searches for turn in turns}) == 24


@pytest.mark.parametrize("read", [False, True])
def test_cases_count_their_steps_and_end_right(data: Path, read: bool) -> None:
    workload = real_text.load_workload(data)
    assert bench.single_environment(workload, read=read)() == 4
    assert bench.vector_environment(workload, read=read, count=3)() == 12


def test_ratios_only_of_what_was_measured() -> None:
    timings = {name: Timing(name, us, us, us, 1, (us,)) for name, us in [("GEM", 50.0), ("gym.make", 40.0)]}
    assert bench.ratios(timings) == {"gym.make / GEM": 0.8}


def test_record(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def cases(workload: Any) -> list[Any]:
        return [bench.Case("gym.make", bench.single_environment(workload, read=False))]

    monkeypatch.setattr(bench, "our_cases", cases)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    output = data / "record.json"
    assert bench.main(["--rounds", "1", "--seconds", "0", "--data", str(data), "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert set(record["timings"]) == {"gym.make"}
    assert record["results_with_other_characters_than_ascii_percent"] == 100
    assert "gem is not installed" in capsys.readouterr().err


def test_missing_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*wikipedia_passages.jsonl\. Give the folder"):
        real_text.load_workload(tmp_path)
