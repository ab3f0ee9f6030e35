"""`Session` plays the environment's episodes by actions, and its errors can be given to a model."""

from __future__ import annotations

import asyncio
import doctest
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from env_fakes import EchoEngine, make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import zerosearch_env.envs.session
from zerosearch_env.datasets.world.make import WorldConfig, make_world
from zerosearch_env.engines import BatchedEngine, ConstantEngine, CorpusEngine, FailingEngine, SearchEngine
from zerosearch_env.envs.session import Session
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.errors import ConfigError, DataError, EngineError, EpisodeError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.records.transcripts import transcript_record
from zerosearch_env.types import Question, SearchRequest, SearchResult, Step, StopReason

QUESTION = Question("q1", "Where was Ann Lee born?", ("Geneva",))
WORLD = make_world(WorldConfig(passages=300))
DATASETS = {"corpus": WORLD, "echo": make_dataset(7), "failing": make_dataset(7)}
CORPUS = CorpusEngine(WORLD.passages or ())
ENGINES: dict[str, Callable[[], SearchEngine]] = {
    "corpus": lambda: CORPUS,
    "echo": EchoEngine,
    "failing": lambda: FailingEngine(after=2, inner=EchoEngine()),
}


def start(engine: SearchEngine | None = None, **rules: Any) -> Session:
    return Session(QUESTION, make_rules(**rules), engine or ConstantEngine())


# The environment and a session play the same episodes

WORDS = st.lists(st.sampled_from(["lake", "thing 3", "born", "Ünal", "日本", "it's", "1914"]), max_size=3).map(" ".join)
MOVES = st.tuples(st.sampled_from(["search", "search", "answer", "text"]), st.one_of(WORDS, st.just("gold")))

Take = Callable[[Session, str, str], Awaitable[object]]


async def _take(session: Session, kind: str, content: str) -> object:
    return {"search": session.search, "answer": session.answer, "text": session.turn}[kind](content)


async def _atake(session: Session, kind: str, content: str) -> object:
    if kind == "search":
        return await session.asearch(content)
    return await session.aturn(content) if kind == "text" else session.answer(content)


async def _play_both(env: ZeroSearchEnv, session: Session, moves: Sequence[tuple[str, str]], take: Take) -> None:
    """Play the moves in both, and compare what comes back."""
    protocol = env.rules.protocol
    for kind, words in moves:
        content = session.episode.question.answers[0] if words == "gold" else words
        if kind == "search" and env.episode.last_turn:
            # The environment would end the episode; a session says so and lets the agent answer.
            with pytest.raises(EpisodeError, match="searches are used up"):
                await take(session, kind, content)
            continue
        text = protocol.render_answer(content) if kind == "answer" else protocol.render_search(content)
        if kind == "text" and words != "gold":
            text = f"<think>{content}</think>"
        _, reward, terminated, truncated, info = env.step(text)
        given = text if kind == "text" else content
        if kind == "search" and (info["stop_reason"] is StopReason.ENGINE_ERROR or info["action"] == "invalid"):
            failure = EpisodeError if info["action"] == "invalid" else EngineError
            with pytest.raises(failure, match=None if failure is EpisodeError else re.escape(info["error"])):
                await take(session, kind, given)
        elif kind == "answer" and not (terminated or truncated):
            with pytest.raises(EpisodeError, match="The answer is empty"):
                await take(session, kind, given)
        else:
            outcome = await take(session, kind, given)
            if kind == "search":
                assert outcome == info["documents"]
            elif kind == "text":
                assert isinstance(outcome, Step)
                assert (outcome.reward, outcome.documents) == (reward, info["documents"])
        assert session.done == (terminated or truncated)
        if session.done:
            assert session.scores is not None
            assert session.scores.reward == reward
            break


@settings(max_examples=25)
@given(
    take=st.sampled_from([_take, _atake]),
    engine=st.sampled_from(sorted(ENGINES)),
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    unit=st.sampled_from(["search", "document"]),
    reward=st.sampled_from(["em", "f1"]),
    level=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    moves=st.lists(MOVES, max_size=8),
)
def test_sessions_play_the_episodes_of_the_environment(
    take: Take,
    engine: str,
    protocol: str,
    unit: str,
    reward: str,
    level: float,
    seed: int,
    moves: list[tuple[str, str]],
) -> None:
    env = ZeroSearchEnv(
        DATASETS[engine],
        search_engine=ENGINES[engine](),
        protocol=protocol,
        noise_unit=unit,
        reward=reward,
        noise_level=level,
        max_turns=4,
    )
    prompt, _ = env.reset(seed=seed)
    episode = env.episode
    session = Session(episode.question, env.rules, ENGINES[engine](), noise_level=level, seed=episode.seed)
    assert session.prompt == prompt
    asyncio.run(_play_both(env, session, moves, take))
    assert session.episode.turns == env.episode.turns
    assert transcript_record(session.episode) == transcript_record(env.episode)


