"""The leaderboard: records are made of whole and unchanged runs only, and the page says what the records say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest

from zerosearch_agents.evaluation.hashes import record_hash
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_benchmarks.measure import RESULTS
from zerosearch_benchmarks.robustness.bench import main as play
from zerosearch_benchmarks.robustness.definitions import load_definition
from zerosearch_benchmarks.robustness.leaderboard import PAGE, main, page
from zerosearch_benchmarks.robustness.records import add_record, make_records, read_records
from zerosearch_env.errors import ConfigError, DataError

SMALL = """
name = "small"
questions = 2
noise = [0, 0.25, 0.5, 0.75, 1]
noise_kind = ["distractor", "outage"]
max_turns = 2
top_k = 2
[world]
passages = 400
"""
AGENTS = ["--agent", "baseline:oracle", "--agent", "baseline:random"]


@pytest.fixture(scope="module")
def definition_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("definition") / "small.toml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def played(definition_file: Path) -> Path:
    """The output folder of two players."""
    output = definition_file.parent / "run"
    assert play([*AGENTS, "--definition", str(definition_file), "--output", str(output), "--no-report"]) == 0
    return output


def test_the_page_shows_the_committed_records() -> None:
    records = read_records(RESULTS / "robustness")
    assert PAGE.read_text("utf-8") == page(records)
    for record in records:
        shipped = load_definition(record["definition"]["name"])
        assert record["definition"]["hash"] == shipped.hash
        assert record["episodes"] == record["questions"] * shipped.played
        assert list(record["kinds"]) == list(shipped.noise_kind)


def test_a_record_has_the_figures_of_the_results(played: Path, definition_file: Path, tmp_path: Path) -> None:
    definition = load_definition(str(definition_file))
    oracle, random = make_records(played, [definition])
    assert (oracle["agent"], random["agent"]) == ("baseline:oracle", "baseline:random")
    evaluation = load_evaluation(played)

    def em(level: float, kind: str) -> float:
        return evaluation.find("baseline:oracle", level, "corpus", kind).summary().em.mean

    areas = {kind: fmean(em(level, kind) for level in (0.0, 0.25, 0.5, 0.75)) for kind in ("distractor", "outage")}
    assert {kind: figures["area"]["mean"] for kind, figures in oracle["kinds"].items()} == pytest.approx(areas)
    assert oracle["scores"]["area"]["mean"] == pytest.approx(fmean(areas.values()))
    assert oracle["scores"]["em"]["mean"] == pytest.approx(fmean(em(0.5, kind) for kind in areas))
    assert oracle["scores"]["em_clean"]["mean"] == em(0.0, "outage") == 1.0
    last = evaluation.find("baseline:random", 1.0, "corpus", "outage").summary()
    assert random["kinds"]["outage"]["truthfulness"]["mean"] == last.truthfulness.mean
    assert (oracle["questions"], oracle["episodes"]) == (4, 4 * (1 + 2 * 4))
    assert oracle["versions"].keys() >= {"zerosearch-env", "python"}
    assert {*evaluation.settings["engines"]["corpus"].values()} <= {*oracle["data"].values()}
    assert oracle["check"] == ["72 of 72 played episodes have a transcript that says the same"]

    for record in (oracle, random):
        add_record(record, tmp_path)
    text = page(read_records(tmp_path), [definition])
    assert text.index("| baseline:oracle | ") < text.index("| baseline:random | ")
    assert f"Definition `{definition.hash}`: 4 questions of world" in text
    area = oracle["scores"]["area"]
    assert (
        "| baseline:oracle | {mean:.1f} [{low:.1f}, {high:.1f}] | 100.0 [".format(
            **{name: 100 * area[name] for name in ("mean", "low", "high")}
        )
        in text
    )


def test_a_note_says_what_an_agent_is(
    played: Path, definition_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = load_definition(str(definition_file))
    monkeypatch.setattr("zerosearch_benchmarks.robustness.records.shipped_definitions", lambda: [definition])
    monkeypatch.setattr("zerosearch_benchmarks.robustness.leaderboard.shipped_definitions", lambda: [definition])
    records, written = tmp_path / "records", tmp_path / "page.md"
    command = ["--records", str(records), "--page", str(written)]
    note = "Sees the\n gold answers = an upper <b>bound</b>."
    assert main([*command, "--add", str(played), "--note", f"baseline:oracle={note}"]) == 0
    assert [record.get("note") for record in read_records(records)] == [" ".join(note.split()), None]
    row = "| baseline:oracle | Sees the gold answers = an upper &lt;b&gt;bound&lt;/b&gt;. |  | "
    assert row in written.read_text("utf-8")
    assert main([*command, "--add", str(played)]) == 0
    assert row in written.read_text("utf-8"), "a newer run keeps the note"
    with pytest.raises(ConfigError, match=r"unknown agent in --note 'oracle'\. Did you mean 'baseline:oracle'\?"):
        main([*command, "--note", "oracle=x"])
    for entry in ("x", "=x"):
        with pytest.raises(ConfigError, match=f"note: expected NAME=TEXT, .* got '{entry}'"):
            main([*command, "--note", entry])


def test_a_policy_has_its_tokens_and_weights_in_the_record(definition_file: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "one.toml", tmp_path / "run"
    file.write_text(
        'questions = 1\nnoise = [0, 0.5, 1]\nnoise_kind = ["outage", "empty"]\nmax_turns = 2\n[world]\npassages = 400\n'
    )
    options = ["--definition", str(file), "--agent", "start=tiny", "--workers", "1", "--output", str(output)]
    assert play([*options, "--no-report"]) == 0
    definition = load_definition(str(file))
    (record,) = make_records(output, [definition])
    assert record["spent"]["tokens_written"] > 0
    assert record["spent"]["tokens_read"] > 0
    assert {"the files of the agent start", "the options of the agent start"} <= record["identity"].keys()
    add_record(record, tmp_path / "records")
    row = page(read_records(tmp_path / "records"), [definition]).partition("| agent | what it is |")[2].splitlines()[2]
    cells = load_evaluation(output).cells
    clean, copy = [cell for cell in cells if cell.noise_level == 0]
    assert copy.spent is None
    tokens, seconds = row.split(" | ")[2:4]
    assert tokens == str(clean.spent["tokens_written"] // clean.planned)
    assert float(seconds) == pytest.approx(clean.seconds / clean.planned, abs=1.1e-3)
    assert record["seconds"] == pytest.approx(sum(cell.seconds for cell in cells), abs=1e-3)
    written = [cell.spent.get("tokens_written", 0) for cell in cells if cell.spent]
    assert record["spent"]["tokens_written"] == sum(written)


def test_an_edited_folder_is_refused(played: Path, definition_file: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(played, tmp_path / "run")
    values = json.loads((folder / "results.json").read_text("utf-8"))
    cell = values["cells"][-1]
    cell["episodes"][0]["em"] = 1 - cell["episodes"][0]["em"]
    (folder / "results.json").write_text(json.dumps(values))
    records, written = tmp_path / "records", tmp_path / "page.md"
    message = r"not a whole and unchanged benchmark run: the cell of 'baseline:random', .* does not fit its hash"
    with pytest.raises(DataError, match=message):
        make_records(folder, [load_definition(str(definition_file))])
    with pytest.raises(DataError, match=message):
        main(["--add", str(folder), "--records", str(records), "--page", str(written)])
    assert not records.exists()
    assert not written.exists()
    (folder / "results.json").unlink()
    with pytest.raises(DataError, match="no such file"):
        main(["--add", str(folder), "--records", str(records), "--page", str(written)])


def test_another_definition_is_refused(played: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"follows the definition 'small' \(\w{16}\), expected v1 \(\w{16}\) or v1-small"
    ):
        main(["--add", str(played), "--records", str(tmp_path / "records"), "--page", str(tmp_path / "page.md")])


def test_records_are_of_the_same_data_and_of_one_agent(played: Path, definition_file: Path, tmp_path: Path) -> None:
    oracle, random = make_records(played, [load_definition(str(definition_file))])
    file = add_record(oracle, tmp_path)
    assert file.name == "small-baseline-oracle.json"
    assert add_record(oracle, tmp_path) == file
    other = {**random, "data": {**random["data"], "the corpus of passages": "0" * 32}}
    with pytest.raises(DataError, match=r"not of the same data as small-baseline-oracle.json.*of passages has changed"):
        add_record(other, tmp_path)
    newer = {**oracle, "identity": {**oracle["identity"], "the tag of the agent baseline:oracle": "2"}}
    with pytest.raises(DataError, match=r"another version of it. Give yours another name \(--agent NAME="):
        add_record(newer, tmp_path)
    assert [record["file"] for record in read_records(tmp_path)] == [file.name]


def test_an_edited_record_is_refused(played: Path, definition_file: Path, tmp_path: Path) -> None:
    file = add_record(make_records(played, [load_definition(str(definition_file))])[1], tmp_path)
    text = file.read_text("utf-8")
    file.write_text(text.replace('"episodes": 36', '"episodes": 37'))
    with pytest.raises(DataError, match="was changed after it was written"):
        read_records(tmp_path)
    file.write_text(text[:-20])
    with pytest.raises(DataError, match="is not a record of the leaderboard"):
        main(["--records", str(tmp_path), "--page", str(tmp_path / "page.md")])


def test_names_are_text_and_a_missing_area_is_no_number(played: Path, definition_file: Path, tmp_path: Path) -> None:
    definition = load_definition(str(definition_file))
    record = make_records(played, [definition])[0] | {"agent": "<b>a|b</b>\n[x](y) `c`"}
    record["scores"] = {**record["scores"], "area": dict.fromkeys(("mean", "low", "high"), None) | {"n": 0}}
    record["hash"] = record_hash(record)
    add_record(record, tmp_path)
    text = page(read_records(tmp_path), [definition])
    assert r"| &lt;b&gt;a\|b&lt;/b&gt; \[x\](y) \`c\` | 100.0 [" in text
    assert "so agents are sorted by EM at p = 0.5" in text
    assert "| agent | EM clean | EM | truthfulness |" in text
    assert "<summary>&lt;b&gt;a|b&lt;/b&gt; [x](y) `c`, small: all figures by kind</summary>" in text


def test_the_page_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run this in a checkout of the repository, or give --page"):
        main(["--records", str(tmp_path), "--page", str(tmp_path / "docs" / "page.md")])
