"""The single environment: this long because each promise of the documentation has a test."""

from __future__ import annotations

import copy
import math
import os
import pickle
import signal
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import MISBEHAVIOURS, BadEngine, EchoEngine, make_dataset
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from zerosearch_env.engines import ConstantEngine, FailingEngine
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.errors import ConfigError, DataError, EngineError
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.types import Dataset, Question, SearchRequest, SearchResult, StopReason

SEARCH = "<think>hm</think><search>thing number 7</search>"
RESET_KEYS = {"question", "question_id", "noise_level", "progress"}
STEP_KEYS = {
    "action",
    "query",
    "documents",
    "noisy",
    "queries",
    "document_groups",
    "noise_flags",
    "noise_level",
    "answer_in_documents",
    "turn",
    "stop_reason",
}
END_KEYS = STEP_KEYS | {
    *("prediction", "answers", "em", "f1", "subem", "em_unicode", "f1_unicode", "searches"),
    *("misled", "abstained", "hallucinated", "counterfactual", "noise_kind"),
}


def make(**arguments: Any) -> ZeroSearchEnv:
    arguments.setdefault("dataset", make_dataset())
    arguments.setdefault("search_engine", EchoEngine())
    env = gym.make("ZeroSearch-v0", **arguments).unwrapped
    assert isinstance(env, ZeroSearchEnv)
    return env


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_gymnasium_finds_nothing_to_warn_about(protocol: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("ZeroSearch-v0", protocol=protocol, world={"passages": 400}, noise_schedule="exp")
        assert env.unwrapped.spec is not None
        check_env(env.unwrapped)
        env.reset(seed=0)
        for _ in range(3):
            if env.step(env.action_space.sample())[2]:
                env.reset()
        env.close()


def test_info_has_the_documented_keys_and_gold_answers_only_at_the_end() -> None:
    env = make(noise_level=0.5)
    observation, info = env.reset(seed=3)
    assert set(info) == RESET_KEYS
    assert info["question"] in observation
    for turn, action in enumerate((SEARCH, "no tag at all", SEARCH), 1):
        observation, reward, terminated, truncated, info = env.step(action)
        assert set(info) == STEP_KEYS
        assert (reward, terminated, truncated, info["turn"], info["stop_reason"]) == (0.0, False, False, turn, None)
        assert env.episode.question.answers[0] not in repr(info)
    assert info["query"] == "thing number 7"
    assert len(info["documents"]) == 5
    assert info["documents"][0].text in observation
    answer = env.episode.question.answers[0]
    observation, reward, terminated, truncated, info = env.step(f"<answer>The {answer}!</answer>")
    assert set(info) == END_KEYS
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    assert info["answers"] == env.episode.question.answers
    assert (info["em"], info["f1"], info["subem"], info["searches"]) == (1.0, 1.0, 1.0, 2)
    assert info["stop_reason"] == "answer"


def test_a_turn_without_search_has_nones() -> None:
    env = make()
    env.reset(seed=0)
    info = env.step("only thoughts")[4]
    assert (info["action"], info["query"], info["documents"]) == ("invalid", None, ())
    assert info["noisy"] is False
    assert info["answer_in_documents"] is False
    env = make(noise_unit="document")
    env.reset(seed=0)
    assert env.step("only thoughts")[4]["noisy"] == ()


def test_running_out_of_turns_truncates_after_one_last_turn() -> None:
    env = make(max_turns=2, top_k=3)
    env.reset(seed=0)
    assert not any(env.step(SEARCH)[2:4])
    observation, _, _, truncated, _ = env.step(SEARCH)
    assert env.rules.last_turn_notice in observation
    assert not truncated
    observation, reward, terminated, truncated, info = env.step(SEARCH)
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert info["stop_reason"] is StopReason.MAX_TURNS
    assert info["searches"] == 2
    assert info["prediction"] is None


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("x" * 1_000_000, "too_long"),
        ("\x00\x1b[2J" * 50, None),
        ("", None),
        ("<search></search>", None),
        ("\ud800", None),
    ],
)
def test_odd_actions_have_a_defined_outcome(action: str, reason: str | None) -> None:
    env = make()
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(action)
    assert info["action"] == "invalid"
    assert (reward, terminated, truncated) == (0.0, False, reason is not None)
    assert info["stop_reason"] == reason