def test_what_the_protocol_cannot_hold_is_scored_as_it_was_given() -> None:
    question = Question("q", "Which type?", ("vector<int>",))
    session = Session(question, make_rules(), ConstantEngine())
    scores = session.answer(" vector<int>\n")
    assert (scores.prediction, scores.em) == ("vector<int>", 1.0)


@settings(max_examples=10)
@given(level=st.floats(0, 1), seed=st.integers(0, 2**32), moves=st.lists(WORDS, max_size=3))
def test_an_episode_that_begins_again_or_is_continued_has_the_same_draws(
    level: float, seed: int, moves: list[str]
) -> None:
    question = WORLD.questions[0]
    episode = Episode(question, make_rules(), noise_level=level, seed=seed)
    turns = []
    for _ in range(2):
        for query in moves:
            session = Session.of(episode, CORPUS)
            with suppress(EpisodeError):
                session.search(query)
        Session.of(episode, CORPUS).answer("x")
        turns.append(transcript_record(episode))
        assert episode.done
        episode.restart()
        assert (episode.done, episode.turns, episode.searches, episode.pending) == (False, (), 0, False)
    assert turns[0] == turns[1]


# Errors for a model


def test_a_search_after_the_last_one_says_to_answer_and_the_answer_counts() -> None:
    session = start(max_turns=2)
    session.search("Ann Lee")
    session.search("Ann Lee birthplace")
    for _ in range(3):
        with pytest.raises(EpisodeError, match=r"^All 2 searches are used up\. Give the answer now\.$"):
            session.search("again")
    assert not session.done
    assert session.answer("geneva").reward == 1.0
    assert session.scores is not None
    assert session.scores.searches == 2


def test_after_the_end_nothing_counts() -> None:
    session = start()
    assert (session.done, session.scores) == (False, None)
    scores = session.answer("Paris")
    assert (session.done, session.scores, scores.reward) == (True, scores, 0.0)
    turns = session.episode.turns
    for act in (session.search, session.answer):
        with pytest.raises(EpisodeError, match=r"^This question is finished \(answer\): nothing more counts"):
            act("Geneva")
    with pytest.raises(EpisodeError, match="the episode is over"):
        session.turn("<answer>Geneva</answer>")
    with pytest.raises(EpisodeError, match="the episode is over"):
        session.stop("max_turns")
    assert (session.scores, session.episode.turns) == (scores, turns)


def test_empty_actions_use_up_turns() -> None:
    session = start(max_turns=2)
    with pytest.raises(EpisodeError, match=r"^The query is empty, which uses up a turn\. Search for a few words"):
        session.search("  <b> ")
    with pytest.raises(EpisodeError, match=r"^The answer is empty, which uses up a turn"):
        session.answer("\u200b")
    assert [turn.step.action for turn in session.episode.turns] == ["invalid", "invalid"]
    assert session.answer("").prediction is None
    assert session.episode.stop_reason is StopReason.MAX_TURNS
    session = start(max_turns=1)
    with pytest.raises(EpisodeError, match=r"^The query is empty, which uses up a turn\. Give the answer now"):
        session.search("")
    session = start(protocol="r1-searcher")
    with pytest.raises(EpisodeError, match=r"^The query is empty, which has finished this question"):
        session.search("")
    assert session.episode.stop_reason is StopReason.NO_ACTION


def test_endless_actions_end_the_episode() -> None:
    session = start(max_action_chars=100)
    with pytest.raises(EpisodeError, match=r"^The query is too long, which has finished this question"):
        session.search("long " * 30)
    assert session.episode.stop_reason is StopReason.TOO_LONG
    scores = start(max_action_chars=100).answer("Geneva" * 30)
    assert scores.prediction is None
    long_query = start(max_query_chars=9)
    long_query.search("one two three four")
    assert long_query.episode.turns[0].step.query == "one two t"


@pytest.mark.parametrize("value", [None, 3, b"Geneva", ["Geneva"]])
def test_only_strings_are_actions(value: Any) -> None:
    session = start()
    for act in (session.search, session.answer, session.turn):
        with pytest.raises(ConfigError, match=f"must be a string, got {type(value).__name__}"):
            act(value)
    assert session.episode.turns == ()


# The engine fails


class Broken(BatchedEngine):
    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        raise ValueError("no route, api_key=abcdefgh")


class Slow(BatchedEngine):
    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return [SearchResult(()) for _ in requests]

    async def asearch(self, request: SearchRequest) -> SearchResult:
        await asyncio.sleep(60)
        return SearchResult(())


