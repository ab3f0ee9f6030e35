from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("bm25s")

from zerosearch_benchmarks.speed import corpus_scale
from zerosearch_benchmarks.speed.corpus_scale import Built, extrapolated, recombined
from zerosearch_env.errors import ConfigError

TEXTS = [f"The river {name} is long. Its mouth is near {name}ville – a town." for name in ("Aare", "Ems", "Oder")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A few passages and questions under the names of the real ones."""
    rows = [{"contents": f'"{text.split()[2]}"\n{text}'} for text in TEXTS * 20]
    (tmp_path / "wikipedia_passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [
        {"id": str(i), "question": f"Where is the mouth of the {text.split()[2]}?", "answer": "far away"}
        for i, text in enumerate(TEXTS)
    ]
    (tmp_path / "hotpotqa_dev_qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return tmp_path


def test_passages_are_made_of_real_sentences_and_are_the_same_each_time(data: Path) -> None:
    rows = list(recombined(data, 3))
    assert rows == list(recombined(data, 3)) != list(recombined(data, 3, seed=1))
    title, _, text = rows[0]["contents"].partition("\n")
    assert title.strip('"') in ("Aare", "Ems", "Oder")
    assert len(text.split()) == 100
    with pytest.raises(ConfigError, match=r"there is no .*--data"):
        list(recombined(data / "nowhere", 1))


def test_wikipedia_is_extrapolated_in_proportion() -> None:
    entry = {
        "passages": 2_101_532,
        "built": {"ours": Built(100.0, 1.0, 1000.0)},
        "queries_per_cpu_s": {corpus_scale.USEFUL: 100.0},
    }
    guess = extrapolated(entry)
    assert (guess["factor"], guess["index_cpu_s"], guess["size_gb"], guess["queries_per_cpu_s"]) == (10, 1000, 10, 10)


@pytest.mark.slow
def test_the_benchmark_compares_prints_and_writes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "record.json"
    options = ["--data", str(data), "--sizes", "200", "--queries", "3", "--rounds", "1", "--seconds", "0"]
    assert corpus_scale.main([*options, "--memory", "200", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert [entry["passages"] for entry in record["sizes"]] == [200]
    for entry in record["sizes"]:
        assert set(entry["queries_per_cpu_s"]) == {corpus_scale.LIBRARY, corpus_scale.USEFUL, corpus_scale.NOISY}
        assert all(entry["built"][side]["size_mb"] > 0 for side in ("ours", "bm25s"))
        assert all(entry["opened"][side]["imported_mb"] > 10 for side in ("ours", "bm25s"))
    assert record["wikipedia_18"]["passages"] == 21_015_324
    assert "times_bm25s" in capsys.readouterr().out
