"""`zerosearch compare`: tables and JSON over several folders, and the check of a benchmark run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results import made_episode
from tiny import tiny_dataset

from zerosearch_agents.commands.compare import SCHEMA_VERSION, main
from zerosearch_agents.config.definition import Definition
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.hashes import file_hash, record_hash
from zerosearch_agents.evaluation.results import Cell, Evaluation, load_evaluation, save_evaluation
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.evaluation.stored.check import check_folder
from zerosearch_agents.players.builtin.scripted import RandomPlayer
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import read_transcripts

DATA = tiny_dataset()
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
VALUES: dict[str, Any] = {
    "dataset": "tiny.jsonl",
    "columns": (),
    "split": "test",
    "world": WorldConfig(),
    "questions": len(DATA.questions),
    "per_hop": False,
    "samples": 1,
    "noise": (0.0, 1.0),
    "noise_kind": ("distractor", "empty"),
    "noise_unit": "search",
    "engine": "corpus",
    "max_turns": 4,
    "top_k": 2,
    "abstentions": ("unknown",),
    "seed": 0,
}
DEFINITION = Definition(name="small", **VALUES)


def settings(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        **{name: VALUES[name] for name in ("dataset", "split", "per_hop", "noise_unit", "max_turns", "top_k", "seed")},
        **{"abstentions": ["unknown"], "questions": len(DATA.questions), "protocol": "zerosearch"},
        **{"command": "zerosearch bench robustness", "versions": {"zerosearch-env": "0.2.0"}},
        "definition": DEFINITION.record,
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole benchmark run of one agent that searches, and one that does not."""
    folder = tmp_path_factory.mktemp("whole")
    engine = add_noise_kinds(CorpusEngine(DATA.passages), ["empty"], DATA.questions)
    contents, engines = {"the dataset": "aa"}, {"corpus": {"the corpus": "bb"}}
    store = Store(folder, settings(), {"random": {}, "direct": {}}, contents, engines)
    direct = CallablePlayer(lambda observation, info: "<answer>k</answer>", name="direct")
    direct.searches = False
    random = RandomPlayer()
    random.name = "random"
    rules = make_rules(max_turns=4, top_k=2, abstentions=("unknown",))
    for player in (random, direct):
        kinds = VALUES["noise_kind"]
        evaluate(
            player, DATA.questions, engine, rules, (0.0, 1.0), noise_kinds=kinds, engine_name="corpus", store=store
        )
    return folder


