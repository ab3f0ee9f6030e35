"""Third parties' agents on bad days: state, coroutines, exceptions, exits, hangs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import Cell
from zerosearch_agents.evaluation.store import Store, transcript_path
from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.third_party import CallablePlayer, public_info
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question, StopReason

RULES = make_rules(max_turns=3, top_k=2)


def episodes(count: int = 6) -> list[Episode]:
    return [Episode(Question(f"row-{i}", f"What is {i}?", (str(i),)), RULES, seed=i) for i in range(count)]


def play(agent, count: int = 6, **options) -> list[Episode]:
    played = episodes(count)
    player = CallablePlayer(agent, options=AgentOptions(**{"backoff_s": 0.0, **options}))
    player.play(played, ConstantEngine())
    player.close()
    return played


class Remembers:
    """Answers with the number in the first observation it was ever shown, in its second turn."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.messages: list[str] = []

    def __call__(self, observation: str, info) -> str:
        self.messages.append(info["question"])
        time.sleep(0.001)
        if len(self.messages) == 1:
            return f"<search>{info['question']}</search>"
        return f"<answer>{self.messages[0][8:-1]}</answer>"


class RemembersAsync(Remembers):
    def __init__(self) -> None:
        asyncio.get_running_loop()  # as an async client would
        super().__init__()

    async def __call__(self, observation: str, info) -> str:
        await asyncio.sleep(0)
        return super().__call__(observation, info)


async def coroutine(observation: str, info) -> str:
    await asyncio.sleep(0.001)
    return f"<answer>{info['question'][8:-1]}</answer>"


@pytest.mark.parametrize("agent", [Remembers, RemembersAsync, coroutine, lambda o, i: coroutine(o, i)])
@pytest.mark.parametrize("options", [{}, {"concurrency": 4}, {"turn_timeout_s": 5.0}, {"on_error": "retry"}])
def test_sync_and_async_functions_and_classes_keep_their_episodes_apart(agent, options) -> None:
    Remembers.made = RemembersAsync.made = 0
    played = play(agent, **options)
    assert [episode.turns[-1].step.scores.em for episode in played] == [1.0] * 6
    if isinstance(agent, type):
        assert agent.made == 6


def test_coroutines_share_one_loop_from_cell_to_cell() -> None:
    loops = set()

    async def agent(observation: str, info) -> str:
        loops.add(asyncio.get_running_loop())
        return "<answer>1</answer>"

    player = CallablePlayer(agent, options=AgentOptions(concurrency=3))
    for _ in range(2):
        player.play(episodes(), ConstantEngine())
    player.close()
    assert len(loops) == 1


def failing(cause):
    """An agent that fails once for question 2, in its second turn; `cause` raises, or returns no string."""
    calls: Counter[str] = Counter()

    def agent(observation: str, info):
        calls[info["question"]] += 1
        if not info["searches"]:
            return f"<search>{info['question']}</search>"
        if info["question"] == "What is 2?" and calls[info["question"]] == 2:
            return cause()
        return f"<answer>{info['question'][8:-1]}</answer>"

    return agent, calls


async def async_exit():
    sys.exit("bye")


async def cancelled():
    raise asyncio.CancelledError


FAILURES = {
    "exception": lambda: 1 / 0,
    "exit": lambda: sys.exit(0),
    "async exit": async_exit,
    "cancelled": cancelled,
    "no text": lambda: None,
    "hangs": lambda: time.sleep(0.5),
    "hangs in the loop": lambda: asyncio.sleep(30),
}


@pytest.mark.parametrize("cause", FAILURES)
def test_every_failure_is_counted_skipped_or_retried(cause: str) -> None:
    limit = {"turn_timeout_s": 0.1} if "hangs" in cause else {}
    agent, calls = failing(FAILURES[cause])
    with pytest.raises(AgentError, match=r"question 'row-2', turn 2"):
        play(agent, **limit)
    agent, calls = failing(FAILURES[cause])
    played = play(agent, on_error="skip", **limit)
    reasons = [episode.stop_reason for episode in played]
    assert reasons == [StopReason.ANSWER] * 2 + [StopReason.AGENT_ERROR] + [StopReason.ANSWER] * 3
    assert "question 'row-2', turn 2" in played[2].turns[-1].step.error
    assert played[2].turns[0].step.action == "search"
    agent, calls = failing(FAILURES[cause])
    played = play(agent, on_error="retry", **limit)
    assert [episode.stop_reason for episode in played] == [StopReason.ANSWER] * 6
    assert calls == {f"What is {i}?": 3 if i == 2 else 2 for i in range(6)}  # the turn again, not the episode


