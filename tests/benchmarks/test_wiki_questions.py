"""Questions made by patterns, from a made-up sample in the row format of the copy of 2WikiMultihopQA on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zerosearch_benchmarks.learning import wiki_questions
from zerosearch_benchmarks.learning.real_llm.stages import Data
from zerosearch_benchmarks.learning.wiki_questions import (
    Fact,
    WikiQuestionsConfig,
    director_in,
    facts_of,
    find_facts,
    leading_name,
    make_files,
    part_of,
)
from zerosearch_env.datasets import load_corpus, load_dataset
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import Document

TEXTS = {
    "Red Harbour (1931 film)": "Red Harbour is a 1931 Danish film directed by Ida van der Holt. It was shot in Skagen.",
    "Ida van der Holt": "Ida van der Holt( born 3 May 1899) was a Dutch film director.",
    "The Quiet Mill": "The Quiet Mill is a drama film directed by Otto Brandis and Lena Falk.",
    "Otto Brandis": "Otto Brandis (August 20, 1901 – 7 March 1970) was a German-Danish actor.",
    "Kelp": "Kelp is a large brown seaweed.",
}


def hub_row(number: int, titles: list[str]) -> dict[str, Any]:
    """A row with these paragraphs, each as a list of sentences."""
    sentences = [[part if part.endswith(".") else f"{part}." for part in TEXTS[t].split(". ")] for t in titles]
    return {
        "id": f"row{number}",
        "question": "Which came out first?",
        "answer": "Kelp",
        "type": "comparison",
        "supporting_facts": {"title": titles[:1], "sent_id": [0]},
        "context": {"title": titles, "sentences": sentences},
    }


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    names = list(TEXTS)
    file = tmp_path / "hub.jsonl"
    lines = [hub_row(0, names[:3]), hub_row(1, names[1:])]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def made(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_the_files_that_the_benchmark_reads(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wiki_questions.main([str(tmp_path / "out"), "--dataset", str(rows)]) == 0
    assert "wikiq_two_hop_test.jsonl" in capsys.readouterr().out
    data = Data(tmp_path / "out")  # finds all that it needs
    passages = load_corpus(tmp_path / "out" / data.FILES[-1])
    assert {passage.title: passage.text for passage in passages} == TEXTS

    one = [row for part in ("train", "test") for row in made(tmp_path / "out", f"wikiq_one_hop_{part}.jsonl")]
    assert {(row["question"], *row["answers"], row["title"], row["relation"], row["hops"]) for row in one} == {
        ("Who directed the film Red Harbour?", "Ida van der Holt", "Red Harbour (1931 film)", "director", 1),
        ("In which year was Ida van der Holt born?", "1899", "Ida van der Holt", "birth year", 1),
        ("What is the nationality of Ida van der Holt?", "Dutch", "Ida van der Holt", "nationality", 1),
        ("In which year was Otto Brandis born?", "1901", "Otto Brandis", "birth year", 1),
    }
    part = part_of("Red Harbour (1931 film)")
    two = made(tmp_path / "out", f"wikiq_two_hop_{part}.jsonl")
    assert two[0] == {
        "id": f"wikiq-two_hop-{part}-0",
        "question": "In which year was the director of the film Red Harbour born?",
        "answers": ["1899"],
        "title": "Red Harbour (1931 film)",
        "relation": "birth year",
        "hops": 2,
        "chain": ["Ida van der Holt", "1899"],
    }
    assert (two[1]["question"], two[1]["chain"]) == (
        "What is the nationality of the director of the film Red Harbour?",
        ["Ida van der Holt", "Dutch"],
    )
    question = load_dataset(tmp_path / "out" / f"wikiq_two_hop_{part}.jsonl").questions[0]
    assert question.metadata is not None
    assert question.metadata["chain"] == ["Ida van der Holt", "1899"]


def test_a_corpus_file_gives_the_same_questions(rows: Path, tmp_path: Path) -> None:
    counts = make_files(WikiQuestionsConfig(tmp_path / "hub", dataset=str(rows)))
    corpus = tmp_path / "hub" / wiki_questions.PASSAGES_FILE
    assert make_files(WikiQuestionsConfig(tmp_path / "corpus", passages=corpus)) == counts
    for name in counts:
        assert made(tmp_path / "corpus", name) == made(tmp_path / "hub", name)


def test_a_dataset_without_paragraphs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text('{"question": "Q?", "answer": "A"}\n')
    with pytest.raises(ConfigError, match="have no paragraphs: give a corpus file with --passages"):
        make_files(WikiQuestionsConfig(tmp_path / "out", dataset=str(tmp_path / "plain.jsonl")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ana Ruiz and starring", "Ana Ruiz"),
        ("J. Lee Thompson. It", "J. Lee Thompson"),
        ("Per Berglund. Stellan Skarsgård won", "Per Berglund"),
        ("Declan O'Brien, from", "Declan O'Brien"),
        ("Jean-Luc de la Tour in 1960", "Jean-Luc de la Tour"),
        ("Éric Rohmer,", "Éric Rohmer"),
        ("the brothers", ""),
        ("de Palma", ""),
        ("Anna van 1960", "Anna"),
    ],
)
def test_the_name_at_the_start_of_a_text(text: str, name: str) -> None:
    assert leading_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "a film directed by Ana Ruiz and Pia Lund.",
        "a film directed by Ana Ruiz & Pia Lund.",
        "a film directed by Ana Ruiz, Pia Lund and Ole Falk.",
        "a film directed by Ana Ruiz, Jr. in 1950.",
        "a film directed by Madonna.",
        "a film by Ana Ruiz.",
    ],
)
def test_a_film_without_one_director(text: str) -> None:
    assert director_in(text) is None


def test_a_comma_before_small_letters_ends_a_name() -> None:
    assert director_in("a film directed by Ana Ruiz, starring Pia Lund and Ole Falk.") == "Ana Ruiz"


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("X (born 1950) is an American politician.", {"birth year": "1950", "nationality": "American"}),
        ("X( born February 1952 as Y) is a retired Thai singer.", {"birth year": "1952", "nationality": "Thai"}),
        ("X (12 May 1899 - 3 June 1950) was a Swiss-Italian poet.", {"birth year": "1899"}),
        ("X (born on 1 May 1950) is an English Australian actor.", {"birth year": "1950"}),
        ("X (born 1 May 1950) is a French and Swiss actor.", {"birth year": "1950"}),
        ("X (1967 – 1970) was an American band.", {}),
        ("X is a Danish singer.", {}),
    ],
)
def test_facts_about_persons(text: str, facts: dict[str, str]) -> None:
    assert {fact.relation: fact.answer for fact in facts_of(Document("X", text))} == facts


def test_what_has_two_meanings_or_gives_itself_away_is_left_out() -> None:
    twice = [Document(f"Love ({year} film)", f"Love is a film directed by Ana Ruiz{year}.") for year in ("A", "B")]
    assert find_facts(twice) == []
    assert find_facts([Document("Ana Ruiz: A Life", "A film directed by Ana Ruiz.")]) == []
    war = Document("First Border War", "The First Border War (1 May 1901 – 2 June 1902) was a Danish conflict.")
    assert find_facts([war]) == []
    assert find_facts([Document("Love", "A film directed by Ana Ruiz.")]) == [Fact("Love", "director", "Ana Ruiz")]


def test_one_title_in_five_is_for_the_test() -> None:
    parts = [part_of(f"title {number}") for number in range(2000)]
    assert 0.17 < parts.count("test") / len(parts) < 0.23
    assert part_of("title 1") == parts[1]
