from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pid_player import PidOptions, PidPlayer
from tiny import tiny_dataset, tiny_policy

from zerosearch_agents.players.base import AgentOptions, Player, PolicyOptions
from zerosearch_agents.players.identity import player_identity
from zerosearch_agents.players.make import make_player
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.players.third_party import CallablePlayer, public_info
from zerosearch_agents.policy.policy import save_policy
from zerosearch_agents.processes.pool import WorkerPool, replay
from zerosearch_env.engines import ConstantEngine, CorpusEngine, FailingEngine
from zerosearch_env.errors import AgentError, CheckpointError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.progress import WORK
from zerosearch_env.randomness import mix
from zerosearch_env.records.transcripts import transcript_record
from zerosearch_env.types import Question, SearchRequest, Step, StopReason

RULES = make_rules(max_turns=3, top_k=2)
OPTIONS = PolicyOptions("unused")


def episodes(count: int = 4, level: float = 0.5, rules=RULES) -> list[Episode]:
    questions = tiny_dataset().questions[:count]
    return [Episode(q, rules, noise_level=level, seed=mix(0, i)) for i, q in enumerate(questions)]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tiny_policy(), tmp_path_factory.mktemp("players") / "policy")


@pytest.fixture
def engine() -> CorpusEngine:
    return CorpusEngine(tiny_dataset().passages)


# third parties' agents


def search_then_answer(observation: str, info) -> str:
    if info["turn"] == 0:
        return f"<search>{info['question']}</search>"
    return "<answer>k</answer>"


def test_a_function_plays_and_is_told_no_more_than_a_policy_sees(engine: CorpusEngine) -> None:
    seen: list[tuple[str, dict]] = []

    def agent(observation: str, info) -> str:
        seen.append((observation, dict(info)))
        return search_then_answer(observation, info)

    played = episodes()
    done: list[int] = []
    CallablePlayer(agent).play(played, engine, done.append)
    assert done == list(range(len(played)))
    assert all(e.stop_reason is StopReason.ANSWER and e.searches == 1 for e in played)
    first, second = seen[0], seen[1]
    assert first[0] == played[0].prompt == first[1]["transcript"]
    assert second[0] == played[0].turns[0].step.observation
    assert second[1]["transcript"] == played[0].prompt + played[0].turns[0].action_text + second[0]
    assert second[1]["query"] == played[0].question.text
    assert [d.title for d in second[1]["documents"]] == [d.title for d in played[0].turns[0].step.documents]
    for _, info in seen:
        assert not {"noisy", "answer_in_documents", "noise_level", "answers", "em", "f1", "progress"} & set(info)
        assert all(d.score is None and d.source == "" for d in info.get("documents", ()))


def test_public_info_is_a_copy_and_says_when_only_an_answer_is_allowed() -> None:
    episode = Episode(Question("q", "Who?", ("a",)), make_rules(max_turns=1))
    assert public_info(episode, None)["last_turn"] is False
    request = episode.advance("<search>who</search>")
    assert isinstance(request, SearchRequest)
    step = episode.observe(ConstantEngine().search([request])[0])
    info = public_info(episode, step)
    assert info["last_turn"] is True
    assert info["searches"] == 1
    info["documents"] = None
    assert public_info(episode, step)["documents"]


def test_threads_change_no_result(engine: CorpusEngine) -> None:
    alone, together = episodes(8), episodes(8)
    CallablePlayer(search_then_answer).play(alone, engine)
    CallablePlayer(search_then_answer, options=AgentOptions(concurrency=4)).play(together, engine)
    assert [transcript_record(e) for e in alone] == [transcript_record(e) for e in together]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_error_names_question_and_turn_and_keeps_what_is_done(engine: CorpusEngine, concurrency: int) -> None:
    def agent(observation: str, info) -> str:
        if info["question"] == "letter 2" and info["turn"] == 1:
            raise KeyError("lost")
        return search_then_answer(observation, info)

    done: list[str] = []
    with pytest.raises(AgentError, match=r"question 'q2', turn 2: KeyError: 'lost' \(test_players.py:\d+\)") as caught:
        CallablePlayer(agent, options=AgentOptions(concurrency=concurrency)).play(
            episodes(), engine, lambda position: done.append(f"q{position}")
        )
    assert isinstance(caught.value.__cause__, KeyError)
    if concurrency == 1:
        assert done == ["q0", "q1"]
    assert "q2" not in done


