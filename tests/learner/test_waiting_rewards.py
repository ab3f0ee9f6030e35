"""Rewards that wait for a server are computed at the same time, wherever many episodes are played."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from rich.console import Console
from test_rollout import DOCUMENTS, QUESTION, RULES, ScriptedSampler, play

from zerosearch_agents.commands.evaluate import main
from zerosearch_agents.evaluation.display import print_evaluation
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import Evaluation, load_evaluation
from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.processes.pool import _Replays
from zerosearch_agents.runs.metrics import rollout_metrics
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, chat
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import ConfigError, UnjudgedError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.reward_registry import get_reward, get_scores
from zerosearch_env.game.together import advance, advance_all
from zerosearch_env.types import StopReason


class Together:
    """A reward that returns only when it is computed for `count` episodes at the same time."""

    waits = True

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)

    def __call__(self, episode: Episode) -> float:
        self._barrier.wait(20)
        return float(len(episode.turns))


def missing(episode: Episode) -> float:
    if episode.seed % 2:
        raise UnjudgedError("no verdict")
    return 0.5


missing.waits = True  # type: ignore[attr-defined]


def scripted(count: int) -> ScriptedSampler:
    tokenizer = tiny.tiny_tokenizer()
    search = tokenizer.encode("<search>k</search>")
    return ScriptedSampler(tokenizer, [[search] * (key % 2) for key in range(count)])


def test_rollouts_do_not_wait_for_each_others_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedSampler, "wake", lambda self: None, raising=False)
    rules = replace(RULES, reward=get_reward(Together(4)))
    rollouts = play(scripted(4), ConstantEngine(DOCUMENTS), 4, rules)
    assert [one.scores.reward for one in rollouts] == [1.0, 2.0, 1.0, 2.0]


def test_a_rollout_without_a_reward_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedSampler, "wake", lambda self: None, raising=False)
    rules = replace(RULES, reward=get_reward(missing), scores=get_scores(["zerosearch_em"]))
    rollouts = play(scripted(4), ConstantEngine(DOCUMENTS), 4, rules)
    assert [one.trainable for one in rollouts] == [True, False, True, False]
    assert [one.error for one in rollouts] == [None, "no verdict"] * 2
    metrics = rollout_metrics([rollouts])
    assert (metrics["engine_failures"], metrics["reward"], metrics["score_zerosearch_em"]) == (2.0, 0.5, 0.0)
    rules = replace(RULES, scores=get_scores([missing]))
    metrics = rollout_metrics([play(scripted(4), ConstantEngine(DOCUMENTS), 4, rules)])
    assert (metrics["score_missing"], metrics["score_missing_missing"]) == (0.5, 2.0)


def test_a_reward_that_fails_ends_the_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedSampler, "wake", lambda self: None, raising=False)

    def broken(episode: Episode) -> float:
        raise KeyError("x")

    broken.waits = True  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="broken raised KeyError"):
        play(scripted(2), ConstantEngine(DOCUMENTS), 2, replace(RULES, reward=get_reward(broken)))


def test_episodes_that_end_in_one_batch_and_replays_of_workers_wait_together() -> None:
    rules = replace(RULES, reward=get_reward(Together(3)))
    episodes = [Episode(QUESTION, rules, seed=index) for index in range(3)]
    steps = advance_all(episodes, ["<answer>k</answer>"] * 3, advance)
    assert [step.reward for step in steps] == [1.0] * 3  # type: ignore[union-attr]

    played = [Episode(QUESTION, RULES, seed=index) for index in range(3)]
    for episode in played:
        episode.advance("<answer>k</answer>")
    again = [Episode(QUESTION, rules, seed=index) for index in range(3)]
    done: list[int] = []
    with _Replays(again, done.append) as replays:
        for index, episode in enumerate(played):
            replays.add(index, episode.turns)
    assert sorted(done) == [0, 1, 2]
    assert [episode.scores.reward for episode in again] == [1.0] * 3  # type: ignore[union-attr]


def test_a_replay_finds_out_that_a_reward_has_no_value() -> None:
    played = Episode(QUESTION, RULES, seed=1)
    played.advance("<answer>k</answer>")
    again = Episode(QUESTION, replace(RULES, reward=get_reward(missing)), seed=1)
    with _Replays([again], None) as replays:
        replays.add(0, played.turns)
    assert again.stop_reason is StopReason.ENGINE_ERROR


async def judge_server(call: Call) -> Reply:
    """Yes for the prediction k, nonsense for b, no for everything else."""
    prompt = call.body["messages"][0]["content"]
    return chat("yes" if 'mark: "k' in prompt else "well" if 'mark: "b' in prompt else "no")


HEADINGS = ["judge", "judge agrees with EM", "r1_searcher_f1"]


def letters(observation: str, info: dict[str, str]) -> str:
    return f"<answer>{'kbckkbck'[int(info['question'][-1])]}</answer>"


@pytest.fixture
def judged() -> Evaluation:
    with ServerThread(judge_server) as server:
        rules = replace(RULES, scores=get_scores([f"judge:openai:{server.url}#m", "r1_searcher_f1"]))
        player = CallablePlayer(letters, name="letters", options=AgentOptions(concurrency=4))
        return evaluate(player, tiny.tiny_dataset().questions, ConstantEngine(), rules, (0.0,))


def test_the_evaluation_reports_the_judge_and_its_agreement_with_em(judged: Evaluation, capsys) -> None:
    summary = judged.cells[0].summary()
    # predictions k b c k k b c k, gold answers k b k b k b k b: the judge says yes, -, no, yes, yes, -, no, yes
    assert (summary.em.mean, summary.extra["judge"].mean, summary.extra["judge"].n) == (4 / 8, 4 / 6, 6)
    assert summary.without_value == {"judge": 2, "r1_searcher_f1": 0}
    assert summary.agreement is not None
    assert (summary.agreement.share.mean, summary.agreement.judge_only, summary.agreement.em_only) == (4 / 6, 2, 0)
    assert summary.as_dict()["judge_agreement"]["judge_only"] == 2
    assert judged.difference("letters", "letters", 0.0, metric="judge").n == 6
    print_evaluation(judged, Console(width=120))
    out = capsys.readouterr().out
    assert "judge has no value in 2 of 8 episodes of letters, engine, noise 0" in out
    headings = [line.strip() for line in out.splitlines() if line.strip() in HEADINGS]
    assert headings == HEADINGS
    assert out.count("66.7 [30.0, 90.3]") == 2


def test_the_option_judge_is_short_for_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--agent", "baseline:random", "--questions", "3", "--noise", "0", "--world.passages", "200"]
    calls: list[Call] = []

    async def counted(call: Call) -> Reply:
        calls.append(call)
        return await judge_server(call)

    with ServerThread(counted) as server:
        judge = f"openai:{server.url}#m"
        out = ["--output", str(tmp_path)]
        assert main([*options, *out, "--judge", judge]) == 0
        assert "judge agrees with EM" in capsys.readouterr().out
        assert load_evaluation(tmp_path).settings["scores"] == [f"judge:{judge}"]
        asked = len(calls)
        assert main([*options, *out, "--scores", f"judge:{judge}"]) == 0  # the same evaluation: nothing is asked again
        assert len(calls) == asked
    with pytest.raises(ConfigError, match="expected judge:openai:URL"):
        main([*options, *out, "--judge", "openia:URL"])


def test_results_of_additional_scores_survive_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def longest(episode):\n    return float(len(episode.turns))\n")
    options = ["--agent", "baseline:random", "--questions", "4", "--noise", "0", "--output", str(tmp_path / "out")]
    options += ["--world.passages", "200", "--scores", "zerosearch_em", f"{tmp_path}/mine.py:longest"]
    assert main(options) == 0
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["cells"][0]["summary"]["all"]["extra"].keys() == {"zerosearch_em", "longest"}
    assert stored["settings"]["scores"] == ["zerosearch_em", f"{tmp_path}/mine.py:longest"]
    cell = load_evaluation(tmp_path / "out").cells[0]
    assert cell.summary().extra["longest"].mean >= 1.0
    assert main(options) == 0  # continued: nothing is played again
