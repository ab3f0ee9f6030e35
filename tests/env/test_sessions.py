"""`SessionSource` starts the episodes of the environment and of a trainer's rows, and shares what they need."""

from __future__ import annotations

import doctest
import json
from typing import Any

import numpy as np
import pytest
from env_fakes import EchoEngine, make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import zerosearch_env.envs.sessions
from zerosearch_env.envs.session import Session
from zerosearch_env.envs.sessions import SessionSource
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.errors import ConfigError
from zerosearch_env.randomness import mix
from zerosearch_env.types import Turn

DATASET = make_dataset(9)
TURNS = ("<search>one</search>", "<search>two</search>", "no tag", "<answer>thing 4</answer>")


def source(**arguments: Any) -> SessionSource:
    return SessionSource(**{"dataset": DATASET, "search_engine": EchoEngine(), "noise_level": 0.5, **arguments})


def played(session: Session) -> list[Turn]:
    for text in TURNS:
        session.turn(text)
    return session.episode.turns


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    options=st.fixed_dictionaries(
        {}, optional={"question": st.integers(0, 8), "noise_level": st.floats(0, 1), "progress": st.floats(0, 1)}
    ),
)
def test_a_seed_starts_the_episode_that_the_environment_resets_to(seed: int, options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"noise_level": None, "noise_schedule": "exp"}
    env = ZeroSearchEnv(DATASET, search_engine=EchoEngine(), noise_schedule="exp")
    prompt, _ = env.reset(seed=seed, options=options)
    for text in TURNS:
        _, reward, *_ = env.step(text)
    session = source(**arguments).start(seed=seed, **options)
    assert session.prompt == prompt
    assert played(session) == env.episode.turns
    assert session.scores is not None
    assert session.scores.reward == reward


def test_a_generator_gives_the_episodes_of_resets_without_a_seed() -> None:
    env = ZeroSearchEnv(DATASET, search_engine=EchoEngine(), noise_level=0.5)
    prompts = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    shared, random = source(), np.random.Generator(np.random.PCG64(3))
    assert [shared.start(seed=random).prompt for _ in range(3)] == prompts


def test_without_a_seed_episodes_differ() -> None:
    started = source()
    assert len({started.start().episode.seed for _ in range(20)}) == 20


@settings(max_examples=10)
@given(seed=st.integers(0, 2**40), level=st.floats(0, 1))
def test_a_row_starts_the_episode_of_an_evaluation(seed: int, level: float) -> None:
    shared = source(noise_level=level, max_turns=3)
    for index, row in enumerate(shared.rows(seed=seed, count=3)):
        expected = Session(
            DATASET.questions[index], shared.rules, EchoEngine(), noise_level=level, seed=mix(seed, index)
        )
        for _ in range(2):  # every rollout of a group
            session = shared.start_row(json.loads(json.dumps(row)))
            assert row["prompt"][0]["content"] == session.prompt == expected.prompt
            assert played(session)[:3] == (expected.episode.turns or played(expected))[:3]


def test_rows_of_a_schedule_meet_the_level_that_it_has_reached() -> None:
    shared = source(noise_level=None, noise_schedule="linear", noise_end=1.0, curriculum_episodes=4)
    row = shared.rows(count=1)[0]
    assert row["noise_level"] is None
    assert [shared.start_row(row).episode.noise_level for _ in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    shared.set_progress(0.5)
    assert shared.start_row(row).episode.noise_level == shared.start(seed=1).episode.noise_level == 0.5
    assert shared.rows(count=1, noise_level=0.125)[0]["noise_level"] == 0.125


def test_progress_comes_from_a_function_unless_it_is_set() -> None:
    steps = [0.0]
    shared = source(noise_level=None, noise_schedule="linear", noise_end=1.0, progress=lambda: steps[0])
    steps[0] = 0.75
    assert shared.progress == shared.start().episode.noise_level == 0.75
    shared.set_progress(0.25)
    assert shared.progress == shared.start().episode.noise_level == 0.25
    shared.set_progress(None)
    steps[0] = 2.0
    with pytest.raises(ConfigError, match="progress"):
        shared.start()


def test_one_source_per_description() -> None:
    arguments = {"world": {"passages": 300, "seed": 5}, "noise_level": 0.25, "noise_kind": ["empty", "distractor"]}
    first = SessionSource.shared(**arguments)
    assert SessionSource.shared(**{**arguments, "world": {"seed": 5, "passages": 300}}) is first
    assert SessionSource.shared(**{**arguments, "noise_level": 0.5}) is not first
    engine = EchoEngine()
    with_engine = SessionSource.shared(dataset=DATASET, search_engine=engine)
    assert SessionSource.shared(dataset=DATASET, search_engine=engine) is with_engine
    assert SessionSource.shared(dataset=DATASET, search_engine=EchoEngine()) is not with_engine


def test_an_engine_that_was_given_stays_open_and_an_own_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    given_engine = EchoEngine()
    monkeypatch.setattr(given_engine, "close", lambda: closed.append("given"))
    source(search_engine=given_engine).close()
    assert closed == []
    own = SessionSource(world={"passages": 300})
    monkeypatch.setattr(own.engine, "close", lambda: closed.append("own"))
    own.close()
    assert closed == ["own"]


ROW = {
    "question_id": "q4",
    "noise_level": 0.5,
    "seed": 1,
    "extra_info": {"dataset": "fake", "split": "train", "index": 4, "protocol": "zerosearch"},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": None}, "got one without 'seed'"),
        ({"question_id": "q5"}, "row 'q5' .* is not in dataset 'fake', split 'train'"),
        ({"extra_info": {**ROW["extra_info"], "index": 9}}, "is not in dataset 'fake'"),  # type: ignore[dict-item]
        ({"extra_info": "{}"}, "is not in dataset 'fake'"),
        ({"extra_info": {**ROW["extra_info"], "protocol": "search-r1"}}, "use the same protocol for both"),  # type: ignore[dict-item]
        ({"noise_level": 3}, "noise level"),
    ],
)
def test_rows_of_other_sources_are_refused(changes: dict[str, Any], message: str) -> None:
    row = {name: value for name, value in {**ROW, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        source().start_row(row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"render_mode": "ansi"}, "sessions have no render_mode"),
        ({"on_engine_error": "raise"}, "sessions have no on_engine_error"),
        ({"noise_levle": 0.5}, "Did you mean 'noise_level'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": "7"}, "seed must be a whole number or a numpy Generator"), ({"question": 9}, "from 0 to 8")],
)
def test_a_wrong_start_is_refused_and_counts_nothing(arguments: dict[str, Any], message: str) -> None:
    shared = source(noise_level=None, noise_schedule="linear", curriculum_episodes=4)
    with pytest.raises(ConfigError, match=message):
        shared.start(**arguments)
    assert shared.progress == 0.0


def test_the_example_runs() -> None:
    assert doctest.testmod(zerosearch_env.envs.sessions).failed == 0
