"""The list of episodes in headless Chromium: rendered, filtered, linked, loaded from files, and no other script.

Skipped without Chromium. The page is opened as a file, as a reader would; `--dump-dom` prints what its script made.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import select_questions
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_agents.report.page import read_joined, write_page
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import make_engine
from zerosearch_env.game.rules import make_rules

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--virtual-time-budget=5000", "--dump-dom"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with two agents, four questions and two levels; one question on it, the others in files."""
    folder = tmp_path_factory.mktemp("browser")
    world = load_dataset("world", "test", world=WorldConfig(passages=300, questions=20))
    items = select_questions(world.questions, 4)
    store = Store(folder, {"seed": 0})
    for player in (OraclePlayer(name="oracle"), RandomPlayer(name=f"random {EVIL}")):
        evaluate(
            player, items, make_engine("corpus", dataset=world), make_rules(), (0.0, 0.5), engine_name="e", store=store
        )
    for path in (folder / "transcripts").iterdir():
        text = path.read_text("utf-8").replace('"title": "', '"title": "' + EVIL.replace('"', '\\"'))
        path.write_text(text, encoding="utf-8")
    return write_page(read_joined([folder]), folder / "report.html", transcripts=2)


def shown(page: Path, profile: Path, **state: str) -> str:
    """What the page shows with a state in its address."""
    assert CHROMIUM is not None
    address = f"{page.resolve().as_uri()}{'#episodes&' + urlencode(state) if state else ''}"
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", address]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return re.sub(r"<script>.*?</script>", "", done.stdout, flags=re.DOTALL)


def questions(page: Path) -> tuple[str, str]:
    """The id of the question whose transcripts are on the page, and of one whose transcripts are in a file."""
    (text,) = re.findall(r'id="ze-listing">(.*?)</script>', page.read_text("utf-8"))
    found = json.loads(text)["questions"]
    assert [entry[5] >= 0 for entry in found].count(True) == 1
    return next(e[0] for e in found if e[5] >= 0), next(e[0] for e in found if e[5] < 0)


def rows(dom: str) -> list[str]:
    return re.findall(r'<li class="ze-row[^"]*" data-row="\d+">', dom)


def count(dom: str) -> str:
    found = re.search(r'<p class="ze-count" role="status">(.*?)</p>', dom)
    assert found is not None
    return found[1]


def test_the_page_is_rendered_filtered_and_linked(page: Path, tmp_path: Path) -> None:
    dom = shown(page, tmp_path / "profile")
    assert count(dom) == "8 rows, 16 episodes"
    assert len(rows(dom)) == 8
    filtered = shown(page, tmp_path / "profile", level="0.5")
    assert count(filtered) == "4 of 8 rows, 8 episodes"
    assert len(rows(filtered)) == 4
    for name, files in zip(questions(page), (0, 1), strict=True):
        dom = shown(page, tmp_path / "profile", level="0.5", open=f"{name}|e|distractor|0.5|")
        assert dom.count('class="zs-transcript ze-column"') == 2
        assert dom.count('class="zs-turn"') >= 2
        assert dom.count('src="report_files/') == files
        assert dom.count("ze-row ze-expanded") == 1
        assert "could not be loaded" not in dom
        assert dom.count('<mark class="ze-gold">') > 1, "more than the one in the explanation"


def test_nothing_that_a_document_or_a_name_says_is_run(page: Path, tmp_path: Path) -> None:
    dom = shown(page, tmp_path / "profile", open=f"{questions(page)[0]}|e|distractor|0|")
    assert "<title>Evaluations" in dom
    assert "<img" not in dom
    assert html.escape(EVIL, quote=False) in dom


def test_a_single_file_lists_questions_with_transcripts_first(page: Path, tmp_path: Path) -> None:
    alone = write_page(read_joined([page.parent]), tmp_path / "alone.html", transcripts=2, files=False)
    stored, other = questions(alone)
    dom = shown(alone, tmp_path / "profile", open=f"{other}|e|distractor|0|")
    assert dom.count("The transcript of this episode is not on this page.") == 2
    assert '<option value="stored">transcripts first</option><option value="noise">' in dom
    (text,) = re.findall(r'id="ze-listing">(.*?)</script>', alone.read_text("utf-8"))
    data = json.loads(text)
    first = [int(row) for row in re.findall(r'<li class="ze-row[^"]*" data-row="(\d+)">', dom)][:2]
    assert [data["questions"][data["question"][row]][0] for row in first] == [stored] * 2


def test_a_missing_file_is_named(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "alone.html"
    shutil.copy(page, copy)
    dom = shown(copy, tmp_path / "profile", open=f"{questions(page)[1]}|e|distractor|0.5|")
    assert dom.count("which could not be loaded") == 2
