"""`zerosearch simulator label`: the three rules, the three kinds of input, bad rows, judges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zerosearch_agents.runs.manifest import read_manifest
from zerosearch_agents.simulator.cli import main
from zerosearch_agents.simulator.pairs.files import manifest_path
from zerosearch_agents.simulator.pairs.label import LabelConfig, by_judge, by_noise, by_trajectory
from zerosearch_agents.simulator.pairs.records import Search, Trajectory, TrajectoryReader
from zerosearch_env.datasets.files.rows import NumberedRow, RowReader, read_files
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.engines.run import run_searches
from zerosearch_env.errors import AgentError, ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record
from zerosearch_env.types import Document, Question, SearchRequest


def walk(em: bool | None, *searches: Search, prediction: str | None = "ash") -> Trajectory:
    return Trajectory("t", "Which tree?", ("oak",), prediction, em, searches)


OAK = Search("tree", (Document("Tree", "An oak."),))
ASH = Search("tree", (Document("Tree", "An ash."),))


def labels(labelled: Trajectory | None) -> list[str | None]:
    assert labelled is not None
    return [search.label for search in labelled.searches]


def test_by_trajectory() -> None:
    assert labels(by_trajectory(walk(True, ASH, OAK))[0]) == ["useful", "useful"]
    assert labels(by_trajectory(walk(False, ASH, OAK))[0]) == ["noisy", "noisy"]
    # The recorded result is used unless another rule is given.
    assert labels(by_trajectory(walk(False, OAK, prediction="The oak"))[0]) == ["noisy"]
    assert labels(by_trajectory(walk(False, OAK, prediction="The oak"), "em")[0]) == ["useful"]
    assert labels(by_trajectory(walk(False, OAK, prediction="an old oak"), "em")[0]) == ["noisy"]
    assert labels(by_trajectory(walk(False, OAK, prediction="an old oak"), "subem")[0]) == ["useful"]
    assert by_trajectory(walk(None, OAK, prediction=None)) == (None, {"without_end": 1})
    drawn = Search("tree", OAK.documents, noisy=True)
    kept, left_out = by_trajectory(walk(True, drawn, OAK))
    assert labels(kept) == ["useful"]
    assert left_out == {"drawn_noisy": 1}


def test_by_noise_and_by_judge() -> None:
    drawn = [Search("tree", OAK.documents, noisy=noisy) for noisy in (True, False, None)]
    kept, left_out = by_noise(walk(True, *drawn))
    assert labels(kept) == ["noisy", "useful"]
    assert left_out == {"without_draw": 1}
    kept, _ = by_judge(walk(False, OAK, ASH), lambda trajectory, search: search is OAK)
    assert labels(kept) == ["useful", "noisy"]


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the released layout: documents are plain strings."""
    monkeypatch.chdir(tmp_path)
    row = {
        "id": "a",
        "question": "Which tree?",
        "answers": ["oak"],
        "prediction": "oak",
        "em": True,
        "searches": [
            {"query": "tree of the yard", "documents": ["An oak stands there."]},
            {"query": "yard", "documents": ["It is paved."]},
        ],
    }
    path = tmp_path / "released.jsonl"
    path.write_text("".join(json.dumps({**row, "id": name}) + "\n" for name in "ab"))
    return path


def run(source: Path, *options: str) -> list[dict]:
    assert main(["label", "--input", str(source), "--output", "out.jsonl", *options]) == 0
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def test_the_command(released: Path) -> None:
    rows = run(released, "--by", "judge", "--judge", "contains-answer")
    assert [[s["label"] for s in row["searches"]] for row in rows] == [["useful", "noisy"]] * 2
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert manifest["counts"] == {"trajectories": 2, "useful": 2, "noisy": 2}
    assert len(manifest["settings"]["input_sha256"]) == 64
    # The output can be used as input, and labelled again.
    Path("again.jsonl").write_bytes(Path("out.jsonl").read_bytes())
    rows = run(Path("again.jsonl"), "--fresh")
    assert [[s["label"] for s in row["searches"]] for row in rows] == [["useful", "useful"]] * 2


@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_a_judge_of_ones_own(released: Path, concurrency: str) -> None:
    Path("judges.py").write_text("def strict(question, query, documents):\n    return 'oak' in documents[0].text\n")
    rows = run(released, "--by", "judge", "--judge", "judges.py:strict", "--concurrency", concurrency)
    assert [row["id"] for row in rows] == ["a", "b"]
    assert [[s["label"] for s in row["searches"]] for row in rows] == [["useful", "noisy"]] * 2


