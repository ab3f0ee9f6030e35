"""The page over several folders: its list of episodes, its files, its sections, and hostile results."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import select_questions
from zerosearch_agents.evaluation.join import Joined, read_source
from zerosearch_agents.evaluation.results import Cell, Evaluation, load_evaluation, save_evaluation
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_agents.report import cli, episodes, exports
from zerosearch_agents.report.analysis import Differences, p_text
from zerosearch_agents.report.kinds import outcome_shares
from zerosearch_agents.report.page import Notes, Report, read_joined, render_report, write_page
from zerosearch_agents.report.robustness import roles_of
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.noise_kinds import NoiseKinds, read_mixture
from zerosearch_env.game.rules import make_rules

EVIL = "</script><script>alert('x')</script><!--&\u202e"
LEVELS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two output folders: a random player, and an oracle and another random player with the same name."""
    root = tmp_path_factory.mktemp("page")
    world = load_dataset("world", "test", world=WorldConfig(passages=300, questions=40))
    kinds = tuple(map(read_mixture, ("distractor", "counterfactual")))
    engine = add_noise_kinds(make_engine("corpus", dataset=world), NoiseKinds(kinds), world.questions)
    items = select_questions(world.questions, 4, per_hop=True)
    for name, players in (
        ("first", [RandomPlayer(name="random")]),
        ("second", [OraclePlayer(name="oracle"), RandomPlayer(name="random", seed=1)]),
    ):
        store = Store(root / name, {"seed": 0})
        for player in players:
            evaluate(player, items, engine, make_rules(), LEVELS, noise_kinds=kinds, engine_name="corpus", store=store)
    return [root / "first", root / "second"]


def block_of(text: str) -> dict[str, Any]:
    return json.loads(text)  # type: ignore[no-any-return]


def embedded(page: str) -> list[dict[str, Any]]:
    """The blocks of transcripts on a page."""
    return [block_of(text) for text in re.findall(r'id="ze-block-\d+">(.*?)</script>', page)]


def listing(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'id="ze-listing">(.*?)</script>', page)
    return json.loads(text)  # type: ignore[no-any-return]


def stored(folder: Path) -> list[dict[str, Any]]:
    """The blocks of transcripts in the files next to a page."""
    calls = [
        re.fullmatch(r"zerosearchBlock\((\d+),(.*),\"(.*)\"\);\n", path.read_text("utf-8")) for path in folder.iterdir()
    ]
    return [block_of(call[2]) for call in calls if call is not None]


def test_the_page_lists_every_episode_and_holds_or_links_every_transcript(folders: list[Path], tmp_path: Path) -> None:
    report = read_joined(folders)
    page = write_page(report, tmp_path / "page.html", transcripts=10).read_text("utf-8")
    data = listing(page)
    assert data["agents"] == ["random (first)", "oracle", "random (second)"]
    # 8 questions without noise, and with two kinds at two levels: level 0 is listed once
    assert len(data["question"]) == 8 * (1 + 2 * 2)
    assert [len(column["outcomes"]) for column in data["columns"]] == [40] * 3
    assert {place[1] for place in data["places"] if place[2] > 0} == {"distractor", "counterfactual"}
    blocks, others = embedded(page), stored(tmp_path / "page_files")
    assert sum(len(block["episodes"]) for block in blocks) == 3 * 10
    assert sum(len(block["episodes"]) for block in blocks + others) == 3 * 40
    files = {question[6] for question in data["questions"]} - {None}
    assert files == {f"page_files/{path.name}" for path in (tmp_path / "page_files").iterdir()}
    # the questions on the page are of both groups
    assert {question[3] for question in data["questions"] if question[5] >= 0} == {"1-hop", "2-hop"}
    results = [result for cell in report.evaluation.cells if cell.agent == "oracle" for result in cell.episodes]
    assert data["columns"][1]["outcomes"].count("r") == sum(result.em == 1 for result in results[:24] + results[32:]), (
        "level 0 of the second kind repeats that of the first"
    )


