"""Evaluations under several kinds of noise, and what wrong answers came to."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tiny import tiny_dataset

from zerosearch_agents.commands.evaluate import main
from zerosearch_agents.evaluation.display import print_evaluation
from zerosearch_agents.evaluation.episodes import episode_result
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import Item
from zerosearch_agents.evaluation.results import CellKey, Evaluation, load_evaluation, save_evaluation
from zerosearch_agents.evaluation.store import Journal, Store, transcript_path
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.report.page import Notes, Report, render_report
from zerosearch_env.engines import CorpusEngine, SearchEngine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.noise_kinds import DISTRACTOR, read_mixture
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import read_transcripts

EARLIER = Path(__file__).parent / "data" / "before-kinds"
"""An evaluation and transcripts that were written before there were kinds of noise."""
RULES = make_rules(max_turns=4, top_k=2)
DATA = tiny_dataset()
EMPTY, MIXED = read_mixture("empty"), read_mixture("empty=0.5,outage=0.5")


@pytest.fixture
def engine() -> SearchEngine:
    return add_noise_kinds(CorpusEngine(DATA.passages), ["empty", "outage", "markup"], DATA.questions)


class Counting(CallablePlayer):
    """Searches for the question twice, then says what it read; counts its episodes."""

    def __init__(self, name: str = "agent", otherwise: str = "unknown") -> None:
        def agent(observation: str, info) -> str:
            if info["turn"] < 2:
                return f"<search>{info['question']}</search>"
            letter = info["question"][-1]
            read = [name for name in "kb" if f"letter {letter} is {name}" in info["transcript"]]
            return f"<answer>{read[0] if read else otherwise}</answer>"

        super().__init__(agent, name=name)
        self.played = 0

    def play(self, episodes, engine, on_done=None) -> None:
        self.played += len(episodes)
        super().play(episodes, engine, on_done)


def test_every_kind_has_a_cell_per_level_and_level_0_is_played_once(tmp_path: Path, engine: SearchEngine) -> None:
    agent, store = Counting(), Store(tmp_path, {})
    kinds = (DISTRACTOR, EMPTY, MIXED)
    cells = evaluate(agent, DATA.questions, engine, RULES, (0.0, 1.0), noise_kinds=kinds, store=store).cells
    names = ("distractor", "empty", "empty=0.5,outage=0.5")
    assert [cell.key for cell in cells] == [("agent", "engine", p, kind) for kind in names for p in (0.0, 1.0)]
    assert agent.played == 4 * len(DATA.questions)
    assert cells[0].episodes == cells[2].episodes == cells[4].episodes
    files = sorted(file.name for file in (tmp_path / "transcripts").iterdir())
    assert files == [
        "agent__engine__noise-0.jsonl",
        "agent__engine__noise-1.jsonl",
        "agent__engine__noise-1__empty-0.5-outage-0.5.jsonl",
        "agent__engine__noise-1__empty.jsonl",
    ]
    (record, *_) = read_transcripts(transcript_path(tmp_path, cells[3].key))
    assert record["noise_kind"] == "empty"
    loaded = load_evaluation(tmp_path)
    assert loaded.noise_kinds == names
    assert loaded.cells == cells
    assert loaded.find("agent", 1.0) == cells[1]
    assert loaded.find("agent", 1.0, noise_kind="empty") == cells[3]
    again = evaluate(agent, DATA.questions, engine, RULES, (0.0, 1.0), noise_kinds=kinds, store=Store(tmp_path, {}))
    assert again.cells == cells
    assert agent.played == 4 * len(DATA.questions)


def test_a_kind_added_later_finds_the_episodes_without_noise(tmp_path: Path, engine: SearchEngine) -> None:
    agent = Counting()
    for kind in (EMPTY, DISTRACTOR):
        evaluate(agent, DATA.questions, engine, RULES, (0.0,), noise_kinds=(kind,), store=Store(tmp_path, {}))
    assert agent.played == len(DATA.questions)
    assert load_evaluation(tmp_path).noise_kinds == ("empty", "distractor")


def test_an_engine_without_the_kinds_is_refused() -> None:
    engine, agent = CorpusEngine(DATA.passages), Counting()
    with pytest.raises(ConfigError, match="add_noise_kinds"):
        evaluate(agent, DATA.questions, engine, RULES, (0.0, 0.5), noise_kinds=(EMPTY,))
    assert evaluate(agent, DATA.questions, engine, RULES, (0.0,), noise_kinds=(EMPTY,)).cells[0].complete


def test_the_same_searches_are_noisy_under_every_kind(engine: SearchEngine) -> None:
    cells = evaluate(
        Counting(), DATA.questions, engine, RULES, (0.5,), noise_kinds=("distractor", EMPTY, {"outage": 1.0})
    ).cells
    noisy = [[result.noisy for result in cell.episodes] for cell in cells]
    assert noisy[0] == noisy[1] == noisy[2]
    assert 0 < sum(noisy[0]) < 2 * len(DATA.questions)


def test_an_interrupted_cell_of_a_kind_continues_from_its_own_transcripts(tmp_path: Path, engine: SearchEngine) -> None:
    class Stopping(Counting):
        def play(self, episodes, engine, on_done=None) -> None:
            super().play(episodes[:3], engine, on_done)
            raise KeyboardInterrupt

    options = {"noise_kinds": (EMPTY,)}
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stopping(), DATA.questions, engine, RULES, (1.0,), store=Store(tmp_path, {}), **options)
    agent = Counting()
    evaluate(agent, DATA.questions, engine, RULES, (1.0,), store=Store(tmp_path, {}), **options)
    assert agent.played == len(DATA.questions) - 3


def test_other_questions_matter_to_kinds_that_are_made_of_them(tmp_path: Path, engine: SearchEngine) -> None:
    def store(pool: str) -> Store:
        return Store(tmp_path, {}, noise={"the pool of questions": pool})

    evaluate(
        Counting(), DATA.questions, engine, RULES, (0.0, 1.0), noise_kinds=(DISTRACTOR, EMPTY), store=store("a" * 32)
    )
    again = store("b" * 32)
    kept = [(cell.noise_level, cell.noise_kind) for cell in again.evaluation.cells]
    assert kept == [(0.0, "distractor"), (1.0, "distractor"), (0.0, "empty")]
    assert "the pool of questions has changed: 1 cell is measured again" in again.replaced


def test_outcomes_and_truthfulness_have_intervals(tmp_path: Path, engine: SearchEngine) -> None:
    honest = evaluate(Counting("honest"), DATA.questions, engine, RULES, (0.0, 1.0), noise_kinds=(EMPTY,))
    guessing = evaluate(Counting("guessing", "x"), DATA.questions, engine, RULES, (0.0, 1.0), noise_kinds=(EMPTY,))
    both = honest.merged(guessing.cells)
    clean, noisy, _, guessed = (cell.summary() for cell in both.cells)
    assert (clean.em.mean, clean.abstained.mean, clean.hallucinated.mean, clean.truthfulness.mean) == (1, 0, 0, 1)
    assert (noisy.em.mean, noisy.abstained.mean, noisy.hallucinated.mean, noisy.truthfulness.mean) == (0, 1, 0, 0)
    assert (guessed.abstained.mean, guessed.hallucinated.mean, guessed.truthfulness.mean) == (0, 1, -1)
    assert -1 == guessed.truthfulness.low < guessed.truthfulness.high < 0
    assert 0 < clean.hallucinated.high < 0.5
    assert both.difference("honest", "guessing", 1.0, metric="truthfulness").mean == 1
    assert both.outcomes == ("abstained", "hallucinated", "truthfulness")
    save_evaluation(both, tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())["cells"][3]["summary"]["all"]
    assert stored["truthfulness"]["mean"] == -1
    output = io.StringIO()
    print_evaluation(both, Console(width=80, file=output))
    lines = output.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["abstained"])
    assert lines[start + 1].split()[:2] == ["honest", "0.0"]
    assert max(map(len, lines)) <= 80
    page = render_report(Report(Notes("results"), both))
    assert "Abstained, %" in page
    assert "Misled" not in page
    assert "noise of the kind empty" in page


def test_kinds_are_compared_on_the_same_questions(engine: SearchEngine) -> None:
    result = evaluate(
        Counting(), DATA.questions, engine, RULES, (0.0, 1.0), noise_kinds=(DISTRACTOR, read_mixture("markup"))
    )
    gap = result.kind_difference("agent", "markup", "distractor", 1.0)
    assert (gap.mean, gap.n) == (1.0, len(DATA.questions))
    output = io.StringIO()
    print_evaluation(result, Console(width=100, file=output))
    text = output.getvalue()
    lines = text[text.index("EM with ... minus EM with distractor, in points, paired") :].splitlines()
    row = next(line.split() for line in lines if line.split()[:1] == ["agent"] and "+100.0" in line)
    assert row[1] == "+100.0"
    page = render_report(Report(Notes("results"), result))
    assert "markup: " in page
    assert "+100.0</span>" in page
    assert "the kind of noise says what it then returns" in page


def test_results_from_before_data_sources_were_stored_can_be_read(tmp_path: Path, engine: SearchEngine) -> None:
    result = evaluate(Counting(), DATA.questions, engine, RULES, (0.0,))
    path = save_evaluation(result, tmp_path)
    values = json.loads(path.read_text())
    for row in values["cells"][0]["episodes"]:
        del row["data_source"]
    del values["hash"]  # those results had none
    path.write_text(json.dumps(values))
    assert load_evaluation(tmp_path).cells[0].summary().em == result.cells[0].summary().em
    del values["cells"][0]["episodes"][0]["em"]
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="a cell is incomplete"):
        load_evaluation(tmp_path)


def test_evaluations_of_earlier_versions_are_read(tmp_path: Path) -> None:
    earlier = load_evaluation(EARLIER)
    assert [cell.key for cell in earlier.cells] == [
        (agent, "corpus", level, "distractor")
        for agent in ("baseline:random", "baseline:oracle")
        for level in (0.0, 0.5)
    ]
    summary = earlier.cells[1].summary()
    assert summary.em.n == 3
    assert [summary.misled.n, summary.hallucinated.n, summary.truthfulness.n] == [0, 0, 0]
    assert earlier.outcomes == ()
    print_evaluation(earlier, Console(file=io.StringIO()))
    assert "Hallucinated" not in render_report(Report(Notes("results"), earlier))
    save_evaluation(earlier, tmp_path)
    assert load_evaluation(tmp_path) == earlier


def test_transcripts_of_earlier_versions_are_read_and_continued(tmp_path: Path) -> None:
    key = CellKey("baseline:oracle", "corpus", 0.5)
    path = transcript_path(tmp_path, key)
    shutil.copytree(EARLIER / "transcripts", path.parent)
    records = list(read_transcripts(path))
    stored = load_evaluation(EARLIER).find("baseline:oracle", 0.5)
    assert stored is not None
    results = sorted((episode_result(record) for record in records), key=lambda result: result.key)
    assert all(len(result.found) == len(result.noisy_searches) == result.draws for result in results)
    # earlier results do not hold what each search found
    assert tuple(replace(result, found=(), noisy_searches=()) for result in results) == stored.episodes
    items = [Item(record["extra"]["index"], DATA.questions[0]) for record in records]
    with Journal(path, key, records[0]["extra"]["run"], items) as journal:
        assert sorted(journal.finished) == sorted(result.key for result in stored.episodes)


def test_the_command_takes_kinds_and_abstentions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text(
        "def agent(observation, info):\n    return '<answer>pass</answer>' if info['turn'] else '<search>k</search>'\n"
    )
    world = ["--world.passages", "400", "--questions", "4", "--output", str(tmp_path / "out")]
    command = ["--agent", f"a={tmp_path / 'a.py'}:agent", "--noise", "0", "1", *world, "--abstentions", "pass"]
    kinds = ["--noise-kind", "empty", "distractor=0.5,counterfactual=0.5"]
    assert main([*command, *kinds]) == 0
    assert "2 kinds of noise" in capsys.readouterr().out
    evaluation = load_evaluation(tmp_path / "out")
    assert len(evaluation.cells) == 4
    assert all(cell.summary().abstained.mean == 1 for cell in evaluation.cells)
    assert "the pool of questions for noise (world, test)" in evaluation.settings["noise"]
    with pytest.raises(ConfigError, match="counterfactual"):
        main([*command, "--noise-kind", "counterfactul"])
    with pytest.raises(ConfigError, match="abstentions"):
        main([*command[:-1], "pass", "skip", *kinds])


def test_results_without_cells_have_no_kinds() -> None:
    assert Evaluation().noise_kinds == ()


def test_cells_with_the_same_episodes_are_twins(engine: SearchEngine) -> None:
    cells = evaluate(
        CallablePlayer(lambda o, i: "<answer>k</answer>", name="a"), DATA.questions, engine, RULES, (0.0, 0.5)
    ).cells
    clean, noisy = cells
    other = replace(noisy, noise_level=1.0, episodes=tuple(replace(e, em=0.25) for e in noisy.episodes))
    empty = replace(clean, noise_kind="empty")
    found = Evaluation((clean, noisy, other, empty, replace(clean, agent="b"), replace(clean, engine="c")))
    assert found.twins(clean.key) == (noisy, empty)
    assert found.twins(empty.key) == (clean, noisy)
    assert found.twins(other.key) == ()
    assert found.twins(other.key, searches=False) == (clean, noisy, empty)
    unmeasured = clean.key._replace(noise_kind="outage")
    assert found.twins(unmeasured) == (clean, noisy, empty)
    assert found.twins(unmeasured._replace(noise_level=0.75)) == ()
