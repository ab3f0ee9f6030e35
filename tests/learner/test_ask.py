"""One question of one's own, without gold answers: `zerosearch ask`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from zerosearch_agents.commands.ask import ShownEpisode
from zerosearch_agents.players.base import AgentOptions
from zerosearch_env.cli import main
from zerosearch_env.commands.view import render_page
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.reward_registry import get_scores
from zerosearch_env.game.rules import agent_rules, make_rules
from zerosearch_env.records.terminal import render_ansi
from zerosearch_env.records.transcripts import read_transcripts, transcript_record
from zerosearch_env.types import Document, Question, SearchResult, Step

OPEN = replace(make_rules(scores=["zerosearch_em"]), answers_required=False)
ASKED = Question("asked", "Who wrote Emma?", ())
FOUND = SearchResult((Document("Emma", "Emma is a novel by Jane Austen."),))


def played() -> Episode:
    episode = Episode(ASKED, OPEN)
    request = episode.advance("<search>Emma</search>")
    assert (request.answers, request.noisy) == ((), False)  # type: ignore[union-attr]
    assert episode.observe(FOUND).answer_in_documents is None
    episode.advance("<answer>Jane Austen</answer>")
    return episode


# episodes without gold answers


def test_an_episode_without_gold_answers_has_a_prediction_and_no_scores() -> None:
    scores = played().scores
    assert scores is not None
    assert (scores.prediction, scores.searches, scores.answers, scores.extra) == ("Jane Austen", 1, (), ())
    figures = (scores.em, scores.f1, scores.subem, scores.em_unicode, scores.f1_unicode)
    assert all(map(math.isnan, figures))
    record = transcript_record(played())
    assert record["scores"] == {
        **dict.fromkeys(("em", "f1", "subem", "em_unicode", "f1_unicode", "reward")),
        **dict.fromkeys(("misled", "abstained", "hallucinated", "counterfactual")),
        "prediction": "Jane Austen",
        "searches": 1,
    }
    json.dumps(record, allow_nan=False)
    assert "answer: Jane Austen" in render_ansi(record)
    assert not {"gold", "EM"} & set(render_ansi(record).replace(":", " ").split())
    page = render_page([record, transcript_record(Episode(ASKED, OPEN))], title="asked")
    assert "Jane Austen" in page
    assert page.count('"outcomes":"oo"') == 1, "neither right nor wrong"


def test_only_rules_that_say_so_allow_it_and_never_with_noise() -> None:
    with pytest.raises(DataError, match="question 'asked' has no answers"):
        Episode(ASKED, make_rules())
    with pytest.raises(DataError, match="no gold answers, so noisy documents cannot be kept free of the answer"):
        Episode(ASKED, OPEN, noise_level=0.1)
    assert not agent_rules(OPEN, protocol="search-r1").answers_required
    known = Episode(replace(ASKED, answers=("Jane Austen",)), replace(OPEN, scores=get_scores(["zerosearch_em"])))
    step = known.advance("<answer>Jane Austen</answer>")
    assert isinstance(step, Step)
    assert step.scores.em == step.reward == 1.0  # type: ignore[union-attr]


def test_a_shown_episode_is_shown_after_every_turn() -> None:
    shown: list[int] = []
    episode = ShownEpisode(ASKED, OPEN, noise_level=0.0, seed=0, show=lambda e: shown.append(len(e.turns)))
    episode.advance("<search>Emma</search>")
    assert shown == []
    episode.observe(FOUND)
    episode.advance("hm")
    episode.advance_action("answer", "Jane Austen")
    assert shown == [1, 2, 3]


# the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(
        "def agent(observation, info):\n"
        "    return '<search>Emma</search>' if info['turn'] == 0 else '<answer>Jane Austen</answer>'\n\n\n"
        "def loop(question, search):\n    return 'Austen' if 'Austen' in search('Emma') else 'unknown'\n\n\n"
        "class Twice:\n    failed = []\n\n    def __call__(self, observation, info):\n"
        "        if info['turn'] == 1 and not self.failed:\n            self.failed.append(1)\n"
        "            raise ValueError('once')\n        return agent(observation, info)\n\n\n"
        "def fails(observation, info):\n    raise ValueError('oh no')\n"
    )
    rows = [{"id": str(i), "title": t, "text": f"{t} is a novel by {a}."} for i, (t, a) in enumerate(BOOKS)]
    (tmp_path / "books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "questions.jsonl").write_text('{"question": "Who?", "answers": ["x"]}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


BOOKS = [("Emma", "Jane Austen"), ("Middlemarch", "George Eliot"), ("Dracula", "Bram Stoker"), ("Ulysses", "Joyce")]
ASK = ["ask", "Who wrote Emma?", "--dataset", "questions.jsonl", "--engine", "corpus:books.jsonl", "--top-k", "2"]


def test_the_turns_are_printed_and_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--agent", "mine.py:agent", "--transcripts", "asked.jsonl"]) == 0
    out = capsys.readouterr().out
    places = [
        out.index(text) for text in ("Question: Who wrote Emma?", "? Emma", "a novel by Jane", "answer: Jane Aus")
    ]
    assert places == sorted(places)
    assert out.count("── turn 1") == out.count("── end") == 1
    assert "noise" not in out
    (record,) = read_transcripts("asked.jsonl")
    assert record["scores"]["prediction"] == "Jane Austen"
    assert record["extra"] == {"agent": "mine.py:agent", "engine": "corpus:books.jsonl"}


def test_an_agent_that_owns_its_loop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--tool-agent", "mine.py:loop"]) == 0
    assert "answer: Austen" in capsys.readouterr().out


def test_an_episode_that_begins_again_is_shown_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerosearch_agents.players.options.AgentOptions", partial(AgentOptions, backoff_s=0.0))
    assert main([*ASK, "--agent", "mine.py:Twice", "--on-agent-error", "retry"]) == 0
    out = capsys.readouterr().out
    assert (out.count("Question:"), out.count("── turn 1"), out.count("── turn 2"), out.count("── end")) == (1, 2, 1, 1)


def test_with_gold_answers_it_is_scored_and_may_be_noisy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = ["--answers", "Jane Austen", "--noise", "1"]
    assert main([*ASK, "--agent", "mine.py:agent", *gold]) == 0
    out = capsys.readouterr().out
    assert "(noisy)" in out
    assert "a novel by Jane" not in out
    assert "EM 1" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["ask", "--agent", "mine.py:agent"], 2, "no question given"),
        (["ask", "Who?"], 2, "no agent given: pass one with --agent or --tool-agent"),
        ([*ASK, "--agent", "tiny", "--tool-agent", "mine.py:loop"], 2, "two agents given"),
        ([*ASK, "--agent", "mine.py:agent", "--noise", "0.5"], 2, "noise 0.5 needs gold answers"),
        ([*ASK, "--agent", "mine.py:agent", "--engine", "corpus"], 2, "'questions' has no passages to search"),
        ([*ASK, "--agent", "mine.py:agent", "--prompt-template", "dataset"], 2, "takes the prompt from the row"),
        ([*ASK, "--agent", "baseline:oracle"], 2, "baseline:oracle sees the gold answers: pass --answers"),
        ([*ASK, "--agent", "mine.py:fails"], 3, "turn 1: ValueError: oh no"),
        ([*ASK, "--agent", "mine.py:fails", "--on-agent-error", "skip"], 3, "agent failed: agent 'mine.py:fails'"),
    ],
)
def test_what_cannot_be_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).split())


def test_the_engine_may_fail(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self, requests):
        return [SearchResult((), failure="down") for _ in requests]

    monkeypatch.setattr(CorpusEngine, "search", fail)
    assert main([*ASK, "--agent", "mine.py:agent"]) == 3
    assert "engine failed: down" in capsys.readouterr().out