def test_a_single_file_has_nothing_next_to_it(folders: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "alone.html"
    assert cli.main([str(folders[1]), "-o", str(page), "--transcripts", "5", "--single-file"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["alone.html"]
    text = page.read_text("utf-8")
    assert [len(block["episodes"]) for block in embedded(text)] == [2 * 5]
    assert {question[6] for question in listing(text)["questions"]} == {None}


def test_a_later_page_removes_the_files_of_an_earlier_one_and_nothing_else(folders: list[Path], tmp_path: Path) -> None:
    report = read_joined(folders)
    path = tmp_path / "page.html"
    write_page(report, path, transcripts=0)
    assert len(list((tmp_path / "page_files").iterdir())) == 8
    (tmp_path / "page_files" / "mine.js").write_text("alert(1)")
    page = write_page(report, path, transcripts=1000).read_text("utf-8")
    assert [entry.name for entry in (tmp_path / "page_files").iterdir()] == ["mine.js"]
    assert "mine.js" not in page
    assert "page_files" not in page
    (tmp_path / "page_files" / "mine.js").unlink()
    write_page(report, path, transcripts=1000)
    assert not (tmp_path / "page_files").exists()


def test_the_page_stays_small_whatever_the_limit(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "_LARGEST_BLOCKS", 60_000)
    monkeypatch.setattr("zerosearch_env.records.explorer.LARGEST_LIST", 1000)
    page = write_page(read_joined(folders), tmp_path / "page.html", transcripts=1000).read_text("utf-8")
    assert 0 < sum(map(len, re.findall(r'id="ze-block-\d+">(.*?)</script>', page))) <= 60_000
    assert len(embedded(page)) + len(list((tmp_path / "page_files").iterdir())) >= 8
    assert listing(page)["strings"] == []
    assert not listing(page)["predictions"]


def test_a_reader_finds_the_sections_that_the_page_has(folders: list[Path]) -> None:
    page = render_report(read_joined(folders))
    anchors = re.findall(r'<li><a href="#(.*?)">', page)
    assert anchors == ["robustness", "kinds", "outcomes", "differences", "behaviour", "episodes", "figures", "repeat"]
    assert [anchor for anchor in anchors if f'id="{anchor}"' not in page] == []
    for text in (
        "What sums up the curves",
        "Evaluations first, second",
        "random (first)",
        'class="band"',
        'class="bar"',
    ):
        assert text in page
    assert page.count('<div class="heat">') == 3


def test_figures_of_the_sections_are_those_of_the_results(folders: list[Path]) -> None:
    evaluation = read_joined(folders).evaluation
    cell = evaluation.find("oracle", 1.0, "corpus", "counterfactual")
    assert cell is not None
    shares = {share.name: share.share for share in outcome_shares(cell)}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares.get("right", 0.0) == cell.summary().em.mean
    assert shares.get("abstained", 0.0) == cell.summary().abstained.mean
    page = render_report(read_joined(folders))
    em = evaluation.find("oracle", 0.5, "corpus", "counterfactual").summary().em  # type: ignore[union-attr]
    assert f"counterfactual, p = 0.5: {100 * em.mean:.1f} % ({100 * em.low:.0f} to {100 * em.high:.0f}), n = 8" in page
    differences = Differences(evaluation, roles_of(evaluation))
    assert len(differences.pairs) == 3
    assert differences.levels == [0.0, 0.5, 1.0]
    assert differences.count == 3 * (1 + 2 * 2)


def test_p_values_are_written_with_two_digits() -> None:
    assert list(map(p_text, (0.00001, 0.0312, 0.5, 1.0))) == ["< 0.0001", "0.031", "0.50", "1.00"]


def hostile(folder: Path, text: str) -> None:
    """Write a text into every name, answer and document of an output folder."""
    evaluation = load_evaluation(folder)
    cells = [
        replace(cell, agent=text, engine=text, episodes=tuple(replace(r, prediction=text) for r in cell.episodes))
        for cell in evaluation.cells
    ]
    files = sorted((folder / "transcripts").glob("*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    shutil.rmtree(folder / "transcripts")
    settings = {**evaluation.settings, "command": text, "agents": {text: {}}, "engines": {text: {}}}
    save_evaluation(Evaluation(tuple(cells), settings), folder)
    by_cell: dict[Path, list[str]] = {}
    for record in records:
        record["extra"] |= {"agent": text, "engine": text}
        record["question"]["text"] = record["prompt"] = record["scores"]["prediction"] = text
        record["answers"] = [text]
        for turn in record["turns"]:
            turn["action_text"] = turn["observation"] = text
            turn["documents"] = [document | {"title": text, "text": text} for document in turn["documents"]]
        key = next(cell.key for cell in cells if cell.key.noise_level == record["noise_level"])
        path, _ = Joined(Evaluation(tuple(cells)), (read_source(folder),)).stored(
            key._replace(noise_kind=record["noise_kind"]).played
        ) or (folder / "none", key)
        by_cell.setdefault(path, []).append(json.dumps(record))
    for path, lines in by_cell.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def test_nothing_in_a_folder_becomes_markup_or_script(folders: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(folders[0], folder)
    hostile(folder, EVIL)
    (folder / "report_files").mkdir()
    (folder / "report_files" / "00000.js").write_text("alert('mine')")
    (folder / "evil.js").write_text("alert('mine')")
    (folder / "evil.html").write_text("<script>alert('mine')</script>")
    assert cli.main([str(folder), "--transcripts", "3", "--format", "md", "csv", "tex"]) == 0
    page = (folder / "report.html").read_text("utf-8")
    assert len(re.findall(r"<script>", page)) == 1
    assert "<!--" not in page
    assert "alert('mine')" not in page
    assert all(char.isprintable() or char == "\n" for char in page)
    files = list((folder / "report_files").iterdir())
    assert files
    for path in files:
        text = path.read_text("utf-8")
        assert re.fullmatch(r'zerosearchBlock\(\d+,\{.*\},"[0-9a-f]{16}"\);\n', text), path
        assert not set(text) & set("<>&")
    assert block_of(embedded(page)[0] and json.dumps(embedded(page)[0]))["episodes"]
    assert "<script" not in (folder / "report.md").read_text("utf-8")
    with (folder / "report.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["agent"] for row in csv.DictReader(stream)} == {EVIL}


@pytest.mark.parametrize("linked", ["report_files", "report_files/00000.js"])
def test_nothing_is_written_through_a_link(folders: list[Path], tmp_path: Path, linked: str) -> None:
    folder, outside = tmp_path / "evil", tmp_path / "outside"
    shutil.copytree(folders[0], folder)
    outside.mkdir()
    target = outside / "00000.js"
    target.write_text("mine")
    (folder / linked).parent.mkdir(exist_ok=True)
    (folder / linked).symlink_to(outside if linked == "report_files" else target)
    write_page(read_joined([folder]), folder / "report.html", transcripts=0)
    assert target.read_text() == "mine"
    assert [path.name for path in outside.iterdir()] == ["00000.js"]
    assert len(list((folder / "report_files").iterdir())) == 8
    assert not any(path.is_symlink() for path in (folder / "report_files").iterdir())


def test_a_page_without_transcripts_lists_the_episodes(folders: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(folders[0] / "results.json", folder)
    page = write_page(read_joined([folder]), folder / "report.html").read_text("utf-8")
    assert embedded(page) == []
    assert len(listing(page)["question"]) == 40
    assert listing(page)["questions"][0][0].startswith("world")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def test_half_written_transcripts_are_left_out(folders: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(folders[0], folder)
    cut(next((folder / "transcripts").glob("*noise-0.jsonl")))
    page = write_page(read_joined([folder]), folder / "report.html").read_text("utf-8")
    assert sum(len(block["episodes"]) for block in embedded(page)) == 39


def test_episodes_of_an_agent_that_never_searches_have_their_transcript_in_every_cell(
    folders: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "direct"
    shutil.copytree(folders[0], folder)
    evaluation = load_evaluation(folder)
    first = {cell.agent: cell for cell in reversed(evaluation.cells)}
    cells = [
        replace(cell, episodes=tuple(replace(r, draws=0, noisy=0, searches=0) for r in first[cell.agent].episodes))
        for cell in evaluation.cells
    ]
    save_evaluation(Evaluation(tuple(cells), evaluation.settings), folder)
    for path in (folder / "transcripts").glob("*.jsonl"):
        if not path.name.endswith("noise-0.jsonl"):
            path.unlink()
    page = write_page(read_joined([folder]), folder / "report.html").read_text("utf-8")
    assert sum(len(block["episodes"]) for block in embedded(page)) == 40


# the command and its formats


def test_one_page_compares_several_folders(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*map(str, folders), "--output", "new/both.html", "--format", "md", "csv", "tex"]) == 0
    assert capsys.readouterr().out.split()[1::2] == [f"new/both.{end}" for end in ("md", "csv", "tex", "html")]
    assert cli.main([*map(str, folders)]) == 0
    assert (tmp_path / "report.html").exists()


def test_csv_has_one_row_per_cell(folders: list[Path]) -> None:
    evaluation = read_joined(folders).evaluation
    rows = list(csv.DictReader(exports.to_csv(evaluation).splitlines()))
    assert tuple(rows[0]) == exports.COLUMNS
    assert len(rows) == len(evaluation.cells)
    for row, cell in zip(rows, evaluation.cells, strict=True):
        assert (row["agent"], row["noise_kind"], float(row["noise_level"])) == (
            cell.agent,
            cell.noise_kind,
            cell.noise_level,
        )
        assert float(row["em"]) == pytest.approx(cell.summary().em.mean)
        assert sum(float(row[name] or 0) for name in exports.COLUMNS if name.startswith("share_")) == pytest.approx(
            1, abs=1e-5
        )
        assert row["complete"] == "true"
        assert row["tokens_read"] == ""


def test_every_engine_relation_and_additional_score_is_shown(folders: list[Path]) -> None:
    evaluation = read_joined(folders[1:]).evaluation
    names = [("born <in>", "nq"), ("capital", "hotpot")]
    cells = [
        replace(
            cell,
            engine=engine,
            episodes=tuple(
                replace(
                    r, relation=names[r.index % 2][0], data_source=names[r.index % 2][1], extra={"overlap": r.f1 / 4}
                )
                for r in cell.episodes
            ),
        )
        for cell in evaluation.cells
        for engine in ("corpus", "dense")
    ]
    both = Evaluation(tuple(cells), evaluation.settings)
    page = render_report(Report(Notes("both"), both))
    for section in ("robustness", "kinds", "outcomes", "differences", "behaviour", "figures"):
        found = re.search(rf'<section id="{section}">.*?</section>', page, re.DOTALL)
        assert found is not None
        assert [found[0].count(f"Engine {name}<") for name in ("corpus", "dense")] == [1, 1], section
    one = Report(Notes("one"), evaluation)
    assert "Engine corpus<" not in render_report(one)
    titles = [chart.title for chart in one.charts()]
    assert {"counterfactual", "Exact match, distractor, 1-hop questions"} <= {*titles}
    both_titles = [chart.title for chart in Report(Notes("both"), both).charts()]
    assert both_titles == [f"{title}, engine {engine}" for engine in ("corpus", "dense") for title in titles]
    assert exports.to_latex(both).count("engine dense") == exports.to_latex(both).count("engine corpus") == 3
    assert "born &lt;in&gt;" in page
    assert "data source nq" in page
    assert "Score overlap" in page
    cell = both.find("oracle", 0.5, "dense", "counterfactual")
    assert cell is not None
    capital, overlap = cell.summary(relation="capital").em, cell.summary().extra["overlap"]
    lines = exports.to_markdown(both).partition("engine dense")[2].splitlines()
    for name, mean in (("capital", capital), ("hotpot", capital), ("overlap", overlap)):
        line = next(line for line in lines if line.startswith(f"| oracle | counterfactual | {name} |"))
        assert f"| {100 * mean.mean:.1f} ({100 * mean.low:.0f} to {100 * mean.high:.0f}) |" in line


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
def test_a_spreadsheet_takes_no_name_for_a_formula(text: str) -> None:
    (row,) = csv.DictReader(exports.to_csv(Evaluation((Cell(text, "e", 0.0, 0, ()),))).splitlines())
    assert row["agent"] == f"'{text}"
    assert row["em"] == ""


def test_markdown_and_latex_have_the_figures_of_every_agent_and_kind(folders: list[Path]) -> None:
    evaluation = read_joined(folders).evaluation
    cell = evaluation.find("oracle", 0.5, "corpus", "counterfactual")
    assert cell is not None
    em = cell.summary().em
    line = next(
        line for line in exports.to_markdown(evaluation).splitlines() if line.startswith("| oracle | counterfactual |")
    )
    assert f"| {100 * em.mean:.1f} ({100 * em.low:.0f} to {100 * em.high:.0f}) |" in line
    latex = exports.to_latex(evaluation)
    assert latex.count(r"\begin{table}") == latex.count(r"\end{tabular}") == 3
    assert rf"{100 * em.mean:.1f} {{\scriptsize [{100 * em.low:.0f}, {100 * em.high:.0f}]}}" in latex
    assert latex.count(r"\midrule") == 3 * 3


@pytest.mark.parametrize(
    ("write", "shown"),
    [(exports.to_markdown, r"a\_b\|&lt;i&gt;"), (exports.to_latex, r"a\_b\textbar{}\textless{}i\textgreater{}")],
)
def test_names_are_escaped(write: Callable[[Evaluation], str], shown: str) -> None:
    assert shown in write(Evaluation((Cell("a_b|<i>", "e%", 0.0, 0, ()),)))


def test_what_is_wrong_is_named(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="given twice"):
        cli.main([str(folders[0])] * 2)
    with pytest.raises(ConfigError, match="transcripts"):
        cli.main([str(folders[0]), "--transcripts", "-1"])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    with pytest.raises(DataError, match="no results of an evaluation"):
        cli.main([str(tmp_path), "--format", "csv"])
    other = tmp_path / "other"
    shutil.copytree(folders[1], other)
    evaluation = load_evaluation(other)
    save_evaluation(Evaluation(evaluation.cells, {**evaluation.settings, "seed": 1}), other)
    with pytest.raises(DataError, match="seed: 0 -> 1"):
        cli.main([str(folders[0]), str(other)])