def test_retries_are_bounded_and_pauses_double(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, pause=None: pauses.append(pause))
    calls = []

    def agent(observation: str, info) -> str:
        calls.append(info["question"])
        raise RuntimeError("429")

    (played,) = play(agent, 1, on_error="retry", backoff_s=1.0)
    assert played.stop_reason is StopReason.AGENT_ERROR
    assert len(calls) == 4
    assert pauses == [1.0, 2.0, 4.0]


def test_a_class_that_failed_starts_again_with_a_new_instance() -> None:
    class Fails(Remembers):
        made = 0

        def __call__(self, observation: str, info) -> str:
            text = super().__call__(observation, info)
            if len(self.messages) == 2 and type(self).made == 1:
                raise RuntimeError("429")
            return text

    (played,) = play(Fails, 1, on_error="retry")
    assert Fails.made == 2
    assert [turn.step.action for turn in played.turns] == ["search", "answer"]
    assert played.searches == 1


@pytest.mark.parametrize("cause", [RuntimeError("no key"), SystemExit(1)])
def test_a_constructor_may_fail_too(cause: BaseException) -> None:
    class Broken:
        def __init__(self) -> None:
            raise cause

        def __call__(self, observation: str, info) -> str:
            return ""

    with pytest.raises(AgentError, match=f"could not be instantiated: {type(cause).__name__}"):
        play(Broken)
    assert {episode.stop_reason for episode in play(Broken, on_error="skip")} == {StopReason.AGENT_ERROR}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"on_error": "ignore"}, "unknown on_agent_error 'ignore'"),
        ({"turn_timeout_s": 0}, "turn_timeout_s must be a finite number of seconds above 0"),
        ({"backoff_s": -1}, "backoff_s"),
    ],
)
def test_options_are_checked(option: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentOptions(**option)


def test_the_id_of_a_question_does_not_lead_to_its_row() -> None:
    infos = [public_info(episode, None) for episode in episodes()]
    assert len({info["question_id"] for info in infos}) == 6
    assert not any("row-" in str(value) for info in infos for value in info.values())
    other_row = Episode(Question("other", "What is 1?", ("a",)), RULES)
    assert public_info(other_row, None)["question_id"] == infos[1]["question_id"]


@settings(max_examples=8, deadline=None)
@given(share=st.floats(0, 1))
def test_wherever_the_journal_was_cut_off_only_the_rest_is_played(share: float) -> None:
    questions = [episode.question for episode in episodes()]
    asked: list[str] = []

    def agent(observation: str, info) -> str:
        asked.append(info["question"])
        return f"<answer>{info['question'][8:-1]}</answer>"

    def measure(folder: Path) -> Cell:
        asked.clear()
        store = Store(folder, {"seed": 0}, {"agent": "x"})
        return evaluate(CallablePlayer(agent), questions, ConstantEngine(), RULES, [0.0], store=store).cells[0]

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole = measure(folder)
        path = transcript_path(folder, whole.key)
        content = path.read_bytes()
        rest = content[: int(share * len(content))]
        path.write_bytes(rest)
        (folder / "results.json").unlink()
        assert measure(folder).episodes == whole.episodes
        lines = content.splitlines()
        kept = len(set(lines) & set(rest.splitlines()))
        assert asked == [question.text for question in questions[kept:]]
        assert path.read_bytes().splitlines() == lines


ISOLATED = """
import gc, os, sys, time
from pathlib import Path


class Agent:
    def __init__(self):
        self.messages = []

    def __call__(self, observation, info):
        self.messages.append(observation)
        if len(self.messages) == 1:
            return f"<search>{info['question']}</search>"
        assert info["documents"][0].title
        return f"<answer>{len(self.messages)} {os.getpid()}</answer>"


def bad(observation, info):
    number = int(info["question"][8:-1])
    if number == 1:
        os._exit(7)
    if number == 2:
        raise KeyError("lost")
    if number == 3:
        time.sleep(60)
    if number == 4:
        return None
    return f"<answer>{number}</answer>"


def once(observation, info):
    if not Path("died").exists():
        Path("died").touch()
        os._exit(7)
    return "<answer>0</answer>"


def thief(observation, info):
    # Everything that this process can reach: its objects, its frames, its command line, its environment.
    objects = gc.get_objects()
    if "torch" in sys.modules:  # not isolated: the question is among the dataclasses, and a look at all takes a minute
        objects = [one for one in objects if hasattr(type(one), "__dataclass_fields__")]
    texts = [repr(sys._getframe().f_back.f_locals), str(sys.argv), str(os.environ), *map(repr, objects)]
    gold = "".join(map(chr, [103, 111, 108, 100, 45]))  # a literal would be found in this very function
    return f"<answer>{sum(gold in text for text in texts)}</answer>"


async def coroutine(observation, info):
    return "<answer>0</answer>"


def one_argument(observation):
    return ""
"""


@pytest.fixture
def isolated_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "isolated_agent.py").write_text(ISOLATED)
    monkeypatch.chdir(tmp_path)
    return "isolated_agent.py"


