from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import select_questions
from zerosearch_agents.evaluation.results import Cell, Evaluation, load_evaluation
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_agents.report import cli
from zerosearch_agents.report.charts import (
    STYLES,
    Axis,
    Chart,
    Point,
    Series,
    fitted_axis,
    share_axis,
    smoothed,
)
from zerosearch_agents.report.figures import save, save_each
from zerosearch_agents.report.page import Notes, Report, load_page_templates, read_report, render_report, write_report
from zerosearch_agents.report.robustness import ROLES, roles_of
from zerosearch_agents.report.training import choose_stages, training_curves
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import FailingEngine, make_engine
from zerosearch_env.errors import ConfigError, DataError, MissingExtraError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import transcript_record
from zerosearch_env.types import Question

ENGINES = ("corpus", "larger")
VOID = {"meta", "br", "input", "line", "rect", "circle", "path", "img", "link", "hr"}


class Checker(HTMLParser):
    """Fails on tags that do not match, and collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data") and v]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert all(target.startswith("#") for target in checker.loads)
    scripts = re.findall(r"<script(?: [^>]*)?>", page)
    assert all(tag == "<script>" or tag.startswith('<script type="application/json" id="ze-') for tag in scripts)
    assert scripts.count("<script>") == ("Content-Security-Policy" in page)
    assert "url(" not in page
    assert "@import" not in page
    return checker


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory in which `before` acts at random and `after` is the oracle."""
    folder = tmp_path_factory.mktemp("report") / "run<1>"
    folder.mkdir()
    world = load_dataset("world", "test", world=WorldConfig(passages=400, questions=60))
    engine, rules = make_engine("corpus", dataset=world), make_rules()
    items = select_questions(world.questions, 12, per_hop=True)
    store = Store(folder / "evaluation", {"seed": 0})
    for player in (RandomPlayer(name="before"), OraclePlayer(name="after"), RandomPlayer(name="rag", seed=1)):
        evaluate(player, items, engine, rules, (0.0, 0.5, 1.0), engine_name=ENGINES[0], store=store)
    evaluate(OraclePlayer(name="after"), items, engine, rules, (0.0,), engine_name=ENGINES[1], store=store)
    steps = [
        {"step": i, "reward": i / 10, "em": i / 10, "searches": 1 + i / 10, "noise_level": i / 20} for i in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "config.toml").write_text('policy = "<base>"\n')
    return folder


def test_the_page_is_self_contained_and_complete(run: Path) -> None:
    notes = Notes("A <title> & more", "Lead.", [("training", 3.0)], {"command": "zerosearch <x>"})
    path = write_report(run, notes)
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    checker = check(page)
    assert load_evaluation(run / "evaluation").engines == ENGINES
    assert checker.tags.count("figure") == len(ENGINES) * 2 * 2 + 4
    assert checker.tags.count("section") >= 4
    for text in (
        "A &lt;title&gt; &amp; more",
        "zerosearch &lt;x&gt;",
        "policy = &#34;&lt;base&gt;&#34;",
        "after training",
        "before training",
        "Exact match, 2-hop questions",
        "larger",
        "<h2>Transcripts</h2>",
        "95 % CI",
        "(prefers-color-scheme: dark)",
    ):
        assert text in page
    assert "<title>" in page
    assert write_report(run).read_text(encoding="utf-8") == page, "the notes of a run are kept for later pages"