def test_a_wrong_return_type_is_an_error(engine: CorpusEngine) -> None:
    with pytest.raises(AgentError, match=r"question 'q0', turn 1: expected the text of one turn \(str\), got dict"):
        CallablePlayer(lambda observation, info: {"action": "x"}).play(episodes(), engine)


def test_unusable_callables_are_refused_before_they_play(engine: CorpusEngine) -> None:
    class NotCallable:
        pass

    for agent, message in (
        (lambda observation: "", r"must take \(observation, info\)"),
        (NotCallable, "define __call__"),
    ):
        with pytest.raises(ConfigError, match=message):
            CallablePlayer(agent).play(episodes(1), engine)


def test_an_engine_failure_ends_the_episode_not_the_run() -> None:
    played = episodes()
    CallablePlayer(search_then_answer).play(played, FailingEngine("down", after=1))
    assert [e.stop_reason for e in played] == [StopReason.ANSWER, *[StopReason.ENGINE_ERROR] * 3]


# finding players by their description


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_own_agent.py").write_text(
        "def answer(observation, info):\n    return '<answer>a</answer>'\n\n\n"
        "class Nested:\n    answer = answer\n\n\nVALUE = 3\n"
    )
    (tmp_path / "broken_agent.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    yield "my_own_agent"
    for name in ("my_own_agent", "broken_agent"):
        __import__("sys").modules.pop(name, None)


@pytest.mark.parametrize("spec", ["my_own_agent:answer", "my_own_agent.py:answer", "my_own_agent:Nested.answer"])
def test_module_callable_is_found(module: str, spec: str, engine: CorpusEngine) -> None:
    player = make_player(f"mine={spec}", policy=OPTIONS)
    assert isinstance(player, Player)
    assert player.name == "mine"
    played = episodes(1)
    player.play(played, engine)
    assert played[0].done
    assert make_player(spec, policy=OPTIONS).name == spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_own_agnt:answer", "no module 'my_own_agnt'. Did you mean 'my_own_agent'"),
        ("my_own_agent:anwser", "has no 'anwser'. Did you mean 'answer'"),
        ("my_own_agent.py:anwser", "has no 'anwser'. Did you mean 'answer'"),
        ("my_own_agnt.py:answer", "no file 'my_own_agnt.py'. Did you mean 'my_own_agent.py'"),
        ("my_own_agent:zzz", "has no 'zzz'. It has "),
        ("my_own_agent.py", "is a file: name its function or class too, for example my_own_agent.py:agent"),
        ("my_own_agent:VALUE", "expected a callable, got int"),
        ("my_own_agent:", "expected module:name or file.py:name"),
        ("broken_agent:answer", "importing it failed: No module named 'no_such_library'"),
        ("baseline:rga", "unknown baseline 'rga'. Did you mean 'rag'"),
        ("rag", "Did you mean 'baseline:rag'"),
        ("nowhere/run/policy", "not a directory. Expected a policy directory"),
    ],
)
def test_wrong_descriptions_name_the_nearest_right_one(module: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_player(spec, policy=OPTIONS)
    assert message in str(caught.value)


def test_a_wrong_directory_names_the_nearest_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "quickstart" / "policy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'runs/quickstart'\?"):
        make_player("runs/quickstrat/policy", policy=OPTIONS)


def test_the_fingerprint_follows_the_source(module: str, policy_folder: Path) -> None:
    first = player_identity(make_player("my_own_agent.py:answer", policy=OPTIONS))
    assert first == player_identity(make_player("my_own_agent.py:answer", policy=OPTIONS))
    with Path("my_own_agent.py").open("a") as file:
        file.write("# changed\n")
    assert first != player_identity(make_player("my_own_agent.py:answer", policy=OPTIONS))
    policy = player_identity(PolicyPlayer(policy_folder))
    assert policy == player_identity(PolicyPlayer(PolicyOptions(str(policy_folder), slots=3)))
    assert policy != player_identity(PolicyPlayer(PolicyOptions(str(policy_folder), temperature=0.5)))


