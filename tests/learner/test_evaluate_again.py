"""Evaluations that continue: cells are taken over only if they were measured with the same content."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tiny import tiny_dataset

from zerosearch_agents.commands.evaluate import main
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import Item
from zerosearch_agents.evaluation.results import CellKey, load_evaluation
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.builtin.scripted import RandomPlayer
from zerosearch_env.cli import main as zerosearch
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.identity import text_hash

RULES = make_rules(max_turns=4, top_k=2)
DATA = tiny_dataset()
QUESTIONS = DATA.questions
ONE, TWO = text_hash("1"), text_hash("2")
AGENTS = {"a": {}, "b": {"its tag": "v1"}}


@pytest.fixture
def engine() -> CorpusEngine:
    return CorpusEngine(DATA.passages)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_cells_measured_with_other_content_are_not_taken_over(tmp_path: Path, engine: CorpusEngine) -> None:
    def store(**changed) -> Store:
        contents, engines = {"the question file q": ONE}, {"e": {"the corpus file c": ONE}, "f": {}}
        record = {"agents": AGENTS, "contents": contents, "engines": engines, **changed}
        return Store(tmp_path, {"seed": 0}, planned={CellKey("a", "e", 0.0), CellKey("b", "f", 0.0)}, **record)

    def measured() -> Store:
        (tmp_path / "results.json").unlink(missing_ok=True)
        made = store()
        for name, where in (("a", "e"), ("b", "f")):
            evaluate(RandomPlayer(name=name), QUESTIONS, engine, RULES, (0.0,), engine_name=where, store=made)
        return made

    assert [cell.agent for cell in measured().evaluation.cells] == ["a", "b"]
    assert store().replaced == ""
    for changed, agents, why in (
        ({"contents": {"the question file q": TWO}}, [], "the question file q has changed: 2 cells are"),
        ({"engines": {"e": {"the corpus file c": TWO}, "f": {}}}, ["b"], "the corpus file c has changed: 1 cell is"),
        ({"agents": {**AGENTS, "b": {"its tag": "v2"}}}, ["a"], "its tag has changed from 'v1' to 'v2': 1 cell is"),
        ({"engines": {"e": {"the model": "x"}, "f": {}}}, ["b"], "there is no record of the model: 1 cell is"),
    ):
        measured()
        again = store(**changed)
        assert [cell.agent for cell in again.evaluation.cells] == agents
        assert again.replaced == f"compared with the earlier run, {why} measured again"
        for key in (CellKey("a", "e", 0.0), CellKey("b", "f", 0.0)):
            with again.journal(key, [Item(i, q) for i, q in enumerate(QUESTIONS)]) as journal:
                assert len(journal.finished) == (8 if key[0] in agents else 0)
        again.add()
        assert store(**changed).replaced == ""


def test_damaged_results_are_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(bytes(9))
    with pytest.raises(DataError, match=r"not a results file .*choose another --output, or pass --fresh"):
        Store(tmp_path, {})


def test_changed_cells_that_would_stay_are_refused(tmp_path: Path, engine: CorpusEngine) -> None:
    store = Store(tmp_path, {}, contents={"the question file q": ONE})
    evaluate(RandomPlayer(name="a"), QUESTIONS, engine, RULES, (0.0, 0.5), engine_name="e", store=store)
    with pytest.raises(ConfigError, match=r"the question file q has changed; 1 of them .* a, e, noise 0.5\): choose"):
        Store(tmp_path, {}, contents={"the question file q": TWO}, planned={CellKey("a", "e", 0.0)})
    assert len(load_evaluation(tmp_path).cells) == 2
    assert len(list((tmp_path / "transcripts").iterdir())) == 2


def test_the_command_follows_the_content_of_its_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("same.py").write_text(
        "def agent(o, info):\n"
        "    return '<answer>Paris</answer>' if 'Paris' in info['transcript'] else '<search>k</search>'\n"
    )

    def run(gold: str, text: str, *more: str) -> tuple[float, str]:
        Path("q.jsonl").write_text(json.dumps({"question": "Capital?", "answers": [gold]}) + "\n")
        Path("c.jsonl").write_text("".join(json.dumps({"contents": f"{text} k {n}"}) + "\n" for n in range(20)))
        data = ["--dataset", "q.jsonl", "--engine", "corpus:c.jsonl", "--noise", "0", "--output", "out"]
        assert main(["--agent", "same.py:agent", *data, *more]) == 0
        return load_evaluation("out").cells[0].summary().em.mean, capsys.readouterr().out

    assert run("Paris", "Paris")[0] == 1.0
    assert "from an earlier run" in run("Paris", "Paris")[1]
    score, out = run("Lyon", "Paris")
    assert score == 0.0
    assert "the question file q.jsonl has changed: 1 cell is measured again" in out
    score, out = run("Paris", "Rome")
    assert score == 0.0
    assert "the question file q.jsonl has changed; the corpus file c.jsonl has changed: 1 cell is" in out
    again = run("Paris", "Rome", "--agent-tag", "v2")[1]
    assert "the tag of the agent same.py:agent has changed from '' to 'v2': 1 cell is measured again" in again
    assert "from an earlier run" in run("Paris", "Rome", "--agent-tag", "same.py:agent=v2")[1]
    Path("same.py").write_text(Path("same.py").read_text() + "# edited\n")
    again = run("Paris", "Rome", "--agent-tag", "v2")[1]
    assert "the code of the agent same.py:agent has changed: 1 cell is measured again" in again
    with pytest.raises(ConfigError, match="Did you mean 'same\\.py:agent'"):
        run("Paris", "Rome", "--agent-tag", "same.py:agnet=v2")


def test_sigterm_saves_what_is_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("killed.py").write_text(
        "import os, signal\n\ncalls = []\n\n\ndef agent(observation, info):\n    calls.append(1)\n"
        "    if len(calls) == 4:\n        os.kill(os.getpid(), signal.SIGTERM)\n    return '<answer>x</answer>'\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    assert (
        zerosearch(
            [
                "eval",
                "--agent",
                "killed.py:agent",
                "--world.passages",
                "400",
                "--questions",
                "6",
                "--noise",
                "0",
                "--output",
                "out",
            ]
        )
        == 130
    )
    assert signal.getsignal(signal.SIGTERM) is before
    captured = capsys.readouterr()
    assert "the results so far are in out" in captured.out
    (cell,) = load_evaluation("out").cells
    assert len(cell.episodes) == 3
