"""Rewards that see the episode, additional scores, and rewards without a value."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from zerosearch_env.engines import ConstantEngine
from zerosearch_env.envs.session import Session
from zerosearch_env.envs.vector import ZeroSearchVectorEnv
from zerosearch_env.errors import ConfigError, EngineError, UnjudgedError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.published_rewards import search_r1_format
from zerosearch_env.game.reward_registry import get_reward, get_scores
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import transcript_record
from zerosearch_env.types import Question, SearchResult, Step, StopReason

QUESTION = Question("q", "Where was Rousseau born?", ("Geneva",))
ROWS = [{"question": QUESTION.text, "answers": list(QUESTION.answers)}]


def end(text: str = "<answer>Geneva</answer>", **rules: Any) -> Step:
    step = Episode(QUESTION, make_rules(**rules)).advance(text)
    assert isinstance(step, Step)
    return step


def test_a_reward_with_one_parameter_sees_the_finished_episode() -> None:
    seen: list[Episode] = []

    def reward(episode: Episode) -> float:
        assert episode.done
        assert episode.scores is not None
        assert (episode.scores.prediction, episode.scores.em, episode.scores.searches) == ("Geneva", 1.0, 1)
        assert [turn.step.action for turn in episode.turns] == ["search", "answer"]
        assert episode.turns[-1].action_text == "so <answer>Geneva</answer>"
        seen.append(episode)
        return 0.25 * len(episode.turns)

    episode = Episode(QUESTION, make_rules(reward=reward))
    episode.advance("<search>Rousseau</search>")
    episode.observe(SearchResult(()))
    step = episode.advance("so <answer>Geneva</answer>")
    assert isinstance(step, Step)
    assert step.reward == 0.5
    assert episode.scores is step.scores
    assert seen == [episode]


class OfEpisode:
    def __call__(self, episode: Episode) -> float:
        return 0.5

    def method(self, episode: Episode) -> float:
        return 0.25

    @staticmethod
    def of_pair(prediction: str | None, answers: object) -> float:
        return 0.125


class OfPair:
    def __call__(self, prediction: str | None, answers: object, weight: float = 2.0) -> float:
        return weight


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (OfEpisode, 0.5),
        (OfEpisode(), 0.5),
        (OfEpisode().method, 0.25),
        (OfEpisode.of_pair, 0.125),
        (OfPair, 2.0),
        (functools.partial(OfPair(), weight=3.0), 3.0),
        (functools.partial(search_r1_format, structure=0.3), 0.7),
        (lambda episode, factor=2: factor * len(episode.turns), 2.0),
        (lambda episode, *more, **options: 4, 4.0),
        (lambda prediction, answers: prediction in answers, 1.0),
    ],
)
def test_the_required_parameters_decide(reward: Any, expected: float) -> None:
    assert end(reward=reward).reward == pytest.approx(expected)


@pytest.mark.parametrize(
    "reward",
    [
        lambda: 1.0,
        lambda *anything: 1.0,
        lambda prediction, answers, question: 1.0,
        lambda prediction, *, weight: 1.0,
        functools.partial(lambda prediction, answers: 1.0, "x", ["y"]),
    ],
)
def test_other_parameters_are_an_error_at_the_start(reward: Any) -> None:
    with pytest.raises(ConfigError, match=r"must have one required positional parameter \(episode\) or two"):
        make_rules(reward=reward)


def test_a_class_that_cannot_be_made_and_a_builtin_without_a_signature() -> None:
    class Needy:
        def __init__(self, what: str) -> None: ...

    with pytest.raises(ConfigError, match=r"reward .*Needy: it could not be instantiated"):
        get_reward(Needy)
    with pytest.raises(ConfigError, match="has no signature that Python can read: write a function around it"):
        get_reward(max)


def test_rewards_and_scores_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def turns(episode):\n    return len(episode.turns)\n\n\nclass Length:\n    def __call__(self, episode):\n"
        "        return len(episode.scores.prediction or '')\n"
    )
    step = end(reward="mine.py:turns", scores=["mine.py:Length"])
    assert step.scores is not None
    assert (step.reward, step.scores.extra) == (1.0, (("Length", 6.0),))


def test_an_episode_reward_is_checked() -> None:
    def broken(episode: Episode) -> float:
        raise KeyError("x")

    with pytest.raises(ConfigError, match=r"broken raised KeyError for prediction 'Geneva'"):
        end(reward=broken)
    with pytest.raises(ConfigError, match=r"must be a finite number, got nan"):
        end(reward=lambda episode: math.nan)


def test_additional_scores_are_in_infos_and_transcripts() -> None:
    scores = ["zerosearch_em", "em", "research", lambda_named("halves", 0.5)]
    env = gym.make("ZeroSearch-v0", dataset=ROWS, search_engine=ConstantEngine(), scores=scores)
    env.reset(seed=0)
    _, _, _, _, info = env.step("<search>x</search>")
    assert "halves" not in info
    _, reward, _, _, info = env.step("<answer>Geneva, Switzerland</answer>")
    assert (reward, info["zerosearch_em"], info["research"], info["halves"]) == (0.0, 1.0, 0.0, 0.5)
    record = transcript_record(env.unwrapped.episode)  # type: ignore[attr-defined]
    assert record["scores"]["zerosearch_em"] == 1.0
    assert json.loads(json.dumps(record))["scores"]["halves"] == 0.5
    env.close()


def lambda_named(name: str, value: float) -> Any:
    def score(episode: Episode) -> float:
        return value

    score.__name__ = name
    return score


def test_additional_scores_of_a_vector_environment() -> None:
    envs = ZeroSearchVectorEnv(
        3, dataset=ROWS, search_engine=ConstantEngine(), scores=["r1_searcher_cover_em", missing]
    )
    envs.reset(seed=0)
    infos = envs.step(["<answer>Geneva</answer>", "<search>x</search>", "<answer>Bern</answer>"])[-1]
    assert infos["_r1_searcher_cover_em"].tolist() == [True, False, True]
    assert infos["r1_searcher_cover_em"].dtype == np.float64
    assert infos["r1_searcher_cover_em"].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(infos["missing"][[0, 2]]).all()
    envs.close()


def missing(episode: Episode) -> float:
    raise UnjudgedError("no verdict")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("em", "scores must be a list of names"),
        (["zerosearch_ems"], r"unknown reward 'zerosearch_ems'\. Did you mean 'zerosearch_em'\?"),
        (["research", "research"], "two scores are called 'research'"),
        ([lambda_named("turn", 1.0)], "a score cannot be called 'turn'"),
        ([lambda_named("reward", 1.0)], "a score cannot be called 'reward'"),
    ],
)
def test_bad_scores(scores: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_scores(scores)


def test_a_score_without_a_value_is_left_out_and_a_reward_ends_the_episode_as_failed() -> None:
    scored = end(scores=[missing])
    assert scored.scores is not None
    assert (scored.stop_reason, scored.scores.extra) == (StopReason.ANSWER, (("missing", None),))

    episode = Episode(QUESTION, make_rules(reward=missing, scores=["zerosearch_em"]))
    step = episode.advance("<answer>Geneva</answer>")
    assert isinstance(step, Step)
    assert step.scores is not None
    assert episode.stop_reason is step.stop_reason is StopReason.ENGINE_ERROR
    assert (step.error, step.reward, step.scores.em, step.scores.extra) == (
        "no verdict",
        0.0,
        1.0,
        (("zerosearch_em", 1.0),),
    )
    assert transcript_record(episode)["stop_reason"] == "engine_error"


def test_no_reward_is_computed_after_an_engine_failure() -> None:
    def never(episode: Episode) -> float:
        raise AssertionError

    episode = Episode(QUESTION, make_rules(reward=never, scores=[never]))
    episode.advance("<search>x</search>")
    step = episode.observe(SearchResult((), failure="down"))
    assert step.scores is not None
    assert (step.reward, step.scores.extra) == (0.0, (("never", None),))


def test_an_environment_that_raises_engine_errors_raises_for_a_reward_without_a_value() -> None:
    options: dict[str, Any] = {"dataset": ROWS, "search_engine": ConstantEngine(), "on_engine_error": "raise"}
    env = gym.make("ZeroSearch-v0", reward=missing, **options)
    env.reset(seed=0)
    with pytest.raises(EngineError, match="no verdict"):
        env.step("<answer>Geneva</answer>")
    env.close()
    envs = ZeroSearchVectorEnv(2, reward=missing, **options)
    envs.reset(seed=0)
    with pytest.raises(EngineError, match=r"no verdict \(2 rewards have no value\)"):
        envs.step(["<answer>Geneva</answer>"] * 2)
    envs.close()


def test_a_session_has_the_additional_scores() -> None:
    session = Session(QUESTION, make_rules(scores=["zerosearch_em"]), ConstantEngine())
    assert session.scores is None
    assert session.answer("Geneva").extra == (("zerosearch_em", 1.0),)
    assert session.scores is not None
