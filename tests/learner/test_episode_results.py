"""What a transcript is reduced to: searches with an answer, noisy searches, recall of paragraphs, relation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zerosearch_agents.evaluation.episodes import episode_result, episode_row, paragraph_recall, read_row
from zerosearch_agents.evaluation.items import Item
from zerosearch_agents.evaluation.results import CellKey
from zerosearch_agents.evaluation.store import Journal
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import read_transcripts, transcript_record
from zerosearch_env.types import Document, Paragraph, Question, SearchResult

QUESTION = Question(
    "q1",
    "Which lake?",
    ("Geneva",),
    "lakes",
    "test",
    metadata={"hops": 2, "relations": ("country", "lake"), "supporting": ["Lake Geneva", "Swiss_Alps"]},
)
LAKE = Document('"Lake Geneva"', "The lake is Geneva.")
ALPS = Document("swiss alps", "Mountains.")
OTHER = Document("Paris", "A town.")


def play(
    *searches: tuple[Document, ...], question: Question = QUESTION, level: float = 0.0, unit: str = "search"
) -> Episode:
    """An episode with these results, one search per turn, and the answer at the end."""
    rules = replace(make_rules(max_turns=6, top_k=2, noise_unit=unit), answers_required=False)
    episode = Episode(question, rules, noise_level=level, seed=5)
    for documents in searches:
        episode.advance("<search>lakes</search>")
        episode.observe(SearchResult(documents))
    episode.advance("<answer>Geneva</answer>")
    return episode


def record(*searches: tuple[Document, ...], **options: Any) -> dict[str, Any]:
    return transcript_record(play(*searches, **options), index=3, hops=2)


def test_one_flag_per_search_says_whether_an_answer_was_in_its_documents() -> None:
    result = episode_result(record((OTHER,), (), (LAKE, ALPS)))
    assert result.found == (0, 0, 1)  # no documents hold no answer
    assert result.noisy_searches == (0, 0, 0)
    assert (result.draws, result.searches) == (3, 3)


def test_turns_without_a_search_have_no_flag_and_without_gold_answers_it_is_unknown() -> None:
    rules = make_rules(max_turns=6, top_k=2)
    episode = Episode(QUESTION, rules, seed=5)
    episode.advance("no action at all")
    episode.advance("<search>lakes</search>")
    episode.observe(SearchResult((LAKE,)))
    episode.advance("<answer>Geneva</answer>")
    assert episode_result(transcript_record(episode, index=0, hops=None)).found == (1,)
    open_question = Question("q", "Which lake?", ())
    values = transcript_record(play((LAKE,), question=open_question), index=0, hops=None)
    assert episode_result(values).found == (-1,)


def test_a_search_is_noisy_if_any_of_its_draws_is() -> None:
    assert episode_result(record((OTHER, OTHER), (OTHER,), level=1.0)).noisy_searches == (1, 1)
    values = record((LAKE, OTHER), (LAKE, OTHER), level=0.5, unit="document")
    expected = tuple(int(any(turn["noisy"])) for turn in values["turns"][:2])
    assert episode_result(values).noisy_searches == expected
    values["turns"][0]["noisy"], values["turns"][1]["noisy"] = [False, True], [False, False]
    assert episode_result(values).noisy_searches == (1, 0)


@pytest.mark.parametrize(
    ("searches", "recall"),
    [
        (((OTHER,),), 0.0),
        (((LAKE, OTHER),), 0.5),
        (((LAKE,), (OTHER,), (LAKE,)), 0.5),
        (((LAKE,), (ALPS,)), 1.0),
        ((), 0.0),
    ],
)
def test_recall_is_the_share_of_the_supporting_titles(
    searches: tuple[tuple[Document, ...], ...], recall: float
) -> None:
    values = record(*searches)
    assert values["question"]["supporting"] == ["Lake Geneva", "Swiss_Alps"]
    assert paragraph_recall(json.loads(json.dumps(values))) == recall
    assert episode_result(values).recall == recall


def test_noisy_documents_do_not_count_as_supporting_paragraphs() -> None:
    assert paragraph_recall(record((LAKE, ALPS), level=1.0)) == 0.0
    values = record((LAKE, ALPS), level=0.5, unit="document")
    values["turns"][0]["noisy"] = [True, False]
    values["turns"][0].pop("searches")
    assert paragraph_recall(values) == 0.5


def test_without_names_of_supporting_paragraphs_there_is_no_recall() -> None:
    values = record((LAKE,), question=Question("q1", "Which lake?", ("Geneva",)))
    assert "supporting" not in values["question"]
    assert episode_result(values).recall is None


@pytest.mark.parametrize(
    ("question", "titles"),
    [
        (Question("q", "?", ("a",)), ()),
        (Question("q", "?", ("a",), metadata={"supporting": "Lake"}), ()),
        (Question("q", "?", ("a",), metadata={"supporting": ["A", "B", "A", ""]}), ("A", "B")),
        (Question("q", "?", ("a",), metadata={"subject": "Ada", "chain": ("Bo", "Cy")}), ("Ada", "Bo")),
        (Question("q", "?", ("a",), metadata={"subject": "history"}), ()),
        (
            Question("q", "?", ("a",), paragraphs=(Paragraph("A", "a", True), Paragraph("B", "b", False))),
            ("A",),
        ),
    ],
)
def test_the_titles_of_supporting_paragraphs(question: Question, titles: tuple[str, ...]) -> None:
    assert question.supporting == titles


def test_rows_keep_every_entry_and_leave_out_what_is_not_known() -> None:
    result = episode_result(record((LAKE,), (ALPS,)))
    assert read_row(json.loads(json.dumps(episode_row(result)))) == result
    bare = episode_result(record(question=Question("q1", "Which lake?", ("Geneva",))))
    assert not {"found", "noisy_searches", "recall", "relation", "sample"} & episode_row(bare).keys()
    assert read_row(episode_row(bare)) == bare


@pytest.mark.parametrize(
    ("metadata", "relation"),
    [
        ({"relations": ("country", "lake")}, "country, lake"),
        ({"relation": "capital of"}, "capital of"),
        ({"relations": "lake"}, "lake"),
        ({}, ""),
    ],
)
def test_the_journal_stores_what_the_question_asks_for(tmp_path: Path, metadata: dict[str, Any], relation: str) -> None:
    question = Question("q1", "Which lake?", ("Geneva",), metadata=metadata)
    item, path = Item(0, question), tmp_path / "cell.jsonl"
    with Journal(path, CellKey("a", "corpus", 0.0), "run", [item]) as journal:
        assert journal.write(play((LAKE,), question=question), item).relation == relation
    (stored,) = read_transcripts(path)
    assert stored["extra"].get("relation", "") == relation
