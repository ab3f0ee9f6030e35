from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks import cli
from zerosearch_benchmarks.noise import guard
from zerosearch_env.errors import ConfigError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Thirty passages: in half of them the answer of question 0 is spelt in one of three ways."""
    spellings = ("Paris", "the Paris-based firm", "<b>P&#226;ris</b>")
    words = " ".join(f"word{n}" for n in range(100))
    texts = [f"{spellings[k % 3] if k % 2 else 'Lyon'} {words}" for k in range(30)]
    passages = [{"id": str(k), "contents": f'"Title {k}"\n{text}'} for k, text in enumerate(texts)]
    questions = [{"question": "Where?", "answer": ["Paris"]}, {"question": "Who?", "answer": ["Nobody Atall", "A"]}]
    searches = [{"searches": [{"query": "q", "documents": ["A snippet about (Paris).", "Another."]}]}]
    for name, rows in (
        (guard.PASSAGES, passages),
        (guard.SNIPPETS, searches),
        (guard.QUESTIONS[0], questions),
        (guard.QUESTIONS[1], [{"id": "x", "question": "When?", "answers": ["1914\u20131918"]}]),
    ):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_the_benchmark_compares_measures_and_writes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = data / "record.json"
    options = ["--data", str(data), "--searches", "3", "--rounds", "1", "--seconds", "0", "--output", str(output)]
    assert cli.main(["guard", *options]) == 0
    record = json.loads(output.read_text())
    assert (record["passages"]["stated"], record["snippets"]["stated"]) == (15, 1)
    for name in "passages", "snippets":
        assert record[name]["missed"] == record[name]["false_alarms"] == 0
    assert record["noisy_searches"] == {"searches": 3, "failed": 0, "with_answer": 0}
    assert record["timings"]["answer absent"]["items"] > 0
    assert "15: 0.0 % missed" in capsys.readouterr().out


def test_a_detector_that_misses_is_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "contains_answer", lambda text, answers: "(" in text)
    texts = guard.load_texts(data)
    assert guard.compare(texts.passages, texts.answers)["missed"] == 15
    assert guard.compare(["(nothing)"], texts.answers)["false_alarms"] == 3


def test_missing_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*nq_open_dev\.jsonl\. Give the folder"):
        guard.load_texts(tmp_path)


def test_the_plain_definition() -> None:
    assert guard.plain_words("The <b>Caf&eacute;</b>, 1914\u20131918!") == ["the", "cafe", "1914", "1918"]
    assert guard.gold_words("The Beatles") == ("beatles",)
    assert guard.gold_words("A") == guard.gold_words("x") == guard.gold_words("!!!") == ()
    assert guard.plainly_states("in Paris.", ["Paris"])
    assert not guard.plainly_states("comparison", ["Paris"])
