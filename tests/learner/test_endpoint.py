"""A model behind an endpoint as a player, on servers that do what servers do to a model's text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.commands.evaluate import main
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.base import AgentOptions, PolicyOptions
from zerosearch_agents.players.endpoint import EndpointPlayer, shown_thought, with_stop_string
from zerosearch_agents.players.identity import player_identity
from zerosearch_agents.players.make import make_player
from zerosearch_agents.players.options import PlayConfig
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.llm.backend import Completion
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.types import Question, StopReason

RULES = make_rules(max_turns=2, top_k=1)
SEARCH, ANSWER = "I look. <search>who</search>", "<answer>Ann</answer>"
MODELS = Reply({"data": [{"id": "m", "root": "org/m", "created": 1}]})

Write = Callable[[Call], "str | dict[str, Any] | Reply"]


def two_turns(call: Call) -> str:
    """Searches, then answers."""
    messages = call.body.get("messages")
    first = call.body["prompt"].count("<information>") < 2 if messages is None else len(messages) < 3
    return SEARCH if first else ANSWER


@contextlib.contextmanager
def server(write: Write = two_turns, *, models: Reply = MODELS, cut: bool = True) -> Iterator[tuple[str, list[Call]]]:
    """A server that cuts stop strings off, as most do; its address, and the requests for completions."""
    calls: list[Call] = []

    async def handler(call: Call) -> Reply:
        if call.method == "GET":
            return models
        asked = call.body.get("messages", [{"content": call.body.get("prompt")}])
        if asked[-1]["content"] == "Hello":
            return Reply({"choices": [{"text": "Hi", "message": {"content": "Hi"}}]})
        calls.append(call)
        written = write(call)
        if isinstance(written, Reply):
            return written
        message = written if isinstance(written, dict) else {"content": written}
        text = message["content"] or ""
        for stop in call.body.get("stop", []) if cut else []:
            text = text.partition(stop)[0]
        choice = {"text": text, "message": {**message, "content": text}, "finish_reason": "stop"}
        return Reply({"choices": [choice]})

    with ServerThread(handler) as thread:
        yield thread.url, calls


def episodes(count: int = 1, rules: Rules = RULES) -> list[Episode]:
    return [Episode(Question(f"q{i}", f"Who is {i}?", ("Ann",)), rules, seed=i) for i in range(count)]


def make(url: str, spec: str = "", **options: Any) -> EndpointPlayer:
    third_party = AgentOptions(**{"backoff_s": 0.0, **options})
    player = make_player(f"it=openai:{url}{spec}", policy=PolicyOptions("tiny"), third_party=third_party)
    assert isinstance(player, EndpointPlayer)
    return player


def play(url: str, spec: str = "", count: int = 1, rules: Rules = RULES, **options: Any) -> list[Episode]:
    player = make(url, spec, **options)
    played = episodes(count, player.rules_for(rules))
    with contextlib.closing(player):
        player.play(played, ConstantEngine())
    return played


def test_a_conversation_keeps_its_roles() -> None:
    with server() as (url, calls):
        (episode,) = play(url, ",system=Be brief.,turn_tokens=64,temperature=0.7")
    assert [turn.action_text for turn in episode.turns] == [SEARCH, ANSWER]
    assert (episode.stop_reason, episode.scores.em) == (StopReason.ANSWER, 1.0)
    first, second = (call.body for call in calls)
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": episode.prompt},
    ]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": SEARCH},
        {"role": "user", "content": episode.turns[0].step.observation.strip()},
    ]
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("m", 64, 0.7)
    assert first["stop"] == ["</search>", "</answer>"]
    assert first["seed"] != second["seed"]


def test_what_follows_an_action_is_not_sent_back() -> None:
    with server(lambda call: SEARCH + " <information>made up</information>", cut=False) as (url, calls):
        (episode,) = play(url)
    assert episode.turns[0].action_text.endswith("made up</information>")
    assert calls[1].body["messages"][1] == {"role": "assistant", "content": SEARCH}


def test_without_chat_the_transcript_is_one_text() -> None:
    with server() as (url, calls):
        (episode,) = play(url, ",chat=off")
    assert [call.path for call in calls] == ["/v1/completions"] * 2
    assert calls[0].body["prompt"] == episode.prompt
    assert calls[1].body["prompt"] == episode.prompt + SEARCH + episode.turns[0].step.observation
    assert episode.scores.em == 1.0


def test_tools_are_described_by_the_instruction_and_results_are_user_messages() -> None:
    hermes = make_rules(protocol="hermes", max_turns=2, top_k=1)
    call_text = hermes.protocol.render_search("who")
    with server(lambda call: call_text if len(call.body["messages"]) == 1 else r"\boxed{Ann}") as (url, calls):
        (episode,) = play(url, rules=hermes)
    assert "tools" not in calls[0].body
    assert [message["role"] for message in calls[1].body["messages"]] == ["user", "assistant", "user"]
    assert calls[1].body["messages"][2]["content"].startswith("<tool_response>")
    assert episode.scores.em == 1.0


def test_the_prompt_of_a_row_keeps_its_roles() -> None:
    prompt = ({"role": "system", "content": "Be exact."}, {"role": "user", "content": "Who is 0?"})
    rules = make_rules(prompt_template="dataset", max_turns=2, top_k=1)
    with server(lambda call: ANSWER) as (url, calls):
        player = make(url, ",system=not used")
        player.play([Episode(Question("q", "Who is 0?", ("Ann",), prompt=prompt), rules)], ConstantEngine())
        player.close()
    assert calls[0].body["messages"] == list(prompt)


# what servers do to a text


@pytest.mark.parametrize(
    ("protocol", "done", "text"),
    [
        ("zerosearch", Completion("a <search>q"), "a <search>q</search>"),
        ("zerosearch", Completion("a <answer>q"), "a <answer>q</answer>"),
        ("zerosearch", Completion("a <search>q</search>"), "a <search>q</search>"),
        ("zerosearch", Completion("a <search>q", truncated=True), "a <search>q"),
        ("zerosearch", Completion("no tag"), "no tag"),
        ("zerosearch", Completion(""), ""),
        ("zerosearch", Completion("no tag", stop="</search>"), "no tag</search>"),
        ("zerosearch", Completion("<search>a <answer>b"), "<search>a <answer>b</answer>"),
        ("zerosearch", Completion("<answer>a <search>b"), "<answer>a <search>b</search>"),
        ("zerosearch", Completion("<search>a <answer>b", stop="</search>"), "<search>a <answer>b</search>"),
        ("research", Completion(r"<answer>\boxed{x}</answer>"), r"<answer>\boxed{x}</answer>"),
        ("research", Completion("<search>q"), "<search>q</search>"),
        ("r1-searcher", Completion("<|begin_of_query|>q"), "<|begin_of_query|>q<|end_of_query|>"),
        ("hermes", Completion("<tool_call>"), "<tool_call>"),
    ],
)
def test_the_stop_string_that_a_server_cut_off(protocol: str, done: Completion, text: str) -> None:
    assert with_stop_string(done, PROTOCOLS[protocol]) == text


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PROTOCOLS)), st.booleans(), st.text("ab <>/", max_size=12), st.text("ab ", min_size=1))
def test_every_rendered_action_comes_back(name: str, search: bool, before: str, content: str) -> None:
    protocol = PROTOCOLS[name]
    turn = before + (protocol.render_search if search else protocol.render_answer)(content)
    ends = [turn.find(stop) for stop in protocol.stop_strings if stop in turn]
    cut = Completion(turn[: min(ends)] if ends else turn)
    restored = with_stop_string(cut, protocol)
    assert protocol.parse(restored) == protocol.parse(turn)
    assert with_stop_string(Completion(restored), protocol) == restored


def test_a_thought_that_is_returned_apart_is_kept_and_does_not_act() -> None:
    def thinks(call: Call) -> dict[str, Any]:
        return {"content": two_turns(call), "reasoning_content": "Maybe <answer>Bob</answer>?</think>"}

    with server(thinks) as (url, calls):
        (episode,) = play(url)
    thought = "<think>\nMaybe [answer]Bob[/answer]?[/think]\n</think>\n\n"
    assert [turn.action_text for turn in episode.turns] == [thought + SEARCH, thought + ANSWER]
    assert calls[1].body["messages"][1] == {"role": "assistant", "content": SEARCH}
    assert episode.scores.em == 1.0


def test_a_long_thought_does_not_end_the_episode() -> None:
    assert shown_thought("", 100) == ""
    assert shown_thought("x" * 99, 60) == "<think>\n" + "x" * 41 + "\n</think>\n\n"
    rules = make_rules(max_turns=2, top_k=1, max_action_chars=200)
    with server(lambda call: {"content": two_turns(call), "reasoning": "x" * 1000}) as (url, _):
        (episode,) = play(url, rules=rules)
    assert episode.stop_reason == StopReason.ANSWER


def test_an_empty_answer_is_an_invalid_turn() -> None:
    with server(lambda call: {"content": None}) as (url, calls):
        (episode,) = play(url)
    assert [turn.step.action for turn in episode.turns] == ["invalid"] * 3
    assert episode.stop_reason == StopReason.MAX_TURNS
    assert calls[1].body["messages"][1] == {"role": "assistant", "content": ""}


def test_a_conversation_that_outgrows_the_context_ends_its_episode() -> None:
    full = Reply({"error": {"message": "This model's maximum context length is 4096 tokens."}}, 400)
    with server(lambda call: SEARCH if len(call.body["messages"]) == 1 else full) as (url, _):
        (episode,) = play(url)
    assert (episode.stop_reason, len(episode.turns)) == (StopReason.CONTEXT_LIMIT, 2)
    error = r"agent 'it', question 'q0', turn 1: .*maximum context length"
    with server(lambda call: full) as (url, _), pytest.raises(AgentError, match=error):
        play(url)


def test_an_episode_ends_at_its_own_number_of_tokens() -> None:
    def counted(call: Call) -> Reply:
        usage = {"prompt_tokens": 40 * len(call.body["messages"]), "completion_tokens": 10}
        return Reply({"choices": [{"message": {"content": SEARCH}}], "usage": usage})

    rules = make_rules(max_turns=9, top_k=1)
    with server(counted) as (url, calls):
        (episode,) = play(url, ",context_tokens=130", rules=rules)
    assert (episode.stop_reason, len(calls)) == (StopReason.CONTEXT_LIMIT, 2)


def test_tokens_are_summed_per_cell(tmp_path: Path) -> None:
    def counted(call: Call) -> Reply:
        usage = {"prompt_tokens": 100 * len(call.body["messages"]), "completion_tokens": 7}
        return Reply({"choices": [{"message": {"content": two_turns(call)}}], "usage": usage})

    questions = [episode.question for episode in episodes(3)]
    with server(counted) as (url, _), contextlib.closing(make(url)) as player:
        store = Store(tmp_path, {})
        evaluate(player, questions, ConstantEngine(), RULES, (0.0,), store=store)
    (cell,) = load_evaluation(tmp_path).cells
    assert [(e.tokens_read, e.tokens_written) for e in cell.episodes] == [(400, 14)] * 3
    assert (cell.summary().tokens_read, cell.summary().tokens_written) == (1200, 42)
    with server() as (url, _), contextlib.closing(make(url)) as player:
        (cell,) = evaluate(player, questions, ConstantEngine(), RULES, (0.0,)).cells
    assert cell.summary().tokens_read is None
    assert "tokens_read" not in cell.summary().as_dict()


# failures


def test_a_server_that_is_busy_for_a_while_is_asked_again() -> None:
    replies = iter([Reply({"error": "busy"}, 429, {"Retry-After": "0"})] * 9)
    with server(lambda call: next(replies, None) or two_turns(call)) as (url, calls):
        (episode,) = play(url)
    assert (episode.scores.em, len(calls)) == (1.0, 11)


@pytest.mark.parametrize(("on_error", "reason"), [("skip", StopReason.AGENT_ERROR), ("retry", StopReason.ANSWER)])
def test_a_server_that_is_busy_for_too_long_fails_the_turn(on_error: str, reason: StopReason) -> None:
    busy = iter([Reply({"error": "busy"}, 429, {"Retry-After": "9"})])
    with server(lambda call: next(busy, None) or two_turns(call)) as (url, _):
        (episode,) = play(url, on_error=on_error, turn_timeout_s=5)
    assert episode.stop_reason == reason
    if reason == StopReason.AGENT_ERROR:
        assert '429: {"error": "busy"}' in episode.turns[-1].step.error


def test_a_server_that_never_answers_fails_the_turn() -> None:
    async def handler(call: Call) -> Reply:
        if call.method == "POST" and call.body["messages"][-1]["content"] != "Hello":
            await asyncio.sleep(30)
        return MODELS if call.method == "GET" else Reply({"choices": [{"message": {"content": "Hi"}}]})

    with ServerThread(handler) as thread:
        (episode,) = play(thread.url, on_error="skip", turn_timeout_s=0.3)
    assert episode.stop_reason == StopReason.AGENT_ERROR
    assert "limits: 20 attempts, 0.3 s" in episode.turns[-1].step.error


def test_a_failure_that_stops_does_not_wait_for_the_other_turns() -> None:
    async def handler(call: Call) -> Reply:
        if call.method == "GET":
            return MODELS
        if "Who is 1?" not in call.body["messages"][-1]["content"]:
            await asyncio.sleep(30)
        return Reply({"choices": []})

    with ServerThread(handler) as thread, contextlib.closing(make(f"{thread.url}#m")) as player:
        began = time.monotonic()
        with pytest.raises(AgentError, match="question 'q1', turn 1"):
            player.play(episodes(4), ConstantEngine())
        assert time.monotonic() - began < 20


def test_a_failure_stops_by_default_and_names_the_turn() -> None:
    def breaks(call: Call) -> str | Reply:
        return SEARCH if len(call.body["messages"]) == 1 else Reply({"choices": []})

    error = r"agent 'it', question 'q0', turn 2: .*expected choices\[0\].message"
    with server(breaks) as (url, _), pytest.raises(AgentError, match=error):
        play(url)


def test_a_server_without_the_model_is_an_error_before_anything_is_played() -> None:
    async def handler(call: Call) -> Reply:
        return MODELS if call.method == "GET" else Reply({"error": "no model 'other'"}, 404)

    def start(url: str) -> None:
        with contextlib.ExitStack() as stack:
            PlayConfig(workers=1).make_players([f"x=openai:{url}#other"], stack)

    with ServerThread(handler) as thread:
        error = r"agent 'x': .*no model 'other'.*The server lists the models m\."
        with pytest.raises(ConfigError, match=error):
            start(thread.url)
    with pytest.raises(ConfigError, match="agent 'x': no model can be asked at http"):
        start(thread.url)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai:", "at least one address"),
        ("openai:127.0.0.1:8000", "expected an address such as http"),
        ("openai:http://h/v1,tools=off", "tools is not an option of openai"),
        ("openai:http://h/v1,max_observation_tokens=9", "max_observation_tokens is not an option of openai"),
        ("openai:http://h/v1,chat=off,system=Be brief.", "needs chat = true"),
        ("openai:http://h/v1,api_key_env=NO_SUCH_KEY", "NO_SUCH_KEY with the API key is not set"),
        ("openai:http://h/v1,protocol=zerosaerch", "Did you mean 'zerosearch'"),
    ],
)
def test_wrong_options(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_player(spec, policy=PolicyOptions("tiny")).rules_for(RULES)


# identity, notes, cache, concurrency


def test_the_identity_is_the_model_and_not_the_address() -> None:
    def identity(url: str, spec: str = "") -> dict[str, str]:
        with contextlib.closing(make(url, spec)) as player:
            return player_identity(player)

    other = Reply({"data": [{"id": "m", "root": "org/m-v2"}]})
    with server() as (url, _), server() as (again, _), server(models=other) as (changed, _):
        first = identity(url)
        assert first == identity(again) == identity(f"{url},{again}")
        assert {name for name, value in identity(changed).items() if value != first[name]} == {
            "the model of the agent it"
        }
        assert first["the model of the agent it"] == '{"id": "m", "root": "org/m"}'
        assert identity(url, ",temperature=1") != first
        assert identity(url, ",system=Be brief.") != first


@pytest.mark.slow
def test_an_evaluation_is_continued_unless_the_model_is_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(url: str) -> list[str]:
        world = ["--world.passages", "400", "--questions", "2", "--noise", "0", "--workers", "1"]
        return ["--agent", f"it=openai:{url}", *world, "--output", str(tmp_path)]

    with server() as (url, calls):
        assert main(command(url)) == 0
        asked = len(calls)
        assert main(command(url)) == 0
        assert len(calls) == asked > 0
        assert "from an earlier run" in capsys.readouterr().out
    with server(models=Reply({"data": [{"id": "m", "root": "org/m-v2"}]})) as (other, more):
        assert main(command(other)) == 0
    assert len(more) == asked
    assert "the model of the agent it" in capsys.readouterr().out


def test_a_note_says_how_the_model_is_asked() -> None:
    policy = PolicyOptions("tiny", format=(("tools", False),))
    with server() as (url, _):
        player = make_player(f"it=openai:{url}", policy=policy)
        notes = player.notes(RULES)
        player.close()
    assert notes == [
        "it: the chat API of model 'm', protocol 'zerosearch', 2 turns that may search, 1 documents, 500 tokens per "
        "turn.",
        "it: tools has no effect on a model behind an endpoint.",
    ]


def test_a_cache_spares_the_same_turn(tmp_path: Path) -> None:
    spec = f",cache={tmp_path / 'turns.sqlite'}"
    with server() as (url, calls), server() as (other, more):
        first, again = play(url, spec, count=2), play(other, spec, count=2)
        assert [e.text for e in first] == [e.text for e in again]
        assert (len(calls), len(more)) == (4, 0)
        play(other, spec + ",temperature=1", count=2)
        assert len(more) == 4


def test_sixteen_episodes_are_played_at_once() -> None:
    waiting: list[asyncio.Event] = []

    async def handler(call: Call) -> Reply:
        if call.method == "GET":
            return MODELS
        waiting.append(asyncio.Event())
        if len(waiting) == 16:
            for event in waiting:
                event.set()
        await asyncio.wait_for(waiting[-1].wait(), 10)
        return Reply({"choices": [{"message": {"content": ANSWER}}]})

    with ServerThread(handler) as thread:
        played = play(thread.url + "#m", count=16)
    assert [episode.scores.em for episode in played] == [1.0] * 16