def test_an_action_that_is_no_text_is_refused_and_nothing_moves() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="got bytes"):
        env.step(b"<search>x</search>")  # type: ignore[arg-type]
    assert env.step(SEARCH)[4]["turn"] == 1


def test_step_needs_a_reset_before_and_after_an_episode() -> None:
    env = make()
    with pytest.raises(ResetNeeded, match="before reset"):
        env.step(SEARCH)
    with pytest.raises(ResetNeeded, match="reset"):
        _ = env.episode
    env.reset(seed=0)
    env.step("<answer>x</answer>")
    with pytest.raises(ResetNeeded, match=r"after the end of the episode \(stop_reason='answer'\)"):
        env.step(SEARCH)


def test_equal_seeds_give_equal_episodes_and_resets_go_on() -> None:
    one, two = make(noise_level=0.5), make(noise_level=0.5)
    assert one.reset(seed=9) == two.reset(seed=9)
    seeds = set()
    for _ in range(5):
        assert one.step(SEARCH) == two.step(SEARCH)
        assert one.episode.seed == two.episode.seed
        seeds.add(one.episode.seed)
        assert one.reset() == two.reset()
    assert len(seeds) == 5


def test_higher_noise_levels_have_supersets_of_noisy_searches() -> None:
    def noisy(level: float) -> list[bool]:
        env = make(noise_level=level)
        flags = []
        for episode in range(30):
            env.reset(seed=0 if episode == 0 else None)
            flags += [env.step(SEARCH)[4]["noisy"] for _ in range(4)]
        return flags

    levels = [noisy(level) for level in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert not any(levels[0])
    assert all(levels[-1])
    for lower, higher in pairwise(levels):
        assert all(b for a, b in zip(lower, higher, strict=True) if a)
    assert 0.35 < np.mean(levels[2]) < 0.65


def test_noise_by_document() -> None:
    env = make(noise_level=0.5, noise_unit="document", top_k=7)
    env.reset(seed=0)
    noisy = env.step(SEARCH)[4]["noisy"]
    assert isinstance(noisy, tuple)
    assert len(noisy) == 7


def test_progress_can_be_set_and_released() -> None:
    env = make(noise_schedule="exp", noise_end=0.5, curriculum_episodes=10)
    env.set_progress(1.0)
    assert env.progress == 1.0
    info = env.reset()[1]
    assert (info["progress"], info["noise_level"]) == (1.0, 0.5)
    env.set_progress(0.5)
    assert env.reset()[1]["noise_level"] == pytest.approx((4**0.5 - 1) / 3 * 0.5)
    env.step("<answer>x</answer>")
    env.set_progress(None)
    assert env.reset()[1]["progress"] == 0.1
    for wrong in (-0.1, 1.1, math.nan, "1", True):
        with pytest.raises(
            ConfigError,
            match="progress must be a number of at least 0 and at most 1",
        ):
            env.set_progress(wrong)  # type: ignore[arg-type]


def test_a_callable_schedule_is_asked_and_checked() -> None:
    env = make(noise_schedule=lambda progress: progress * 2)
    env.set_progress(0.25)
    assert env.reset()[1]["noise_level"] == 0.5
    env.set_progress(0.75)
    with pytest.raises(ConfigError):
        env.reset()


def test_reset_options_hold_for_one_episode_and_are_not_changed() -> None:
    env = make(noise_schedule="linear", noise_end=1.0)
    options = {"question": "q7", "noise_level": 0.25, "progress": 0.5}
    before = copy.deepcopy(options)
    _, info = env.reset(seed=1, options=options)
    assert options == before
    assert (info["question_id"], info["noise_level"], info["progress"]) == ("q7", 0.25, 0.5)
    assert env.reset(options={"question": np.int64(3)})[1]["question_id"] == "q3"
    assert env.reset(options={"progress": 0.5})[1]["noise_level"] == 0.5
    assert env.reset()[1]["noise_level"] == 0.0


def test_options_of_one_episode_do_not_move_the_draws_of_later_ones() -> None:
    one, two = make(), make()
    one.reset(seed=4)
    two.reset(seed=4, options={"question": 0, "noise_level": 1.0})
    assert one.reset() == two.reset()
    assert one.episode.seed == two.episode.seed


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"qestion": 1}, "Did you mean 'question'"),
        ({"question": 40}, "from 0 to 39"),
        ({"question": -1}, "from 0 to 39"),
        ({"question": True}, "an index or an id"),
        ({"question": 1.5}, "an index or an id"),
        ({"question": "nope"}, "no question with id 'nope'"),
        ({"noise_level": 1.5}, "at least 0 and at most 1"),
        ({"progress": "half"}, "at least 0 and at most 1"),
    ],
)
def test_wrong_reset_options_are_named_and_the_episode_goes_on(options: dict[str, Any], match: str) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=match):
        env.reset(seed=5, options=options)
    assert env.step(SEARCH)[4]["turn"] == 1