@pytest.mark.parametrize("closed", [False, True])
def test_a_failed_search_raises_and_ends_the_episode(closed: bool) -> None:
    for run in (lambda s: s.search("Ann"), lambda s: asyncio.run(s.asearch("Ann"))):
        engine = FailingEngine("out of order")
        if closed:
            engine.close()
        session = start(engine)
        with pytest.raises(EngineError, match="is closed" if closed else "out of order") as failure:
            run(session)
        assert failure.value.attempts == (0 if closed else 3)
        assert session.episode.stop_reason is StopReason.ENGINE_ERROR
        assert session.episode.turns[-1].step.error == str(failure.value)
    step = start(FailingEngine("out of order")).turn("<search>Ann</search>")
    assert (step.stop_reason, step.error) == (StopReason.ENGINE_ERROR, "out of order")


def test_a_fault_in_an_engine_is_recorded_without_secrets() -> None:
    fault = "Broken raised ValueError: no route, api_key=***"
    for run in (lambda s: s.search("Ann"), lambda s: asyncio.run(s.asearch("Ann"))):
        session = start(Broken())
        with pytest.raises(EngineError, match=re.escape(fault)):
            run(session)
        assert session.episode.stop_reason is StopReason.ENGINE_ERROR
        assert session.episode.turns[-1].step.error == fault
    assert asyncio.run(start(Broken()).aturn("<search>Ann</search>")).error == fault


def test_one_search_at_a_time_and_a_cancelled_one_ends_the_episode() -> None:
    async def main() -> Session:
        session = start(Slow())
        first = asyncio.create_task(session.asearch("Ann"))
        await asyncio.sleep(0)
        for act in (session.search, session.answer):
            with pytest.raises(EpisodeError, match="Another search is still running"):
                act("Lee")
        with pytest.raises(EpisodeError, match="Another search is still running"):
            await session.asearch("Lee")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return session

    session = asyncio.run(main())
    assert session.episode.stop_reason is StopReason.ENGINE_ERROR
    assert session.episode.turns[-1].step.error == "the search was interrupted by CancelledError"
    assert session.episode.searches == 1


# Start and stop


@pytest.mark.parametrize("reason", ["max_turns", StopReason.CONTEXT_LIMIT, "agent_error"])
def test_stop_ends_the_episode_with_a_reason_that_truncates(reason: str) -> None:
    session = start()
    session.search("Ann Lee")
    scores = session.stop(reason, error="the agent raised")
    assert (scores.prediction, scores.reward, scores.searches) == (None, 0.0, 1)
    assert session.scores == scores
    assert session.episode.stop_reason == reason
    assert session.episode.turns[-1].step.error == "the agent raised"


def test_stop_refuses_other_reasons() -> None:
    session = start()
    with pytest.raises(ConfigError, match=r"unknown stop reason 'max_turn'\. Did you mean 'max_turns'\?"):
        session.stop("max_turn")
    with pytest.raises(EpisodeError, match="only the policy's own turn terminates"):
        session.stop("answer")
    assert not session.done


def test_wrong_arguments_are_named() -> None:
    rules, engine = make_rules(), ConstantEngine()
    wrong: list[tuple[Any, Any, Any, str]] = [
        ("Where?", rules, engine, "question must be a Question such as load_dataset(...).questions[0], got 'Where?'"),
        (QUESTION, "zerosearch", engine, "rules must be a Rules from make_rules(...), got 'zerosearch'"),
        (QUESTION, rules, "corpus", "engine must be a SearchEngine from make_engine(...), got 'corpus'"),
    ]
    for question, given_rules, given_engine, message in wrong:
        with pytest.raises(ConfigError, match=re.escape(message)):
            Session(question, given_rules, given_engine)
    with pytest.raises(ConfigError, match="noise"):
        Session(QUESTION, rules, engine, noise_level=1.5)
    with pytest.raises(DataError, match="no answers"):
        Session(Question("q", "Where?", ()), rules, engine)


def test_the_example_runs() -> None:
    assert doctest.testmod(zerosearch_env.envs.session).failed == 0


# Answers of models that call tools


class SlowJudge:
    """A reward that waits for a server."""

    waits = True

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def __call__(self, prediction: str | None, answers: Sequence[str]) -> float:
        self.threads.append(threading.current_thread())
        return 0.5


def test_an_answer_is_confirmed_without_its_score() -> None:
    session = start()
    with pytest.raises(EpisodeError, match="The answer is empty"):
        session.answer_text(" ")
    assert session.answer_text("Geneva") == "The answer has been recorded. Stop here."
    assert session.scores is not None
    assert session.scores.em == 1.0
    with pytest.raises(EpisodeError, match="This question is finished"):
        asyncio.run(session.aanswer_text("Geneva"))


def test_the_event_loop_does_not_wait_for_a_judge() -> None:
    judge = SlowJudge()
    session = start(reward=judge)
    assert asyncio.run(session.aanswer_text("Geneva")) == start().answer_text("Geneva")
    assert session.scores is not None
    assert session.scores.reward == 0.5
    assert judge.threads
    assert threading.current_thread() not in judge.threads
