"""The benchmark of episodes over a corpus: what is played, which kinds are compared, and the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed.corpus import episodes as bench
from zerosearch_benchmarks.speed.real_text import load_workload
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.engines.corpus.passages import open_index
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise_kinds import KINDS
from zerosearch_env.types import SearchRequest

NAMES = ("Aare", "Ems", "Oder", "Saar")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A few passages and questions under the names of the real ones."""
    texts = [f"The river {name} is long. Its mouth is near {name}ville." for name in NAMES]
    rows = [{"contents": f'"{name}"\n{text}'} for name, text in zip(NAMES, texts, strict=True)] * 20
    questions = [{"question": f"Where is the mouth of the {name}?", "answer": f"{name}ville"} for name in NAMES] * 10
    for file, lines in (
        ("wikipedia_passages", rows),
        ("hotpotqa_dev_qa", questions),
        ("wikiq_one_hop_train", questions),
    ):
        numbered = [{"id": str(number), **line} for number, line in enumerate(lines)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in numbered))
    return tmp_path


def test_an_episode_searches_three_times_and_its_searches_are_those_of_the_evaluation(
    data: Path, tmp_path: Path
) -> None:
    workload = load_workload(data, questions=4)
    index = open_index(bench.build(data, tmp_path, 60))
    engine = CorpusEngine(index, paragraphs=False)
    seen: list[SearchRequest] = []
    search = engine.search
    engine.search = lambda requests: seen.extend(requests) or search(requests)  # type: ignore[method-assign, func-returns-value]
    assert bench.episodes_case(workload, engine, tmp_path / "runs").run() == 4
    assert len(seen) == 12
    assert len({request.query for request in seen}) == 12
    played = seen.copy()
    alone = bench.searches_case(workload, engine)
    assert [alone.run() for _ in range(4)] == [1] * 4
    assert seen[12:] == played
    assert (tmp_path / "runs" / "0" / "results.json").is_file()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wikiq_one_hop_train.*--data"):
        bench.main(["--data", str(tmp_path)])


@pytest.mark.slow
def test_the_benchmark_measures_prints_and_writes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "record.json"
    options = ["--data", str(data), "--passages", "60", "--rounds", "1", "--seconds", "0", "--output", str(output)]
    assert bench.main(options) == 0
    record = json.loads(output.read_text())
    assert record["episodes_per_cpu_s"] > 0
    assert set(record["kinds"]) == set(KINDS)
    assert record["kinds"][bench.DISTRACTOR][bench.DISTRACTOR] == 1
    assert "/ distractor" in capsys.readouterr().out