def no_reward(prediction: str | None, answers: Any) -> float:
    return 0.25


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"protocol": "zerosearh"}, "Did you mean 'zerosearch'"),
        ({"search_engine": "corpse"}, "Did you mean 'corpus'"),
        ({"noise_schedule": "expo"}, "Did you mean 'exp'"),
        ({"noise_unit": "documents"}, "Did you mean 'document'"),
        ({"reward": "emm"}, "Did you mean 'em'"),
        ({"render_mode": "htlm"}, "Did you mean 'html'"),
        ({"on_engine_error": "rise"}, "Did you mean 'raise'"),
        ({"noise_schedule": "exp", "noise_level": 0.5}, "both given"),
        ({"noise_level": 1.5}, "at least 0 and at most 1"),
        ({"noise_level": -0.1}, "at least 0 and at most 1"),
        ({"noise_level": math.nan}, "at most 1, got nan"),
        ({"noise_end": 0.75}, "noise_schedule"),
        ({"noise_schedule": lambda x: x, "noise_end": 0.75}, "no effect"),
        ({"noise_schedule": "exp", "noise_end": 1.75}, "at least 0 and at most 1"),
        ({"curriculum_episodes": 0}, "at least 1"),
        ({"max_turns": 0}, "at least 1"),
        ({"top_k": 0}, "at least 1"),
        ({"top_k": 2.5}, "whole number"),
        ({"prompt_template": "no placeholder"}, "question"),
        ({"dataset": 3}, "a name, a path, a Dataset, or a list or table of questions, got int"),
        ({"dataset": [1]}, "a Question or a mapping"),
        ({"dataset": [{"question": "", "answers": ["x"]}]}, r"dataset\[0\]: field 'question': expected a non-empty"),
        ({"dataset": [{"question": "q?", "anwser": "x"}]}, "the nearest is 'anwser'"),
        ({"dataset": []}, "has no questions"),
        ({"dataset": Dataset("mine", "train", ())}, "'mine', split 'train', has no questions"),
        ({"dataset": [Question("q", "Why?", ())]}, "question 'q' .* has no answer"),
        ({"dataset": "world", "world": {"sead": 1}}, "Did you mean 'seed'"),
        ({"dataset": "world", "world": {"kind": 1}}, "unknown option of world 'kind'"),
        ({"kind": "corpus"}, "unknown argument of the environment 'kind'"),
        ({"dataset": "world", "world": {"seed": {1}}}, "seed must be a whole number, got {1}"),
        ({"dataset": "world", "world": 3}, "world must be a mapping"),
        ({"world": {"seed": 1}}, "'fake' was given"),
        ({"dataset": "owner/name", "world": {"seed": 1}}, "'owner/name' was given"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], match: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium itself warns about an unknown render mode first
        with pytest.raises((ConfigError, DataError), match=match):
            make(**arguments)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((DataError, ConfigError)):
        make(dataset=str(tmp_path / "missing.jsonl"))