def test_the_figures_of_the_table_are_those_of_the_results(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    figures = page[page.index('<section id="figures">') :]
    rows = re.findall(r"<tr class=\"strong\"><td>after training</td>(.*?)</tr>", figures)
    stored = load_evaluation(run / "evaluation")
    parts = [stored.on_engine(engine) for engine in ENGINES]
    assert len(rows) == sum(2 + len(part.outcomes) + len(part.relations) for part in parts)
    evaluation = json.loads((run / "evaluation" / "results.json").read_text())
    cell = next(c for c in evaluation["cells"] if c["agent"] == "after" and c["noise_level"] == 0.5)
    em = cell["summary"]["1-hop"]["em"]
    cell_text = f"<td>{100 * em['mean']:.1f}<small>{100 * em['low']:.0f}–{100 * em['high']:.0f}</small></td>"
    assert cell_text in rows[0]


def test_the_transcripts_show_what_was_learnt(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count('class="zs-transcript"') % 2 == 0
    assert page.count('class="zs-transcript"') >= 4
    assert "searches again" in page
    assert "zs-is-noisy" in page


def test_a_run_with_nothing_but_metrics_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "rew')
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert check(page).tags.count("figure") == 1
    assert f"Run {tmp_path.name}" in page


def test_curves_of_outcomes_are_drawn_only_if_there_were_any() -> None:
    plain = {"step": 1, "em": 0.5, "misled": 0.0, "abstained": 0.0, "hallucinated": 0.5}
    assert [chart.title for chart in training_curves([plain])] == ["Exact match in training"]
    titles = {chart.title for chart in training_curves([plain, plain | {"step": 2, "abstained": 0.25}])}
    assert titles >= {"Abstained", "Wrong and not abstained", "Misled by noisy documents"}


def _record(step: int, **metrics: float) -> str:
    return json.dumps({"step": step, **metrics}) + "\n"


def _held_out(first: float, second: float) -> dict[str, float]:
    named = {"held_out_em_0": first, "held_out_em_0.5": second, "held_out_em": (first + second) / 2}
    return named | {"held_out_searches_0": 1.0, "held_out_searches_0.5": 1.5, "held_out_questions": 20.0}


def test_evaluations_during_training_are_shown(tmp_path: Path) -> None:
    lines = [_record(0, **_held_out(0.1, 0.05)), _record(1, reward=0.5, updates=0.0, seconds=3.0)]
    lines += [
        _record(2, reward=0.5, updates=2.0, **_held_out(0.6, 0.4)),
        _record(3, updates=1.0, **_held_out(0.6, 0.2)),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    page = write_report(tmp_path).read_text("utf-8")
    check(page)
    assert "3 training steps with 3 updates in 0:03." in page
    assert "There was no update in 1 of 3 steps." in page
    assert "The policy after step 2 had the highest exact match, 50 %" in " ".join(page.split())
    assert "Exact match on held-out questions" in page
    assert re.search(
        r"held-out questions, noise 0.5</div>\s*<div class=\"figure\"><span class=\"from\">5 →</span> 20 %", page
    )
    charts = [chart for chart in read_report(tmp_path).charts() if "held-out" in chart.title]
    em, searches = charts
    assert [[point.y for point in line.points] for line in em.series] == [[0.1, 0.6, 0.6], [0.05, 0.4, 0.2]]
    assert [line.name for line in searches.series] == ["no noise", "noise 0.5"]
    assert all(point.low <= point.y <= point.high for line in em.series for point in line.points)


def _episode(question: str, step: int, em: float, *, held_out: bool = True) -> dict[str, object]:
    world = Episode(Question(question, f"where is {question}?", ("Rome",)), make_rules())
    world.advance(f"<answer>{'Rome' if em else 'Oslo'}</answer>")
    return transcript_record(world, step=step, **({"held_out": True} if held_out else {}))


def test_transcripts_early_and_late(tmp_path: Path) -> None:
    file = tmp_path / "transcripts.jsonl"
    assert choose_stages(file) == []
    sampled = [_episode("a", 1, 0.0, held_out=False), _episode("b", 10, 1.0, held_out=False)]
    held_out = [_episode("a", 0, 0.0), _episode("b", 0, 0.0), _episode("a", 10, 1.0), _episode("b", 10, 0.0)]
    for records in (sampled, sampled + held_out):
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        pairs = choose_stages(file)
        if records is sampled:
            assert [(pair.headings, pair.before["question"]["id"]) for pair in pairs] == [
                (("In step 1", "In step 10"), "a")
            ]
    assert [pair.before["question"]["id"] for pair in pairs] == ["a", "b"]
    assert {pair.headings for pair in pairs} == {("Before training", "After step 10")}
    assert [pair.reason.partition(" (")[0] for pair in pairs] == [
        "A held-out question that only training made answerable",
        "A held-out question that it gets wrong",
    ]
    page = write_report(tmp_path).read_text("utf-8")
    check(page)
    assert "After step 10" in page


def test_an_evaluation_without_hops_has_no_line_of_a_perfect_reader(tmp_path: Path, run: Path) -> None:
    assert "perfect reading" in write_report(run).read_text("utf-8")
    store = Store(tmp_path, {"seed": 0})
    questions = [Question("q", "Who?", ("Ada",), "mine", "test")]
    evaluate(RandomPlayer(), questions, FailingEngine("closed"), make_rules(), (0.0, 0.5), engine_name="e", store=store)
    page = write_report(tmp_path).read_text("utf-8")
    assert "perfect reading" not in page
    assert f"<h1>Evaluation {tmp_path.name}</h1>" in page


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    assert check(write_report(tmp_path).read_text(encoding="utf-8")).tags.count("figure") == 0


def test_empty_cells_and_unknown_agents_are_drawn() -> None:
    cells = tuple(Cell(f"agent {i}", "e", level, 3, ()) for i in range(6) for level in (0.0, 0.5))
    page = render_report(Report(Notes("t"), Evaluation(cells)))
    check(page)
    assert "nan" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL).lower()
    assert page.count("0 of 3 episodes finished. Failed episodes are in no figure.") == 12
    roles = roles_of(Evaluation(cells))
    assert [role.key for role in roles] == ["other1", "other2", "other3", "other4", "other1", "other2"]
    assert [role.dashed for role in roles] == [False] * 4 + [True] * 2


def test_baselines_are_known_with_and_without_their_prefix() -> None:
    cells = (Cell("baseline:rag", "e", 0.0, 0, ()), Cell("after", "e", 0.0, 0, ()))
    assert [role.key for role in roles_of(Evaluation(cells))] == ["rag", "after"]
    assert {role.key for role in ROLES.values()} <= set(STYLES)


def test_every_colour_has_a_light_and_a_dark_value() -> None:
    page = render_report(Report(Notes("t")))
    for key in STYLES:
        assert page.count(f"--s-{key}:") == 2, key


# charts


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def draw(series: list[Series], x: Axis | None = None, title: str = "t") -> ElementTree.Element:
    macros = load_page_templates().get_template("chart.html").module
    return parse(macros.svg(Chart(title, "%", series, x or share_axis("x"), share_axis("%"))))


def paths(root: ElementTree.Element, kind: str) -> list[str]:
    return [path.attrib["d"] for path in root.iter("path") if path.attrib["class"] == kind]


def test_a_chart_is_well_formed_and_places_its_points() -> None:
    series = Series("a & b", "after", (Point(0.0, 0.0, 0.0, 0.1), Point(1.0, 1.0, 0.9, 1.0, ", n = 5")))
    root = draw([series], fitted_axis("x", [0, 1]), "<t>")
    assert root.attrib["aria-label"] == "<t>"
    assert [dot.partition("m")[0] for dot in paths(root, "dot")] == ["M44.0 254.0", "M426.0 14.0"]
    titles = [e.text for e in root.iter("title")]
    assert titles == ["a & b, x 0: 0 (0 to 10)", "a & b, x 1: 100 (90 to 100), n = 5"]


def test_neighbouring_series_are_drawn_side_by_side() -> None:
    series = [Series(k, k, (Point(0.5, 0.5, 0.4, 0.6),)) for k in ("after", "before", "rag")]
    starts = [float(path[1:].split()[0]) for path in paths(draw(series), "whisker")]
    assert starts[0] < starts[1] < starts[2]
    assert starts[1] == pytest.approx(235.0)


@pytest.mark.parametrize("key", sorted(STYLES))
def test_every_marker_and_swatch_is_well_formed(key: str) -> None:
    parse(load_page_templates().get_template("chart.html").module.swatch(key, True))
    draw([Series("s", key, (Point(0, 0),))])


def test_points_that_are_not_numbers_are_left_out() -> None:
    series = Series("s", "after", (Point(0, math.nan), Point(0.5, 0.5, math.nan, math.nan)))
    root = draw([series])
    assert len(paths(root, "dot")) == 1
    assert paths(root, "whisker") == []
    assert list(draw([Series("s", "after", ())]).iter("path")) == []


@pytest.mark.slow
def test_figures_for_papers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(run), "--figures", str(tmp_path / "new"), "--format", "svg"]) == 0
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    names = [f"exact-match-{hops}-hop-questions-engine-{engine}.svg" for hops in (1, 2) for engine in ENGINES]
    assert files[:4] == names
    assert len(files) == len(ENGINES) * 2 * 2 + 4
    assert capsys.readouterr().out.count("wrote ") == len(files) + 1
    root = ElementTree.parse(tmp_path / "new" / files[0]).getroot()
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Exact match, 1-hop questions, engine corpus", "% of questions", "after training", "100"} <= set(words)


