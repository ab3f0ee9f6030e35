from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_env.commands import view
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.html import clean, html_style, render_html
from zerosearch_env.records.terminal import render_ansi, render_rich
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult

NASTY = "\x1b]0;title\x07\x1b[2J\r\x9b31m<script>alert('&')</script>\u202e\ud800"
COLOURS = re.compile(r"\x1b\[(?:0|1|2|31|32|33|36)m")


def make_record(*, text: str = "words", answer: str | None = "Geneva", failure: str | None = None) -> dict[str, Any]:
    rules = make_rules(noise_unit="document", top_k=2)
    episode = Episode(Question("q1", f"Which lake? {text}", ("Geneva", "Léman")), rules, noise_level=0.5, seed=1)
    outcome = episode.advance(f"<think>{text}</think><search>lakes {text[:40]}</search>")
    assert isinstance(outcome, SearchRequest)
    documents = (Document(f"First {text}", text), Document("", "the second"))
    episode.observe(SearchResult(documents if failure is None else (), failure=failure))
    if failure is None:
        episode.advance(f"nothing {text}")
        if answer is not None:
            episode.advance(f"<answer>{answer}</answer>")
    return transcript_record(episode)


class Reader(HTMLParser):
    """Collects tags and text, and fails on tags that are closed out of order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("style", "script"):
            self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.stack == []
    return reader


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_cleaned_texts_have_no_effect_on_a_terminal(text: str) -> None:
    shown = clean(text)
    assert len(shown) == len(text)
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    shown.encode()
    assert clean(shown) == shown


def test_cleaning_keeps_what_people_read() -> None:
    assert clean("né ✓\n\tweiß 東京") == "né ✓\n\tweiß 東京"
    assert clean("a\x1bb\x7fc\u202ed\xa0e") == "a␛b␡c\ufffdd e"


def test_ansi_text_shows_everything_and_only_colours() -> None:
    text = render_ansi(make_record(text=NASTY))
    plain = COLOURS.sub("", text)
    assert "\x1b" not in plain
    assert all(char.isprintable() or char == "\n" for char in plain)
    for part in (
        "Question: Which lake?",
        "turn 1 · search",
        "[2]",
        "the second",
        "answer: Geneva",
        "gold: Geneva | Léman",
    ):
        assert part in plain
    assert "EM 1 · F1 1.00 · subEM 1 · reward 1 · 1 search\n" in plain
    assert max(map(len, plain.splitlines())) <= 100


def test_noisy_documents_are_marked_in_every_form() -> None:
    record = make_record()
    record["turns"][0]["searches"][0]["noisy"] = [True, False]
    assert "[1] First words (noisy)" in render_ansi(record)
    assert "[2] (noisy)" not in render_ansi(record)
    page = read(render_html(record))
    documents = [attributes["class"] for tag, attributes in page.tags if tag == "article"]
    assert documents == ["zs-document zs-is-noisy", "zs-document"]
    assert page.words.count("noisy") == 1


def test_rich_rendering_takes_every_text_literally() -> None:
    from rich.console import Console

    record = make_record(text="[bold]not markup[/] :smile:")
    file = io.StringIO()
    Console(file=file, width=60).print(render_rich(record))
    assert "[bold]not markup[/]" in file.getvalue()
    assert ":smile:" in file.getvalue()
    record["turns"][0]["noisy"] = True
    file = io.StringIO()
    Console(file=file, width=60).print(render_rich(record, show_noise=False))
    assert "noisy" not in file.getvalue()
    assert "noise level" not in file.getvalue()


def test_html_is_a_closed_fragment_with_everything_escaped() -> None:
    page = render_html(make_record(text=NASTY))
    reader = read(page)
    assert [tag for tag, _ in reader.tags if tag in ("script", "link", "img", "iframe")] == []
    words = "".join(reader.words)
    for part in ("<script>alert('&')</script>", "correct", "Geneva", "Gold: Geneva · Léman", "the second", "Prompt"):
        assert part in words
    page.encode()
    assert "http" not in page
    assert all(char.isprintable() or char in "\n\t" for char in page)
    assert "prefers-color-scheme: dark" in page


def test_the_style_can_be_left_out() -> None:
    record = make_record()
    assert render_html(record) == html_style() + render_html(record, style=False)


def test_ends_without_an_answer() -> None:
    for render in (render_ansi, render_html):
        running = render(make_record(answer=None))
        assert "Léman" not in running
        assert "engine_error" not in running
        failed = render(make_record(failure="HTTP 503 <b>"))
        assert "HTTP 503" in failed
        assert "no documents" in failed
        assert "no answer" in failed
    assert "&lt;b&gt;" in render_html(make_record(failure="HTTP 503 <b>"))


def test_a_search_in_the_last_turn_is_shown_as_not_run() -> None:
    episode = Episode(Question("q", "Which?", ("a",)), make_rules(max_turns=1), seed=0)
    episode.advance("nothing")
    episode.advance("<search>too late</search>")
    record = transcript_record(episode)
    assert "only an answer was allowed" in render_ansi(record)
    assert "only an answer was allowed" in render_html(record)


def write(path: Path, count: int = 3) -> None:
    with TranscriptWriter(path) as writer:
        for number in range(count):
            record = make_record(text=f"number {number}", answer="Geneva" if number % 2 else None)
            record["extra"] = {"step": number}
            writer.write(record)


def listing(page: str) -> dict[str, Any]:
    """The list of episodes on a page."""
    (text,) = re.findall(r'<script type="application/json" id="ze-listing">(.*?)</script>', page)
    return json.loads(text)


def test_view_writes_one_page_that_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "t<1>.jsonl", tmp_path / "new" / "page.html"
    write(source)
    assert view.main([str(source), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote 3 transcripts to {output}\n"
    page = output.read_text("utf-8")
    reader = read(page)
    assert "http:" not in page
    assert "https:" not in page
    assert "src=" not in page
    assert page.count("<style>") == 2
    assert "3 transcripts · EM 1.000" in "".join(reader.words)
    data = listing(page)
    assert [place[3] for place in data["places"]] == ["step 0", "step 1", "step 2"]
    assert data["columns"][0]["outcomes"] == "oro"
    assert [len(data["question"]), data["columns"][0]["searches"]] == [3, [1, 1, 1]]


def test_a_page_allows_only_its_own_script() -> None:
    page = view.render_page([make_record()], title="page")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (
        tag["content"] for name, tag in read(page).tags if name == "meta" and tag.get("http-equiv") is not None
    )
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")


def test_nothing_in_a_transcript_becomes_markup_of_the_page() -> None:
    record = make_record(text=NASTY)
    record["extra"] = {"agent": NASTY, "step": NASTY, "engine": NASTY}
    record["question"]["id"] = record["question"]["dataset"] = NASTY
    page = view.render_page([record, make_record(text="</script><script>alert(1)</script><!--")], title=NASTY)
    reader = read(page)
    assert [tag for tag, _ in reader.tags].count("script") == 1 + 1 + 2
    assert page.count("<!--") == 0
    assert all(char.isprintable() or char in "\n\t" for char in page)
    assert listing(page)["agents"] == [NASTY, ""]
    (block,) = re.findall(r'id="ze-block-0">(.*?)</script>', page)
    assert "<" not in block
    assert ["First " + NASTY, NASTY] in json.loads(block)["documents"]


def test_agents_are_in_the_row_of_their_question_and_samples_have_rows_of_their_own() -> None:
    records = [make_record(answer=answer) for answer in ("Geneva", "Bern", "Geneva", None)]
    for record, agent in zip(records, ("a", "b", "b", "b"), strict=True):
        record["extra"] = {"agent": agent, "engine": "corpus", "hops": 1, "index": 3, "run": "hash"}
    data = listing(view.render_page(records, title="page"))
    assert data["agents"] == ["a", "b"]
    assert [place[3] for place in data["places"]] == ["", "(2)", "(3)"]
    assert [column["outcomes"] for column in data["columns"]] == ["r..", "wro"]
    assert [data["strings"][number] for number in data["columns"][1]["predictions"][:2]] == ["Bern", "Geneva"]
    assert data["questions"][0][3] == "1-hop"


def test_view_keeps_the_last_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "t.jsonl", tmp_path / "page.html"
    write(source, 5)
    assert view.main([str(source), "--output", str(output), "--limit", "2"]) == 0
    assert "wrote 2 transcripts (the last ones of 5, see --limit)" in capsys.readouterr().out
    page = output.read_text("utf-8")
    assert "number 4" in page
    assert "number 2" not in page


def test_view_of_a_folder_shows_the_last_ones_of_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "transcripts").mkdir()
    write(tmp_path / "transcripts" / "a.jsonl", 3)
    write(tmp_path / "transcripts" / "b.jsonl", 4)
    write(tmp_path / "metrics.jsonl", 1)
    output = tmp_path / "page.html"
    assert view.main([str(tmp_path), "--output", str(output), "--limit", "4"]) == 0
    assert "wrote 4 transcripts (the last ones of 7, see --limit)" in capsys.readouterr().out
    page = output.read_text("utf-8")
    assert f"<h1>{tmp_path.name}</h1>" in page
    assert sorted(place[3] for place in listing(page)["places"]) == ["step 1", "step 2", "step 2 (2)", "step 3"]
    with pytest.raises(ConfigError, match="limit"):
        view.write_page(tmp_path, output, limit=1)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"other holds no transcripts; expected one of transcripts\.jsonl"):
        view.write_page(tmp_path / "other", output)


def test_view_names_what_is_wrong(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="contains no"):
        view.write_page(empty, tmp_path / "page.html")
    with pytest.raises(DataError, match="No such file"):
        view.write_page(tmp_path / "missing", tmp_path / "page.html")
    with pytest.raises(ConfigError, match="limit"):
        view.write_page(empty, tmp_path / "page.html", limit=0)