def test_datasets_in_every_form(tmp_path: Path) -> None:
    questions = make_dataset(3).questions
    assert make(dataset=questions).dataset.questions == questions
    assert make(dataset=make_dataset(3)).dataset == make_dataset(3)
    rows = make(dataset=[{"question": "Who?", "answers": ["A", "B"]}]).dataset.questions
    assert (rows[0].id, rows[0].text, rows[0].answers) == ("questions-0", "Who?", ("A", "B"))
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "Who?", "answers": ["A"]}\n')
    env = make(dataset=str(file))
    assert env.dataset.questions[0].text == "Who?"
    assert make(dataset=file).dataset is env.dataset
    file.write_text('{"question": "Who else?", "answers": ["A"]}\n{"question": "And?", "answers": ["A"]}\n')
    assert len(make(dataset=file).dataset.questions) == 2


def test_sub_environments_share_one_world() -> None:
    one, two = (make(dataset="world", world={"passages": 400, "seed": 3}) for _ in range(2))
    assert one.dataset is two.dataset
    assert make(dataset="world", world={"passages": 400, "seed": 4}).dataset.questions != one.dataset.questions


def test_rewards() -> None:
    for reward, expected in (("em", 0.0), ("f1", pytest.approx(0.8)), ("subem", 1.0), (no_reward, 0.25)):
        env = make(dataset=[Question("q", "Which?", ("blue lake",))], reward=reward)
        env.reset(seed=0)
        _, value, _, _, info = env.step("<answer>the big blue lake</answer>")
        assert value == expected
        assert info["f1"] == pytest.approx(0.8)


def test_a_prompt_template_of_ones_own() -> None:
    env = make(prompt_template="Q: {question} {curly}\nA:")
    observation, info = env.reset(seed=0)
    assert observation == f"Q: {info['question']} {{curly}}\nA:"


def test_stop_strings_are_exposed() -> None:
    assert make().stop_strings == PROTOCOLS["zerosearch"].stop_strings


def test_a_failed_engine_truncates_with_its_error() -> None:
    env = make(search_engine=FailingEngine("HTTP 503"))
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(SEARCH)
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert set(info) == END_KEYS | {"error"}
    assert (info["error"], info["stop_reason"], info["documents"]) == ("HTTP 503", "engine_error", ())


def test_a_failed_engine_raises_if_asked_to() -> None:
    env = make(search_engine=FailingEngine("HTTP 503", attempts=4), on_engine_error="raise")
    env.reset(seed=0)
    with pytest.raises(EngineError, match="HTTP 503") as caught:
        env.step(SEARCH)
    assert caught.value.attempts == 4
    with pytest.raises(ResetNeeded, match="engine_error"):
        env.step(SEARCH)
    env.reset()
    assert env.step("<answer>x</answer>")[2]


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_whatever_an_engine_does_wrong_fails_the_search(misbehaviour: str) -> None:
    env = make(search_engine=BadEngine(misbehaviour), reward=lambda prediction, answers: 5.0)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step("<search>bad</search>")
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "engine_error")
    assert "BadEngine" in info["error"] or misbehaviour == "a failure of the engine"
    env = make(search_engine=BadEngine(misbehaviour), on_engine_error="raise")
    env.reset(seed=0)
    with pytest.raises(EngineError):
        env.step("<search>bad</search>")
    assert env.unwrapped.episode.stop_reason == "engine_error"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_are_no_failures_of_the_engine(number: signal.Signals, error: type[BaseException]) -> None:
    class SignalledEngine(ConstantEngine):
        def search(self, requests: Any) -> list[SearchResult]:
            signal.raise_signal(number)
            return super().search(requests)

    env = make(search_engine=SignalledEngine())
    env.reset(seed=0)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        with pytest.raises(error):
            env.step(SEARCH)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_close_closes_only_an_engine_of_its_own() -> None:
    engine = EchoEngine()
    env = make(search_engine=engine)
    env.close()
    assert engine.closed == 0
    own = make(dataset="world", world={"passages": 400}, search_engine="corpus")
    own.reset(seed=0)
    own.close()
    own.close()
    with pytest.raises(EngineError, match="closed"):
        own.engine.search([SearchRequest("q", "q", ("a",), False, 1, 0)])
    with pytest.raises(ClosedEnvironmentError, match=r"gymnasium\.make"):
        own.reset()
    with pytest.raises(ResetNeeded):
        own.step(SEARCH)


