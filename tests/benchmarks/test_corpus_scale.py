from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("bm25s")

from zerosearch_benchmarks.speed.corpus import scale as corpus_scale
from zerosearch_benchmarks.speed.corpus.peers import Bm25s, Ours, Tantivy
from zerosearch_benchmarks.speed.corpus.scale import earlier_entries, extrapolated, recombined
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import SearchRequest

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


def test_wikipedia_is_extrapolated_in_proportion(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "passages": 2_101_532,
        "built": {"ours": {"cpu_s": 100.0, "size_mb": 1000.0}},
        "queries_per_cpu_s": {corpus_scale.USEFUL: 100.0},
    }
    guess = extrapolated(entry)
    assert (guess["factor"], guess["index_cpu_s"], guess["size_gb"], guess["queries_per_cpu_s"]) == (10, 1000, 10, 10)
    corpus_scale.print_extrapolated(entry)
    assert "100.0 CPU s * 10.0 = 1000 CPU s" in capsys.readouterr().out


def test_only_entries_made_with_the_same_are_kept(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert earlier_entries(record, {"code": "a"}) == {}
    rows = [
        {"passages": 10, "made_with": {"code": "a"}},
        {"passages": 20, "made_with": {"code": "b"}},
        {"passages": 30},
    ]
    record.write_text(json.dumps({"sizes": rows}))
    assert list(earlier_entries(record, {"code": "a"})) == [10]


def test_tantivy_finds_passages(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tantivy", reason="tantivy is not installed (extra tantivy)")
    file = data / "wikipedia_passages.jsonl"
    Tantivy().build(file, tmp_path / "index", 200)
    request = SearchRequest("mouth of the Ems?", "", ("far away",), noisy=False, top_k=20, seed=0)
    (numbers,) = Tantivy().numbers(tmp_path / "index", [request])
    assert numbers == set(range(1, 60, 3))


@pytest.mark.slow
def test_the_benchmark_compares_prints_and_writes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_scale, "libraries", lambda: [Ours(), Bm25s()])
    output = tmp_path / "record.json"
    options = ["--data", str(data), "--sizes", "200", "--queries", "3", "--rounds", "1", "--seconds", "0"]
    options += ["--memory", "200", "--output", str(output)]
    assert corpus_scale.main(options) == 0
    record = json.loads(output.read_text())
    assert [entry["passages"] for entry in record["sizes"]] == [200]
    for entry in record["sizes"]:
        assert set(entry["queries_per_cpu_s"]) >= {corpus_scale.LIBRARY, corpus_scale.USEFUL, corpus_scale.NOISY}
        assert all(entry["built"][side]["size_mb"] > 0 for side in ("ours", "bm25s"))
        assert all(entry["opened"][side]["imported_mb"] > 10 for side in ("ours", "bm25s"))
    assert record["wikipedia_18"]["passages"] == 21_015_324
    assert "times_bm25s" in capsys.readouterr().out
    assert corpus_scale.main(options) == 0
    assert "200 passages: measured already" in capsys.readouterr().out
