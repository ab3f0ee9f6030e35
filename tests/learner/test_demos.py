"""Demonstrations: the scripted searcher, rejection sampling, and the command `zerosearch demos`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.demos import play
from zerosearch_agents.demos.keep import mean_scores, parse_condition, select
from zerosearch_agents.demos.needs import bare_title, content_words, facts_of, other_answers, quote
from zerosearch_agents.demos.phrases import title_text
from zerosearch_agents.demos.searcher import Habits, ScriptedSearcher
from zerosearch_env.cli import main
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.records.transcripts import read_transcripts, transcript_record
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult

PEOPLE = {
    "Ada Bell": ("1950", "a Scottish painter", "Tea in Leith"),
    "Boris Crane": ("1961", "a Danish sailor", "The Long Mast"),
    "Clara Dunn": ("1972", "an Irish poet", "Rain in Sligo"),
    "Dora Eames": ("1983", "a Welsh singer", "Hymns of Gower"),
    "Emil Frost": ("1994", "a German cook", "Salt and Rye"),
}
PASSAGES = [Document(name, f"{name}( born {year}) is {what}.") for name, (year, what, _) in PEOPLE.items()]
PASSAGES += [
    Document(f"{film} (film)", f"{film} is a film directed by {name}.") for name, (_, _, film) in PEOPLE.items()
]
ROWS = [
    {
        "id": f"q{i}",
        "question": f"In which year was {name} born?",
        "answers": [year],
        "title": name,
        "relation": "birth year",
    }
    for i, (name, (year, _, _)) in enumerate(PEOPLE.items())
]
GOOD = Habits(short_query=0, search_again=1, careless=0)
TWO_HOPS = Question(
    "two",
    "In which year was the director of the film Salt and Rye born?",
    ("1994",),
    metadata={"title": "Salt and Rye", "relation": "birth year", "chain": ["Emil Frost", "1994"]},
)


def question(row: dict[str, Any]) -> Question:
    return Question(row["id"], row["question"], tuple(row["answers"]), metadata=row)


QUESTIONS = [question(row) for row in ROWS]


def played(
    asked: Question = QUESTIONS[0], habits: Habits = GOOD, *, noise: float = 0.0, seed: int = 0, **options: Any
) -> Episode:
    rules = make_rules(**{"top_k": 1, "max_turns": 3} | options)
    episode = Episode(asked, rules, noise_level=noise, seed=seed)
    ScriptedSearcher(habits).play([episode], CorpusEngine(PASSAGES))
    assert episode.done
    return episode


def searches(episode: Episode) -> list[str]:
    return [turn.step.query for turn in episode.turns if turn.step.query]


# what a question needs


def test_one_fact() -> None:
    (fact,) = facts_of(QUESTIONS[0])
    assert (fact.subject, fact.phrase, fact.answers) == ("Ada Bell", "the birth year of Ada Bell", ("1950",))
    assert fact.keywords == ("Ada Bell birth year", "birth year of Ada Bell")
    assert fact.short_query == "Bell"
    assert fact.stated_by(PASSAGES) == (PASSAGES[0], "1950")
    assert fact.stated_by([Document("Adam Bello", "He was born in 1950.")]) is None


def test_two_facts_follow_the_chain() -> None:
    first, second = facts_of(TWO_HOPS)
    assert (first.phrase, first.answers) == ("the director of the film Salt and Rye", ("Emil Frost",))
    assert (second.question, second.subject) == ("In which year was Emil Frost born?", "Emil Frost")
    relations = {"subject": "Salt and Rye", "relations": ("author", "birth_place"), "chain": ("Emil Frost", "Bonn")}
    first, second = facts_of(Question("w", "Where was the author of Salt and Rye born?", ("Bonn",), metadata=relations))
    assert first.phrase == "the author of Salt and Rye"
    assert second.phrase == "the birth place of Emil Frost"


def test_a_chain_without_a_phrase_to_replace_gives_keywords() -> None:
    metadata = {"title": "Salt and Rye", "chain": ["Emil Frost", "Ada Bell", "1950"]}
    facts = facts_of(Question("k", "Who made Salt and Rye, when was his friend born?", ("1950",), metadata=metadata))
    assert [fact.subject for fact in facts] == ["Salt and Rye", "Emil Frost", "Ada Bell"]
    assert facts[2].question == "Ada Bell made friend born"


def test_without_metadata_the_question_is_one_fact_that_any_document_may_state() -> None:
    (fact,) = facts_of(Question("n", "who wrote the glass harbour", ("Ada Bell",)))
    assert (fact.subject, fact.phrase, fact.keywords) == ("", "", ("wrote glass harbour",))
    assert fact.stated_by([Document("", "Ada Bell wrote it")]) is not None


def test_a_title_that_the_question_does_not_name_is_not_its_subject() -> None:
    (fact,) = facts_of(Question("t", "who wrote it?", ("Ada Bell",), metadata={"title": "The Glass Harbour"}))
    assert fact.subject == ""
    assert bare_title('"Ada Bell (painter, born 1950)"') == "Ada Bell"


def test_a_quotation_is_the_clause_around_the_answer() -> None:
    assert quote(PASSAGES[0], "1950") == "born 1950"
    assert quote(PASSAGES[0], "Scottish") == "is a Scottish painter"
    assert quote(PASSAGES[5], "Ada Bell") == "film directed by Ada Bell"
    assert quote(Document("Ada Bell", "A painter."), "Ada Bell") == "Ada Bell"
    dated = Document("Ada Bell", "Ada Bell, a painter (born May 1, 1950, in Leith) lived alone.")
    assert quote(dated, "1950") == "born May 1, 1950"
    assert quote(dated, "Leith") == "in Leith"
    assert title_text("Carlos Stuart, 19th Duke of Alba (painter)") == "Carlos Stuart, 19th Duke of Alba"
    assert title_text("Hugh Willoughby, 15th Baron Willoughby of Parham") == "Hugh Willoughby, 15th Baron Willoughby"
    assert title_text("<b>{Emma}</b>") == "b Emma /b"


def test_other_answers_are_of_the_same_kind() -> None:
    document = Document(
        "Ada Bell", "Ada Bell, an English painter, was born in May 1950 in Leith, moved in 1971 to 12 Spa Road."
    )
    assert other_answers(("1950",), [document], "") == ["1971"]
    assert other_answers(("Scottish",), [document], "Who is Ada Bell?") == ["English"]
    assert other_answers(("Tom Hill",), [document], "Who?") == ["Ada Bell", "Spa Road"]
    assert content_words("Who is the author of it?") == ["author"]


# the searcher


def test_it_plans_searches_reads_and_answers() -> None:
    episode = played()
    first, second = (turn.action_text for turn in episode.turns)
    assert re.fullmatch(r"<think>[^<>]*Ada Bell[^<>]*</think><search> [^<>]+</search>", first)
    assert re.fullmatch(r"<think>[^<>]*Ada Bell[^<>]*born 1950\.</think><answer> 1950</answer>", second)
    assert episode.scores is not None
    assert episode.scores.em == 1


def test_two_hops() -> None:
    episode = played(TWO_HOPS)
    assert len(searches(episode)) == 2
    assert "Emil Frost" in searches(episode)[1]
    assert episode.scores is not None
    assert episode.scores.em == 1


def test_it_searches_again_until_the_last_turn_and_then_guesses() -> None:
    episode = played(noise=1.0)
    assert len(searches(episode)) == 3
    assert episode.scores is not None
    assert episode.scores.em == 0
    for turn in episode.turns[1:]:
        assert "Ada Bell" in turn.action_text or "Nothing was found" in turn.action_text


def test_habits() -> None:
    assert searches(played(habits=Habits(short_query=1)))[0] == "Bell"
    assert len(searches(played(habits=Habits(search_again=0), noise=1.0))) == 1
    assert {searches(played(habits=Habits(short_query=0, keywords=0), seed=s))[0] for s in range(9)} == {
        ROWS[0]["question"]
    }
    careless = played(TWO_HOPS, Habits(short_query=0, careless=1), top_k=5)
    assert careless.scores is not None
    assert careless.scores.em == 0
    with pytest.raises(ConfigError, match=r"habits\.careless must be a number of at least 0 and at most 1, got 2"):
        Habits(careless=2)


def test_rates_are_rates() -> None:
    first = Counter(searches(played(habits=Habits(short_query=0.25), seed=seed))[0] == "Bell" for seed in range(100))
    assert 15 <= first[True] <= 36


def test_the_same_seed_gives_the_same_episode() -> None:
    records = [transcript_record(played(habits=Habits(), noise=0.5, seed=4)) for _ in range(2)]
    assert records[0] == records[1]
    texts = {played(habits=Habits(), noise=0.5, seed=seed).turns[0].action_text for seed in range(20)}
    assert len(texts) > 5


def test_no_documents() -> None:
    episode = Episode(QUESTIONS[0], make_rules(max_turns=2))
    ScriptedSearcher(GOOD).play([episode], _Engine(()))
    assert "Nothing was found" in episode.turns[1].action_text
    assert episode.scores is not None
    assert episode.scores.prediction == "unknown"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_a_place_for_the_thought(protocol: str) -> None:
    episode = played(TWO_HOPS, protocol=protocol)
    assert [turn.step.action for turn in episode.turns] == ["search", "search", "answer"]
    assert episode.scores is not None
    assert episode.scores.em == 1
    assert all("Emil Frost" in turn.action_text for turn in episode.turns[1:])


PIECES = [*"aB1 .,()<>/{}|[]\\\n\"'", "\u4e2d", "<search>", "</think>", "</answer>", "{answer}"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@settings(max_examples=40)
@given(TEXTS, TEXTS, TEXTS, TEXTS, st.integers(0, 99))
def test_any_text_leaves_every_turn_valid(title: str, body: str, asked: str, answer: str, seed: int) -> None:
    """Whatever documents, questions and answers hold, each turn is the action that was meant."""
    answers = (answer,) if answer.strip() and contains_answer(f"{answer}", (answer,)) else ("Paris",)
    metadata = {"title": title, "relation": body[:20], "chain": [title or "x", answers[0]]}
    wanted = Question("h", f"Who is {asked} {title}?", answers, metadata=metadata)
    episode = Episode(wanted, make_rules(max_turns=2), seed=seed)
    ScriptedSearcher().play([episode], _Engine((Document(title, f"{body} {answers[0]} {title}"),)))
    for turn in episode.turns:
        assert turn.step.action in ("search", "answer"), turn
        assert turn.end is None
    assert episode.turns[-1].step.action == "answer"


class _Engine(CorpusEngine):
    """Answers every search with the same documents."""

    def __init__(self, documents: tuple[Document, ...], failing: bool = False) -> None:
        super().__init__(PASSAGES)
        self._documents, self._failing = documents, failing

    def search(self, requests: list[SearchRequest]) -> list[SearchResult]:  # type: ignore[override]
        return [SearchResult(self._documents) for _ in requests]


# what is kept


def record(em: float = 1.0, id: str = "q0", text: str = "a", **changes: Any) -> dict[str, Any]:
    scores = {"prediction": "x", "em": em, "f1": 0.5, "subem": em, "searches": 1, "judge": None}
    question = {"id": id, "text": "?", "dataset": "d", "split": "s"}
    turns = [{"action_text": text}]
    return {"question": question, "turns": turns, "scores": scores, "stop_reason": "answer", **changes}


def test_conditions() -> None:
    assert str(parse_condition(" f1 >= 0.50 ")) == "f1>=0.5"
    for text, holds in {"em=1": True, "em=0": False, "f1>=0.5": True, "searches<=0": False, "judge>=0": False}.items():
        assert parse_condition(text).holds(record()["scores"]) is holds
    with pytest.raises(ConfigError, match=r"unknown score in --keep 'emm'\. Did you mean 'em'"):
        parse_condition("emm=1").holds(record()["scores"])
    for text in ("em", "em>1", "em=", "=1", "em=one"):
        with pytest.raises(ConfigError, match="expected a condition such as em=1"):
            parse_condition(text)


def test_select() -> None:
    failed = record(stop_reason="engine_error")
    unfinished = record(stop_reason=None, scores=None)
    rows = [record(0.0), failed, unfinished, record(text="a"), record(text="a"), record(text="b"), record(id="q1")]
    right = [parse_condition("em=1")]
    assert list(select(rows, right)) == [rows[3], rows[5], rows[6]]
    assert list(select(rows, right, 1)) == [rows[3], rows[6]]
    assert list(select(rows, [parse_condition("em=1"), parse_condition("f1>=0.6")])) == []
    assert mean_scores(rows) == {"episodes": 5, "em": 0.8, "f1": 0.5, "subem": 0.8, "searches": 1}


# the command


@pytest.fixture
def files(tmp_path: Path) -> Path:
    def lines(rows: list[dict[str, Any]]) -> str:
        return "".join(json.dumps(row) + "\n" for row in rows)

    (tmp_path / "questions.jsonl").write_text(lines(ROWS))
    passages = [{"id": str(i), "contents": f'"{d.title}"\n{d.text}'} for i, d in enumerate(PASSAGES)]
    (tmp_path / "passages.jsonl").write_text(lines(passages))
    return tmp_path


def demos(files: Path, *options: str, output: str = "demos.jsonl") -> int:
    data = ["--dataset", f"{files}/questions.jsonl", "--engine", f"corpus:{files}/passages.jsonl", "--top-k", "1"]
    return main(["demos", *data, "--output", f"{files}/{output}", *options])


def lines(files: Path, name: str = "demos.jsonl") -> list[dict[str, Any]]:
    return list(read_transcripts(files / name))


def test_noise_levels_are_dealt_out(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demos(files, "--episodes", "15", "--noise", "0", "0.5", "1") == 0
    rows = lines(files)
    assert [row["noise_level"] for row in rows] == [0, 0.5, 1, 0, 0.5, 0.5, 1, 0, 0.5, 1, 1, 0, 0.5, 1, 0]
    asked = [(row["question"]["id"], row["extra"].get("sample", 0)) for row in rows]
    assert len(set(asked)) == 15
    assert {row["extra"]["agent"] for row in rows} == {"demos"}
    output = capsys.readouterr().out
    assert "noise 0.5: 5 episodes, EM" in output
    assert "15 demonstrations of 5 questions" in output


def test_more_episodes_add_to_fewer(files: Path) -> None:
    assert demos(files, "--episodes", "4") == 0
    four = (files / "demos.jsonl").read_bytes()
    assert demos(files, "--episodes", "7") == 0
    assert (files / "demos.jsonl").read_bytes().startswith(four)
    assert demos(files, "--episodes", "7", output="again.jsonl") == 0
    assert (files / "demos.jsonl").read_bytes() == (files / "again.jsonl").read_bytes()
    assert demos(files, "--episodes", "7", "--seed", "1", output="other.jsonl") == 0
    assert (files / "demos.jsonl").read_bytes() != (files / "other.jsonl").read_bytes()


def test_an_interrupted_run_continues(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert demos(files, "--episodes", "9", output="whole.jsonl") == 0
    calls = 0

    class Stopping(play.Journal):
        def write(self, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise KeyboardInterrupt
            return super().write(*arguments)

    monkeypatch.setattr(play, "Journal", Stopping)
    assert demos(files, "--episodes", "9") == 130
    assert 4 <= len(lines(files)) < 9
    with (files / "demos.jsonl").open("ab") as stream:
        stream.write(b'{"schema_version": 1, "ques')  # cut off by a kill
    monkeypatch.undo()
    assert demos(files, "--episodes", "9") == 0
    assert (files / "demos.jsonl").read_bytes() == (files / "whole.jsonl").read_bytes()


def test_another_run_is_not_overwritten(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demos(files, "--episodes", "4") == 0
    for options in (["--noise", "0"], ["--habits.careless", "0"], ["--episodes", "3"], ["--keep", "em=1"]):
        before = (files / "demos.jsonl").read_bytes()
        assert demos(files, "--episodes", "4", *options) == 2
        assert "choose another --output, or pass --fresh" in capsys.readouterr().err
        assert (files / "demos.jsonl").read_bytes() == before
    assert demos(files, "--episodes", "3", "--fresh") == 0
    assert len(lines(files)) == 3


def test_rejection_sampling(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--agent", "baseline:random", "--episodes", "40", "--samples", "8", "--noise", "0")
    assert demos(files, *options, "--keep", "searches<=1", "--per-question", "2") == 0
    played, kept = lines(files, "demos-played.jsonl"), lines(files)
    assert len(played) == 40
    assert 0 < len(kept) <= 10
    assert all(row["scores"]["searches"] <= 1 for row in kept)
    assert max(Counter(row["question"]["id"] for row in kept).values()) == 2
    assert "kept of 40 episodes with EM" in capsys.readouterr().out
    # Nothing is played again for another choice, and a file of episodes can be read like an evaluation.
    assert demos(files, *options, "--keep", "searches>=2") == 0
    assert all(row["scores"]["searches"] >= 2 for row in lines(files))
    source = f"{files}/demos-played.jsonl"
    assert demos(files, "--from", source, "--keep", "searches>=2", output="from.jsonl") == 0
    assert (files / "from.jsonl").read_bytes() == (files / "demos.jsonl").read_bytes()


def test_an_evaluation_is_a_source(files: Path) -> None:
    data = ["--dataset", f"{files}/questions.jsonl", "--engine", f"corpus:{files}/passages.jsonl", "--split", "train"]
    assert main(["eval", "--agent", "baseline:oracle", *data, "--noise", "0", "1", "--output", f"{files}/eval"]) == 0
    assert main(["demos", "--from", f"{files}/eval", "--keep", "em=1", "--output", f"{files}/kept.jsonl"]) == 0
    assert {row["noise_level"] for row in lines(files, "kept.jsonl")} == {0.0}
    assert len(lines(files, "kept.jsonl")) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--agent", "baseline:random", "--keep", "f1>=2"], "none of 6 episodes meets f1>=2. Their means: EM "),
        (["--keep", "foo=1"], "unknown score in --keep 'foo'"),
        (["--keep", "em"], "expected a condition such as em=1"),
        (["--noise"], "no noise level given"),
        (["--noise", "2"], "noise"),
        (["--episodes", "0"], "episodes"),
        (["--samples", "0"], "samples"),
        (["--per-question", "0"], "per_question"),
        (["--from", "/nowhere"], "/nowhere"),
        (["--from", "/nowhere", "--agent", "tiny"], "--from plays nothing"),
    ],
)
def test_bad_input(files: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert demos(files, "--episodes", "6", *options) == 2
    assert message in capsys.readouterr().err
    assert not (files / "demos.jsonl").exists()


def test_the_input_is_not_the_output(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demos(files, "--episodes", "3") == 0
    assert demos(files, "--from", f"{files}/demos.jsonl", "--fresh") == 2
    assert "is both input and output" in capsys.readouterr().err
    assert len(lines(files)) == 3


def test_yes_and_no_are_left_out(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*ROWS, {"id": "yes", "question": "Is Ada Bell a painter?", "answers": ["Yes"]}]
    (files / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert demos(files, "--episodes", "12") == 0
    assert "1 of 6 questions are left out" in capsys.readouterr().out
    assert "yes" not in {row["question"]["id"] for row in lines(files)}
    (files / "questions.jsonl").write_text(json.dumps(rows[-1]) + "\n")
    assert demos(files, "--fresh") == 2
    assert "every gold answer is yes or no" in capsys.readouterr().err


def test_failed_searches_are_played_again(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search, failing = CorpusEngine.search, True

    def sometimes(self: CorpusEngine, requests: list[SearchRequest]) -> list[SearchResult]:
        lost = SearchResult((), failure="the server is away")
        results = search(self, requests)
        return [
            lost if failing and "Clara Dunn" in request.question else result
            for request, result in zip(requests, results, strict=True)
        ]

    monkeypatch.setattr(CorpusEngine, "search", sometimes)
    monkeypatch.setattr(play, "try_engine", lambda *_: None)
    assert demos(files, "--noise", "0", "--episodes", "5") == 3
    assert "1 of 5 episodes failed, the same command plays them again: the server is away" in capsys.readouterr().out
    assert len(lines(files)) == 4
    failing = False
    assert demos(files, "--noise", "0", "--episodes", "5") == 0
    assert len(lines(files)) == 5


def test_without_one_finished_episode_the_cause_is_named(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: CorpusEngine, requests: list[SearchRequest]) -> list[SearchResult]:
        raise EngineError("the server is away", 3)

    monkeypatch.setattr(CorpusEngine, "search", never)
    monkeypatch.setattr(play, "try_engine", lambda *_: None)
    assert demos(files, "--episodes", "5") == 2
    assert "none of 5 episodes was finished; the first cause: the server is away" in capsys.readouterr().err
