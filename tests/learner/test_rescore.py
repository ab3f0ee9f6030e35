"""Scores computed from transcripts are those that playing computes, and bad folders are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results import made_cell
from tiny import tiny_dataset

from zerosearch_agents.commands.rescore import main
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import Evaluation, load_evaluation, save_evaluation
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.evaluation.stored.recorded import recorded_episode
from zerosearch_agents.evaluation.stored.rescore import rescore
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_env.engines import CorpusEngine, SearchEngine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise_kinds import read_mixture
from zerosearch_env.game.reward_registry import REWARDS, get_scores, pay
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.records.transcripts import transcript_record
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult

DATA = tiny_dataset()
NAMES = tuple(name for name, _ in get_scores(list(REWARDS)))
"""Every registered reward and score that is not part of each result."""
QUESTION = Question("q", "Which lake?", ("Lake Geneva", "Geneva"), "lakes", "test")


def searching(observation: str, info: Any) -> str:
    """Searches twice with thoughts in every form, then answers with what it read; writes on after its actions."""
    if info["turn"] < 2:
        return f"<think>look it up</think> <search>{info['question']}</search> and then <answer>no</answer>"
    letter = info["question"][-1]
    read = [name for name in "kb" if f"letter {letter} is {name}" in info["transcript"]]
    return f"<think>assistant</think>\n<answer>the {read[0] if read else 'unknown'}</answer> done"


def engine() -> SearchEngine:
    return add_noise_kinds(CorpusEngine(DATA.passages), ["outage"], DATA.questions)


def played(folder: Path, scores: tuple[str, ...] = (), **rules: Any) -> Evaluation:
    made = make_rules(**{"max_turns": 2, "top_k": 2, "scores": scores, **rules})
    store = Store(folder, {"seed": 0}, {"agent": {}})
    player = CallablePlayer(searching, name="agent")
    return evaluate(
        player, DATA.questions, engine(), made, (0.0, 0.5), noise_kinds=["distractor", "outage"], store=store
    )


def test_scores_from_transcripts_are_those_of_playing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = played(tmp_path / "scored", NAMES)
    played(tmp_path / "plain")
    before = (tmp_path / "plain" / "results.json").read_bytes()
    assert main([str(tmp_path / "plain"), "--score", *NAMES, "--output", str(tmp_path / "new")]) == 0
    assert f"32 episodes in 4 cells have the scores {', '.join(NAMES)}" in capsys.readouterr().out
    assert (tmp_path / "plain" / "results.json").read_bytes() == before
    new = load_evaluation(tmp_path / "new")
    assert [cell.episodes for cell in new.cells] == [cell.episodes for cell in expected.cells]
    assert new.additional_scores == NAMES
    assert len({value for cell in new.cells for r in cell.episodes for value in r.extra.values()}) > 4
    assert new.settings["rescored"]["research_f1"] == {"score": "research_f1"}


def test_results_are_replaced_and_the_evaluation_continues(tmp_path: Path) -> None:
    played(tmp_path)
    assert main([str(tmp_path), "--score", "research_f1"]) == 0
    first = load_evaluation(tmp_path)
    assert first.additional_scores == ("research_f1",)
    assert main([str(tmp_path), "--score", "zerosearch_em"]) == 0
    assert load_evaluation(tmp_path).additional_scores == ("research_f1", "zerosearch_em")
    assert set(load_evaluation(tmp_path).settings["rescored"]) == {"research_f1", "zerosearch_em"}
    assert played(tmp_path).cells[0].episodes == load_evaluation(tmp_path).cells[0].episodes


def test_your_own_function_and_scores_without_a_value(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "from zerosearch_env import UnjudgedError\n"
        "def cost(episode):\n"
        "    if episode.question.id == 'q0':\n"
        "        raise UnjudgedError('nothing to judge')\n"
        "    return episode.searches + len(episode.turns) / 10 + (episode.question.text in episode.text)\n"
        "cost.waits = True\n"
    )
    played(tmp_path / "run")
    run = load_evaluation(tmp_path / "run")
    found = rescore(run, tmp_path / "run", [f"{code}:cost"])
    values = [result.extra["cost"] for cell in found.cells for result in cell.episodes]
    assert set(values) == {2 + 0.3 + 1, None}
    assert found.cells[0].summary().without_value == {"cost": 1}
    assert found.settings["rescored"]["cost"].keys() == {"score", "the code in mine.py"}
    code.write_text("def fails(episode):\n    raise ValueError('no')\n")
    with pytest.raises(ConfigError, match="raised ValueError"):
        rescore(run, tmp_path / "run", [f"{code}:fails"])


def test_an_agent_that_never_searches_has_its_scores_in_every_cell(tmp_path: Path) -> None:
    store = Store(tmp_path, {"seed": 0}, {"direct": {}})
    player = CallablePlayer(lambda observation, info: "<answer>k</answer>", name="direct")
    player.searches = False
    evaluate(player, DATA.questions, engine(), make_rules(), (0.0, 1.0), store=store)
    assert len(list((tmp_path / "transcripts").iterdir())) == 1
    found = rescore(load_evaluation(tmp_path), tmp_path, ["research_f1"])
    assert [cell.summary().extra["research_f1"].n for cell in found.cells] == [8, 8]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (["research_f2"], "research_f1"),
        (["em"], "no score to add: every result has 'em' already"),
        ([], "no score to add"),
        (["research_f1", "research_f1"], "the score 'research_f1' is there already"),
    ],
)
def test_scores_that_cannot_be_added(tmp_path: Path, scores: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rescore(Evaluation(), tmp_path, scores)


def test_a_score_that_is_there_is_refused(tmp_path: Path) -> None:
    played(tmp_path, ("research_f1",))
    with pytest.raises(ConfigError, match="'research_f1' is there already"):
        main([str(tmp_path), "--score", "research_f1"])


def test_transcripts_that_are_missing_or_of_other_results(tmp_path: Path) -> None:
    evaluation = played(tmp_path)
    file = sorted((tmp_path / "transcripts").glob("*noise-0.5.jsonl"))[0]
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:6]))
    with pytest.raises(DataError, match=r"noise 0\.5: 2 of 8 finished episodes have no transcript"):
        rescore(evaluation, tmp_path, ["research_f1"])
    record = json.loads(lines[0])
    record["scores"]["em"] = 1.0 - record["scores"]["em"]
    file.write_text("".join([json.dumps(record) + "\n", *lines[1:]]))
    with pytest.raises(DataError, match=r"noise 0\.5: 1 of 8 .*the first is question 0"):
        rescore(evaluation, tmp_path, ["research_f1"])
    file.write_text('{"schema_version": 1}\n')
    with pytest.raises(DataError, match="not a transcript of an evaluation"):
        rescore(evaluation, tmp_path, ["research_f1"])
    save_evaluation(Evaluation((made_cell((1.0,)),)), tmp_path / "bare")
    with pytest.raises(DataError, match="there are no transcripts in"):
        main([str(tmp_path / "bare"), "--score", "research_f1"])


def test_a_protocol_of_your_own_is_asked_for(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text(
        "import dataclasses\nfrom zerosearch_env.protocols import get_protocol\n"
        "mine = dataclasses.replace(get_protocol('zerosearch'), name='mine')\n"
    )
    evaluation = played(tmp_path / "run", protocol=f"{code}:mine")
    with pytest.raises(ConfigError, match="of protocol 'mine': pass --protocol"):
        rescore(evaluation, tmp_path / "run", ["research_f1"])
    found = rescore(evaluation, tmp_path / "run", ["research_f1"], protocol=f"{code}:mine")
    assert found.additional_scores == ("research_f1",)


# the episode of a transcript


def answered(request: SearchRequest | tuple[SearchRequest, ...]) -> Any:
    """A result for every request, the second one a failed tool."""
    requests = request if isinstance(request, tuple) else (request,)
    results = [
        SearchResult((Document("Lake Geneva", "A <answer>lake</answer>.", "a", 1.5), Document("", "B")))
        if number == 0
        else SearchResult((), message="timeout")
        for number, _ in enumerate(requests)
    ]
    return tuple(results) if isinstance(request, tuple) else results[0]


def play(rules: Rules, *, level: float = 0.0, kind: str = "distractor") -> Episode:
    """Search, write nonsense, search, answer after a made-up document; in the protocol's own form."""
    episode = Episode(QUESTION, rules, noise_level=level, noise_kinds=read_mixture(kind), seed=3)
    protocol = rules.protocol
    texts = [
        f"a thought {protocol.render_search('lakes')} made up",
        "nothing at all",
        protocol.render_search("more lakes"),
        f"{protocol.render_answer('the Geneva')} and more",
    ]
    for text in texts:
        if episode.done:
            break
        outcome = episode.advance(text)
        if not hasattr(outcome, "observation"):
            episode.observe(answered(outcome))
    return episode