@pytest.mark.slow
def test_charts_with_the_same_name_get_a_number(tmp_path: Path) -> None:
    charts = [
        Chart(f"t, engine {engine}", "%", [Series("s", "after", [Point(0, 0.5)])], share_axis("x"), share_axis("%"))
        for engine in ("A", "a", "b")
    ]
    assert [path.name for path in save_each(charts, tmp_path, "svg")] == [
        "t-engine-a.svg",
        "t-engine-a-2.svg",
        "t-engine-b.svg",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "head"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_two_figures_of_the_same_chart_are_equal(tmp_path: Path, suffix: str, head: bytes) -> None:
    chart = Chart("t", "%", [Series("s", "after", [Point(0, 0.5, 0.4, 0.6)])], share_axis("x"), share_axis("%"))
    for name in ("a", "b"):
        save([chart], tmp_path / f"{name}.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    assert data.startswith(head)
    assert data == (tmp_path / f"b.{suffix}").read_bytes()


def test_what_is_wrong_with_a_report_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        cli.main([str(tmp_path)])
    with pytest.raises(DataError, match="no such folder"):
        cli.main([str(tmp_path / "missing")])
    with pytest.raises(ConfigError, match=r"ends with \.pdf, \.svg, \.png"):
        save([], tmp_path / "figure.jpg")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"zerosearch-env\[plots\]"):
        cli.main([str(tmp_path), "--figures", str(tmp_path)])


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 60], (0, 20, 40, 60)),
        ([0.0, 2.3], (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)),
        ([0.0], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([-0.4, 0.4], (-0.4, -0.2, 0.0, 0.2, 0.4)),
        ([], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([math.nan, 5], (0, 1, 2, 3, 4, 5)),
    ],
)
def test_axes_have_round_ticks_that_span_the_values(values: list[float], ticks: tuple[float, ...]) -> None:
    axis = fitted_axis("x", values)
    assert axis.ticks == pytest.approx(ticks)
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])


def test_smoothing_keeps_lines_straight_and_ends_in_place() -> None:
    assert smoothed([1.0, 2.0, 3.0, 4.0, 5.0], 3) == pytest.approx([1, 2, 3, 4, 5])
    assert smoothed([0.0, 3.0, 0.0], 3) == pytest.approx([0, 1, 0])
    assert smoothed([0.0, math.nan, 2.0], 3)[1] == 1.0
    assert smoothed([], 5) == []