def test_pickling_keeps_the_episode_and_a_copy_looks_ahead() -> None:
    env = make(noise_level=0.5, search_engine="corpus")
    env.reset(seed=3)
    env.step(SEARCH)
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert twin.episode.turns == env.episode.turns
        ahead = twin.step(SEARCH)
        assert twin.reset() == copy.deepcopy(env).reset()
        assert len(env.episode.turns) == 1
        twin.close()
        assert copy.deepcopy(env).step(SEARCH) == ahead
    twin = copy.deepcopy(env)
    assert twin.dataset is env.dataset
    assert twin.engine is env.engine


def test_render_modes(capsys: pytest.CaptureFixture[str]) -> None:
    for mode, part in (("ansi", "\x1b[1mQuestion:"), ("html", "<section")):
        env = make(render_mode=mode)
        with pytest.raises(ResetNeeded):
            env.render()
        env.reset(seed=0)
        env.step(SEARCH)
        text = env.render()
        assert text is not None
        assert part in text
        assert "thing number 7" in text
    assert capsys.readouterr().out == ""
    env = make(render_mode="human")
    env.reset(seed=0)
    assert "Question: What is thing" in capsys.readouterr().out
    env.step(SEARCH)
    shown = capsys.readouterr().out
    assert shown.count("turn 1") == 1
    assert "Question" not in shown
    assert env.render() is None
    assert capsys.readouterr().out == ""
    env.step("<answer>x</answer>")
    assert "gold: " in capsys.readouterr().out


def test_rendering_without_a_mode_warns() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode="):
        assert env.render() is None


def test_an_episode_in_progress_is_rendered_without_gold_answers() -> None:
    env = make(dataset=[Question("q", "Which?", ("Timbuktu",))], render_mode="html")
    env.reset(seed=0)
    env.step(SEARCH)
    assert "Timbuktu" not in (env.render() or "")
    env.step("<answer>x</answer>")
    assert "Timbuktu" in (env.render() or "")


def test_async_vector_env_gives_the_same_episodes() -> None:
    def create() -> gym.Env[str, str]:
        return gym.make("ZeroSearch-v0", dataset=make_dataset(), search_engine=EchoEngine(), noise_level=0.5)

    envs = AsyncVectorEnv([create, create], shared_memory=False, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        singles = [create(), create()]
        observations, _ = envs.reset(seed=[3, 7])
        assert observations == tuple(env.reset(seed=seed)[0] for env, seed in zip(singles, (3, 7), strict=True))
        observations, *_, infos = envs.step(("<search>né ✓</search>", "<search>b</search>"))
        results = [env.step(f"<search>{query}</search>") for env, query in zip(singles, ("né ✓", "b"), strict=True)]
        assert observations == tuple(result[0] for result in results)
        assert data_equivalence(list(infos["documents"]), [result[4]["documents"] for result in results])
        envs.call("set_progress", 0.5)
    finally:
        envs.close()


def test_async_vector_env_with_shared_memory_names_the_way_out() -> None:
    with pytest.raises(ValueError, match="shared_memory=False") as error:
        gym.make_vec("ZeroSearch-v0", num_envs=1, vectorization_mode="async", dataset=make_dataset())
    assert "make_vec" in str(error.value.__cause__)