# policies


def test_a_policy_plays_by_its_own_card(policy_folder: Path, engine: CorpusEngine) -> None:
    player = make_player(str(policy_folder), policy=OPTIONS)
    rules = player.rules_for(RULES)
    assert rules.prompt_template == "{question}\n"
    assert rules.max_turns == RULES.max_turns
    played = episodes(8, rules=rules)
    done: list[int] = []
    player.play(played, engine, done.append)
    assert sorted(done) == list(range(8))
    assert all(e.done for e in played)


@pytest.mark.slow
def test_results_do_not_depend_on_slots_or_processes(
    policy_folder: Path, engine: CorpusEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    records, counted = [], []
    with WorkerPool(2) as pool:
        for options, workers in (
            (PolicyOptions(str(policy_folder), temperature=1.0, slots=64), None),
            (PolicyOptions(str(policy_folder), temperature=1.0, slots=3), None),
            (PolicyOptions(str(policy_folder), temperature=1.0), pool),
        ):
            player = PolicyPlayer(options, pool=workers)
            played = episodes(8, rules=player.rules_for(RULES))
            done: list[int] = []
            before = WORK.total()
            player.play(played, engine, done.append)
            assert len(done) == 8
            counted.append([now - then for now, then in zip(WORK.total(), before, strict=True)])
            records.append([transcript_record(e) for e in played])
        assert any(e["turns"][0]["documents"] for e in records[0])
        failing = episodes(4, rules=player.rules_for(RULES))
        PolicyPlayer(PolicyOptions(str(policy_folder)), pool=pool).play(failing, FailingEngine("down"))
        with pytest.raises(CheckpointError, match="no policy directory"):
            PolicyPlayer(policy_folder / "none", pool=pool).play(episodes(2), engine)
    assert capfd.readouterr().err == ""  # the second process to fail finds its pipe closed
    assert counted[0] == counted[1] == counted[2]  # turns and tokens, for the display of progress
    assert counted[0][0] == sum(len(record["turns"]) for record in records[0]) < counted[0][1]
    assert records[0] == records[1]
    # A replayed search has the same documents; how long the engine took is no part of a transcript.
    assert json.dumps(records[0]) == json.dumps(records[2])
    assert all(e.done for e in failing)


@pytest.mark.usefixtures("real_start")
def test_a_process_is_spawned_with_one_thread(engine: CorpusEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    played = episodes()
    with WorkerPool(1) as pool:
        pool.play(PidPlayer, PidOptions(), played, engine)
        answers = [episode.turns[0].action_text.split()[1:-1] for episode in played]
        pids, parents, threads = zip(*answers, strict=True)
        assert len(set(pids)) == 1
        assert (set(parents), set(threads)) == ({str(os.getpid())}, {"1"})
        assert os.environ["OMP_NUM_THREADS"] == "3"
        with pytest.raises(AgentError, match=r"a worker process died \(exit code 7\)"):
            pool.play(PidPlayer, PidOptions(exit_status=7), episodes(), engine)
        assert pool._processes == []


class Unpicklable(ConstantEngine):
    def __reduce__(self):
        raise TypeError("has a socket")


def test_an_engine_that_cannot_be_sent_starts_no_process(policy_folder: Path) -> None:
    pool = WorkerPool(2)
    with pytest.raises(ConfigError, match="the search engine cannot be sent to worker processes"):
        PolicyPlayer(policy_folder, pool=pool).play(episodes(4), Unpicklable())
    assert pool._processes == []


def test_a_replay_that_differs_is_an_error(engine: CorpusEngine) -> None:
    (played,) = episodes(1)
    CallablePlayer(search_then_answer).play([played], engine)
    (again,) = episodes(1)
    replay(again, played.turns)
    assert again.turns == played.turns
    (other,) = episodes(1, level=0.0)
    noisy = Step(**{s: getattr(played.turns[0].step, s) for s in Step.__slots__} | {"noisy": True})
    with pytest.raises(RuntimeError, match="recorded"):
        replay(other, [type(played.turns[0])(played.turns[0].action_text, noisy)])


def test_the_pool_needs_a_process() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        WorkerPool(0)