def test_a_judge_that_fails_costs_only_what_it_failed(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("judges.py").write_text(
        "import os\ncalls = []\ndef judge(question, query, documents):\n    calls.append(query)\n"
        "    if 'SURE' in os.environ:\n        return False\n"
        "    return 'perhaps' if len(calls) == 3 else True\n"
    )
    with pytest.raises(AgentError, match=r"trajectory 'b'.*expected True or False, got str: 'perhaps'"):
        run(released, "--by", "judge", "--judge", "judges.py:judge")
    assert len(Path("out.jsonl").read_text().splitlines()) == 1
    monkeypatch.setenv("SURE", "1")
    rows = run(released, "--by", "judge", "--judge", "judges.py:judge")
    assert [[s["label"] for s in row["searches"]] for row in rows] == [["useful"] * 2, ["noisy"] * 2]
    Path("judges.py").write_text("def judge(question, query, documents):\n    return False\n")
    with pytest.raises(ConfigError, match=r"other settings \(the code in judges\.py: .*--fresh"):
        run(released, "--by", "judge", "--judge", "judges.py:judge")


def test_transcripts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TranscriptWriter(tmp_path / "transcripts.jsonl") as writer:
        for noise, answer in ((0.0, "oak"), (1.0, "ash"), (0.0, None)):
            episode = Episode(Question("q", "Which tree?", ("oak",)), make_rules(), noise_level=noise, seed=1)
            request = episode.advance("<search>tree</search>")
            assert isinstance(request, SearchRequest)
            episode.observe(run_searches(ConstantEngine(), [request])[0])
            if answer:
                episode.advance(f"<answer>{answer}</answer>")
            writer.write(transcript_record(episode))
    rows = read_files([tmp_path / "transcripts.jsonl"])
    read = list(RowReader().read(rows, TrajectoryReader(), where="here", what="trajectories"))
    assert [t.id for t in read] == ["q", "q@2", "q@3"]
    assert [t.em for t in read] == [True, False, None]
    assert [t.searches[0].noisy for t in read] == [False, True, False]
    assert len(read[0].searches[0].documents) == 5
    rows = run(tmp_path / "transcripts.jsonl")
    assert [(row["id"], row["searches"][0]["label"]) for row in rows] == [("q", "useful")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"searches": [{"qery": "a"}]}, r"'searches\[0\].query': expected the query in .*; the nearest is 'qery'\. "),
        ({"question": ""}, "row 2: field 'question': expected a non-empty string"),
        ({"answers": []}, "field 'answers'"),
        ({"em": "yes"}, "field 'em': expected true, false or null, got 'yes'"),
        ({"searches": [{"query": "a", "documents": []}]}, r"field 'searches\[0\].documents': expected at least one"),
        ({"searches": [{"query": " ", "documents": ["a"]}]}, r"field 'searches\[0\].query'"),
        ({"searches": [{"query": "a", "documents": [{"title": "b"}]}]}, r"'searches\[0\].documents\[0\].text'"),
        ({"searches": "none"}, "field 'searches': expected a list"),
        ({"prediction": 3}, "field 'prediction'"),
    ],
)
def test_bad_rows(released: Path, change: dict, message: str) -> None:
    good = json.loads(released.read_text().splitlines()[0])
    released.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, "id": "x", **change})))
    with pytest.raises(DataError, match=message):
        run(released)
    assert len(run(released, "--on-bad-row", "skip")) == 1
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert manifest["session"]["skipped_rows"] == 1


def test_a_file_that_is_cut_in_the_middle_of_a_line(released: Path) -> None:
    released.write_bytes(released.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"row 2: expected one JSON object per line.*may be cut off"):
        run(released)
    assert len(run(released, "--on-bad-row", "skip")) == 1


def test_several_files_and_folders_of_shards(released: Path) -> None:
    lines = released.read_text().splitlines(keepends=True)
    Path("shards").mkdir()
    for number, line in enumerate(lines):
        Path(f"shards/part-{number}.jsonl").write_text(line)
    Path("more.json").write_text(f"[{lines[0]}]")
    command = ["label", "--input", "shards", "more.json", "--output", "out.jsonl"]
    assert main(command) == 0
    assert [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()] == ["a", "b", "a@3"]
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert [Path(path).name for path in manifest["input"]["paths"]] == ["part-0.jsonl", "part-1.jsonl", "more.json"]
    with pytest.raises(ConfigError, match=r"other settings \(input_sha256"):
        run(released)
    with pytest.raises(ConfigError, match="given twice"):
        main([*command, "--input", str(released), str(released)])
    with pytest.raises(ConfigError, match="no input"):
        main(["label", "--input", "--output", "out.jsonl"])
    Path("shards/part-0.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"shards/part-0.jsonl, row 1: .*expected a trajectory .* leaves such rows out"):
        main([*command, "--fresh"])


def test_options_that_do_not_go_together(released: Path) -> None:
    with pytest.raises(ConfigError, match="--by judge needs it"):
        LabelConfig((released,), by="judge")
    with pytest.raises(ConfigError, match="concurrency must be a whole number of at least 1"):
        LabelConfig((released,), concurrency=0)
    with pytest.raises(ConfigError, match=r"there is no file .nobody\.py"):
        run(released, "--by", "judge", "--judge", "nobody.py:judge")
    with pytest.raises(ConfigError, match="input and output"):
        main(["label", "--input", str(released), "--output", str(released)])


def test_real_trajectories(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = run(shared_data / "real_search_trajectories.jsonl")
    found = [search["label"] for row in rows for search in row["searches"]]
    assert len(rows) == 1314
    assert len(found) == 3169
    assert found.count("useful") == 860


@pytest.mark.parametrize("write_text", [json.dumps, repr])
def test_trajectories_whose_lists_are_text(write_text: Callable[[object], str]) -> None:
    searches = [{"query": "a", "documents": ["oak", {"title": "T", "text": "ash"}], "noisy": True}]
    row = {"question": "Which tree?", "answers": ["oak"], "searches": searches}
    as_text = row | {"answers": write_text(["oak"]), "searches": write_text(searches)}
    read, expected = (TrajectoryReader()(NumberedRow("row 1", 1, content)) for content in (as_text, row))
    assert read == expected