@pytest.fixture
def submission(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_whole_run_is_accepted(submission: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = check_folder(submission)
    assert check.problems == ()
    assert check.definition == {"name": "small", "hash": DEFINITION.hash}
    # random plays three cells of eight questions; direct never searches, and plays one
    assert check.notes == ("32 of 32 played episodes have a transcript that says the same",)
    assert main([str(submission), "--check"]) == 0
    assert f"accepted, small ({DEFINITION.hash})" in capsys.readouterr().out
    assert main([str(submission), "--check", "--json"]) == 0
    (values,) = json.loads(capsys.readouterr().out)["folders"]
    assert (values["accepted"], values["problems"], values["folder"]) == (True, [], str(submission))


def rewrite(folder: Path, edit: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Edit results.json; `seal`: with hashes that fit, as somebody who hides the edit would write them."""
    path = folder / "results.json"
    values = json.loads(path.read_text())
    edit(values)
    if seal:
        for cell in values["cells"]:
            cell["hash"] = record_hash(cell)
        values["hash"] = file_hash(values["settings"], values["cells"])
    path.write_text(json.dumps(values))


def first_episode(values: dict[str, Any]) -> dict[str, Any]:
    episode: dict[str, Any] = values["cells"][0]["episodes"][0]
    return episode


def without_definition(values: dict[str, Any]) -> None:
    del values["settings"]["definition"]


def more_questions(values: dict[str, Any]) -> None:
    values["settings"]["definition"]["values"]["questions"] = 40


def other_definition(values: dict[str, Any]) -> None:
    more_questions(values)
    values["settings"]["definition"]["hash"] = Definition(name="x", **{**VALUES, "questions": 40}).hash


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (without_definition, "the settings lack 'definition'"),
        (lambda v: v["settings"].pop("versions"), "the settings lack 'versions'"),
        (lambda v: v["settings"]["agents"].pop("direct"), "the settings say nothing about the agent 'direct'"),
        (lambda v: v["settings"].update(seed=1), "a setting is not that of the definition: seed: 0 -> 1"),
        (lambda v: v["settings"].update(definition="v1"), "the definition in the settings cannot be read"),
        (lambda v: v["settings"]["definition"]["values"].update(turns=3), "unknown field"),
        (more_questions, "the definition 'small' does not fit its hash"),
        (other_definition, "direct, corpus, noise 0: 8 episodes planned, expected 40"),
        (lambda v: v["cells"].pop(), "direct, corpus, noise 1 empty: the cell is missing"),
        (lambda v: v["cells"].clear(), "there is no cell"),
        (lambda v: v["cells"][1]["episodes"].pop(), "random, corpus, noise 1: 7 of 8 episodes finished"),
        (
            lambda v: v["cells"][1]["episodes"].append(v["cells"][1]["episodes"][0]),
            "random, corpus, noise 1: the episode of question 0 is there 2 times",
        ),
        (
            lambda v: v["cells"][1]["episodes"][2].update(question_id="mine"),
            "random, corpus, noise 1: question 2 ('mine') is not one of the first cell",
        ),
        (
            lambda v: first_episode(v).update(em=1.0 - first_episode(v)["em"]),
            "random, corpus, noise 0: 1 episode is not what the transcripts say, the first is question 0",
        ),
        (
            lambda v: [cell.update(agent="mine") for cell in v["cells"] if cell["agent"] == "direct"],
            "it has episodes of a cell that results.json lacks: direct, corpus, noise 0",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    submission: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    rewrite(submission, edit)
    problems = check_folder(submission).problems
    assert any(problem in text for text in problems), problems


def test_edits_that_hashes_show(submission: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(submission, lambda values: first_episode(values).update(f1=0.123), seal=False)
    problems = check_folder(submission).problems
    assert problems[0] == (
        "the cell of 'random', corpus, noise 0.0 distractor does not fit its hash: it was changed after it was written"
    )
    assert main([str(submission), "--check"]) == 1
    assert "refused" in capsys.readouterr().out
    with pytest.raises(DataError, match="was changed after it was written"):
        main([str(submission)])


def test_half_written_and_foreign_files(submission: Path, tmp_path: Path) -> None:
    text = (submission / "results.json").read_text()
    (submission / "results.json").write_text(text[: len(text) // 2])
    assert "not a results file" in check_folder(submission).problems[0]
    rewritten = json.loads(text)
    rewritten.pop("hash")
    (submission / "results.json").write_text(json.dumps(rewritten))
    assert any("has no hashes" in problem for problem in check_folder(submission).problems)
    (submission / "results.json").write_text(json.dumps({**json.loads(text), "cells": [{}]}))
    assert "a cell is incomplete" in check_folder(submission).problems[0]
    assert "no such file" in check_folder(tmp_path / "nothing").problems[0]


def test_transcripts_may_be_a_sample_but_not_of_others(submission: Path) -> None:
    files = sorted((submission / "transcripts").glob("random*.jsonl"))
    files[0].write_text("".join(files[0].read_text().splitlines(keepends=True)[:3]) + '{"schema_version": 1, "pro')
    files[1].unlink()
    check = check_folder(submission)
    assert check.accepted
    assert check.notes == ("19 of 32 played episodes have a transcript that says the same",)
    record = next(iter(read_transcripts(files[0])))
    record["scores"] = None
    files[1].write_text(json.dumps(record) + "\n")
    assert any("not the transcript of a finished episode" in problem for problem in check_folder(submission).problems)


def test_nothing_in_a_folder_is_run(submission: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conftest.py", "results.py", "sitecustomize.py", "transcripts/agent.py", "json.py"):
        (submission / name).write_text("raise SystemExit('this was run')")
    monkeypatch.chdir(submission)
    assert check_folder(submission).accepted
    rewrite(
        submission,
        lambda values: values["settings"]["definition"]["values"].update(engine="json.py:Engine"),
    )
    assert any("names code" in problem for problem in check_folder(submission).problems)


# comparison


def folder(path: Path, agent: str, right: int, *, levels: tuple[float, ...] = LEVELS, **changes: Any) -> Path:
    cells = [
        Cell(agent, "corpus", level, 12, rows, noise_kind=kind)
        for kind in ("distractor", "empty")
        for level in levels
        for rows in [
            tuple(made_episode(i, float(i < right * (1 - level)), group=f"{1 + i % 2}-hop") for i in range(12))
        ]
    ]
    save_evaluation(Evaluation(tuple(cells), settings(agents={agent: {}}, **changes)), path)
    return path


def test_tables_of_several_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong, weak = folder(tmp_path / "a", "mine", 12), folder(tmp_path / "b", "mine", 4)
    assert main([str(strong), str(weak)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "em in % by noise level; area: mean over 0 to 0.75; kept: share left at 0.5, in %"
    assert lines[1].split() == ["0", "0.25", "0.5", "0.75", "1", "area", "kept", "half", "lost"]
    assert lines[2:4][0] == "mine (a)"
    assert lines[3].split() == ["distractor", "100.0", "75.0", "50.0", "25.0", "0.0", "62.5", "50.0", "0.50"]
    assert "mine (a) - mine (b)" in lines
    assert "* p < 0.05 after the Holm correction for 11 comparisons" in out
    row = lines[lines.index("mine (a) - mine (b)") + 1]
    assert row.split() == ["distractor", "+66.7", "+50.0", "+33.3", "+16.7", "+0.0", "+41.7*"]


def test_options_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder(tmp_path / name, name, right)) for name, right in (("a", 12), ("b", 4), ("c", 0))]
    assert main([*folders, "--agents", "c", "a", "--metric", "searches", "--by", "hops"]) == 0
    out = capsys.readouterr().out
    assert "c - a, 1-hop" in out
    assert "c - a, 2-hop" in out
    assert "\nb" not in out
    assert "+0.00" in out


def test_json_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder(tmp_path / name, name, right)) for name, right in (("a", 12), ("b", 4))]
    assert main([*folders, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["schema_version"] == SCHEMA_VERSION
    assert values["agents"] == ["a", "b"]
    assert values["definition"]["hash"] == DEFINITION.hash
    assert [curve["area"]["mean"] for curve in values["curves"]] == pytest.approx([0.625, 0.625, 5 / 24, 5 / 24])
    assert len(values["comparisons"]) == 11
    assert {pair["noise_level"] for pair in values["comparisons"]} == {*LEVELS, None}
    assert len(values["behaviour"]) == 20
    assert values["behaviour"][0]["agent"] == "a"
    assert values["behaviour"][0]["right_unseen"]["n"] == 12


def test_questions_per_number_of_hops_are_counted(tmp_path: Path) -> None:
    for questions, fits in ((6, True), (5, False)):
        definition = Definition(name="d", **{**VALUES, "noise": LEVELS, "per_hop": True, "questions": questions})
        run = folder(tmp_path / str(questions), "a", 3, per_hop=True, definition=definition.record)
        problems = check_folder(run).problems
        assert any("12 episodes planned, expected 10" in problem for problem in problems) is not fits
        assert fits is not bool([problem for problem in problems if "planned" in problem])


def test_folders_of_another_definition_are_refused(tmp_path: Path) -> None:
    other = Definition(name="large", **{**VALUES, "questions": 40})
    first, second = folder(tmp_path / "a", "a", 3), folder(tmp_path / "b", "b", 3, definition=other.record)
    with pytest.raises(DataError, match=r"definition: small \(\w+\) -> large \(\w+\); questions: 8 -> 40"):
        main([str(first), str(second)])
    renamed = Definition(name="mine", **VALUES)
    third = folder(tmp_path / "c", "c", 3, definition=renamed.record)
    assert main([str(first), str(third)]) == 0  # the name is no part of it


def test_bad_input(tmp_path: Path) -> None:
    alone = folder(tmp_path / "a", "a", 3)
    with pytest.raises(DataError, match="only one agent to compare, a"):
        main([str(alone)])
    with pytest.raises(ConfigError, match="no folder given"):
        main([])
    other = folder(tmp_path / "b", "b", 3)
    with pytest.raises(ConfigError, match="unknown metric 'emm'"):
        main([str(alone), str(other), "--metric", "emm"])
    assert load_evaluation(alone).agents == ("a",)