@pytest.mark.parametrize("notice", ["own", "none", "This is your last turn, so answer."])
@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_the_episode_of_a_transcript_is_the_one_that_was_played(protocol: str, notice: str) -> None:
    rules = make_rules(protocol=protocol, max_turns=3, top_k=2, last_turn_notice=notice)
    for level, kind in ((0.0, "distractor"), (1.0, "distractor"), (1.0, "outage=0.5,counterfactual=0.5")):
        episode = play(rules, level=level, kind=kind)
        record = json.loads(json.dumps(transcript_record(episode)))
        again = recorded_episode(record, make_rules(protocol=protocol))
        assert again.text == episode.text
        assert (again.question, again.prompt, again.seed) == (QUESTION, episode.prompt, 3)
        assert (again.searches, again.noise_level, again.stop_reason) == (episode.searches, level, episode.stop_reason)
        assert again.scores == replace(episode.turns[-1].step.scores, reward=0.0)
        assert len(again.turns) == len(episode.turns)
        for mine, own in zip(again.turns, episode.turns, strict=True):
            assert (mine.action_text, mine.context_text) == (own.action_text, own.context_text)
            assert replace(mine.step, scores=None) == replace(own.step, scores=None)
            assert mine.step.answer_in_documents == own.step.answer_in_documents
        if again.rules.protocol.render_call is None and episode.searches > 1:
            assert again.rules.last_turn_notice == rules.last_turn_notice or notice == "none"
        for name in NAMES:
            values = [_pay(name, each) for each in (again, episode)]
            assert values[0] == values[1], name


def _pay(name: str, episode: Any) -> float:
    value = pay(REWARDS[name], episode)
    assert math.isfinite(value)
    return value


def test_records_that_are_no_finished_episode_of_the_protocol() -> None:
    rules = make_rules(max_turns=3, top_k=2)
    record = transcript_record(play(rules))
    with pytest.raises(DataError, match="of protocol 'zerosearch', and the rules are those of 'search-r1'"):
        recorded_episode(record, make_rules(protocol="search-r1"))
    unfinished = Episode(QUESTION, rules, seed=3)
    with pytest.raises(DataError, match="not the transcript of a finished episode"):
        recorded_episode(transcript_record(unfinished), rules)