@pytest.mark.slow
def test_an_isolated_agent_has_its_own_processes_and_instances(isolated_file: str) -> None:
    played = play(f"{isolated_file}:Agent", isolate=True, concurrency=2)
    answers = [episode.turns[-1].step.scores.prediction.split() for episode in played]
    assert {answer[0] for answer in answers} == {"2"}
    assert 1 <= len({pid for _, pid in answers} - {str(os.getpid())}) <= 2
    (played,) = play(f"{isolated_file}:coroutine", 1, isolate=True)
    assert played.turns[-1].step.scores.em == 1.0
    assert "isolated_agent" not in str(sorted(sys.modules))


@pytest.mark.slow
def test_an_isolated_agent_that_dies_or_hangs_fails_alone(isolated_file: str) -> None:
    played = play(f"{isolated_file}:bad", isolate=True, on_error="skip", turn_timeout_s=1.0)
    errors = [episode.turns[-1].step.error for episode in played]
    assert errors[0] is errors[5] is None
    messages = [r"ended \(exit status 7\)", r"KeyError: 'lost' \(isolated_agent.py:\d+\)", "within 1 s", "got NoneType"]
    for error, message in zip(errors[1:5], messages, strict=True):
        assert re.search(message, error)
    (played,) = play(f"{isolated_file}:once", 1, isolate=True, on_error="retry")
    assert played.turns[-1].step.scores.em == 1.0


@pytest.mark.slow
def test_gold_answers_do_not_enter_the_process_of_an_agent(isolated_file: str) -> None:
    for isolate, found in ((True, "0"), (False, "1")):
        episode = Episode(Question("row-0", "What?", ("gold-answer",)), RULES)
        player = CallablePlayer(f"{isolated_file}:thief", options=AgentOptions(isolate=isolate))
        player.play([episode], ConstantEngine())
        player.close()
        assert min("1", str(episode.turns[-1].step.scores.prediction)) == found


@pytest.mark.slow
def test_an_isolated_agent_is_checked_when_it_is_loaded(isolated_file: str) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'Agent'"):
        CallablePlayer(f"{isolated_file}:Agnt", options=AgentOptions(isolate=True))
    with pytest.raises(ConfigError, match=r"must take \(observation, info\)"):
        play(f"{isolated_file}:one_argument", isolate=True)


def test_only_an_agent_with_a_place_can_be_isolated() -> None:
    with pytest.raises(ConfigError, match="isolate needs an agent given as module:callable"):
        CallablePlayer(Remembers, options=AgentOptions(isolate=True))


@pytest.mark.slow
def test_an_evaluation_that_was_killed_plays_no_finished_episode_again(tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(
        "import os, signal\n\n\ndef agent(observation, info):\n"
        "    with open('asked', 'a') as file:\n        print(info['question'], file=file)\n"
        "    if len(open('asked').readlines()) == 7:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return '<answer>x</answer>'\n"
    )
    command = [sys.executable, "-m", "zerosearch_env.cli", "eval", "--agent", "killer.py:agent", "--output", "out"]
    command += ["--world.passages", "400", "--questions", "5", "--noise", "0", "1"]
    runs = [subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode for _ in range(2)]
    assert runs == [-signal.SIGKILL, 0]
    asked = Counter((tmp_path / "asked").read_text().splitlines())
    assert sorted(asked.values()) == [2, 2, 2, 2, 3]  # once per level; the episode that was killed, again


def test_an_agent_that_cannot_stop_does_not_read_what_it_made_up() -> None:
    infos: list[dict] = []
    turns = ["<search>a</search>", "<search>b</search>", "<answer>c</answer>"]

    def agent(_, info) -> str:
        infos.append(info)
        return turns[info["turn"]] + "\n<information>Doc 1: made up</information>"

    (episode,) = play(agent, count=1)
    assert [info.get("turn_text") for info in infos] == [None, *turns[:2]]
    assert not any("made up" in info["transcript"] for info in infos)
    assert "made up" not in episode.text
    assert all(turn.action_text.endswith("made up</information>") for turn in episode.turns)
