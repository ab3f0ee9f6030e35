"""Turns that search several times, read pages again, or make calls that cannot be carried out: in every shell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env import ConstantEngine, make_rules, plain
from zerosearch_env.engines.run import observe_searches
from zerosearch_env.envs.session import Session
from zerosearch_env.errors import ConfigError, EpisodeError
from zerosearch_env.game.episode import Episode
from zerosearch_env.protocols import get_protocol
from zerosearch_env.records.html import render_html
from zerosearch_env.records.terminal import render_ansi
from zerosearch_env.records.transcripts import noisy_flags, transcript_record
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult, Step, StopReason

QUESTION = Question("q", "Where was Ann Lee born?", ("Geneva",))
LEE = Document("Ann Lee", "Ann Lee was born\nin Geneva.", "https://x.org/lee")
ROW = [{"question": QUESTION.text, "answers": ["Geneva"]}]


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


TWO = call("search", query="Ann Lee") + "\n" + call("search", query=["Geneva", "Bern"])
"""Three searches in one turn of `hermes`."""
READ = "<think>r</think>" + call("browse_webpage", url_list=["https://x.org/lee", "elsewhere"])


def web(*queries: str) -> str:
    return "<think>t</think>" + call("web_search", query=queries)


def start(name: str = "hermes", noise_level: float = 0.0, seed: int = 0, **options: object) -> Episode:
    return Episode(QUESTION, make_rules(protocol=name, **options), noise_level=noise_level, seed=seed)  # type: ignore[arg-type]


def requests(episode: Episode, text: str) -> tuple[SearchRequest, ...]:
    outcome = episode.advance(text)
    assert not isinstance(outcome, Step)
    assert episode.requests == (outcome if isinstance(outcome, tuple) else (outcome,))
    return episode.requests


class RecordingEngine(ConstantEngine):
    """A document that names its query for each request; counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        self.calls.append(len(requests))
        return [SearchResult((Document(r.query, f"about {r.query}", f"p:{r.query}"),)) for r in requests]


# The rules


def test_each_query_is_a_search_of_its_own() -> None:
    episode = start()
    asked = requests(episode, TWO)
    assert [request.query for request in asked] == ["Ann Lee", "Geneva", "Bern"]
    assert len({request.seed for request in asked}) == episode.searches == 3
    step = episode.observe([SearchResult((LEE,)), SearchResult(()), SearchResult((LEE, LEE))])
    assert (step.action, step.turn, step.query) == ("search", 1, "Ann Lee; Geneva; Bern")
    assert step.queries == ("Ann Lee", "Geneva", "Bern")
    assert step.groups == ((LEE,), (), (LEE, LEE))
    assert step.documents == (LEE, LEE, LEE)
    assert step.answer_in_documents is True
    assert step.noise_flags == (False, False, False)
    assert step.noisy is False


def test_the_reply_of_hermes_is_that_of_recall() -> None:
    episode = start()
    requests(episode, "<think>hm</think>\n" + TWO)
    step = episode.observe([SearchResult((LEE,)), SearchResult(()), SearchResult((LEE, Document("", "No title.")))])
    first, second = '{"name": "search", "arguments": {"query": "Ann Lee"}}', '"query": ["Geneva", "Bern"]}}'
    passage = '"Ann Lee"\nAnn Lee was born\nin Geneva.'
    assert step.observation == (
        f"\n<tool_response>{first}\nresult: \n{passage}\n</tool_response>\n"
        f'<tool_response>{{"name": "search", "arguments": {{{second}\nresult: \n{passage}\n\nNo title.\n'
        "</tool_response>\n"
    )
    assert step.messages == (
        ("tool", f"{first}\nresult: \n{passage}"),
        ("tool", f'{{"name": "search", "arguments": {{{second}\nresult: \n{passage}\n\nNo title.'),
    )


def test_the_reply_of_deepresearcher_is_a_list_of_groups() -> None:
    episode = start("deepresearcher", max_turns=1)
    requests(episode, web("a", "b"))
    step = episode.observe([SearchResult((LEE,)), SearchResult(())])
    shown = (
        "[{'search_query': 'a', 'web_page_info_list': [{'title': 'Ann Lee', 'url': 'https://x.org/lee', "
        "'quick_summary': 'Ann Lee was born\\nin Geneva.'}]}, {'search_query': 'b', 'web_page_info_list': []}]"
    )
    notice = episode.rules.last_turn_notice
    assert step.observation == f"\n<tool_response>\n{shown}\n</tool_response>\n{notice}"
    assert step.messages == (("tool", shown), ("user", notice.strip()))


def test_pages_are_read_from_the_documents_that_were_shown() -> None:
    episode = start("deepresearcher")
    step = episode.advance(READ)
    assert isinstance(step, Step)
    assert (step.action, step.documents, step.stop_reason) == ("browse", (), None)
    assert "None of these pages" in step.observation
    requests(episode, web("a"))
    episode.observe(SearchResult((LEE, Document("Other", "Nothing.", "p2"))))
    step = episode.advance(READ)
    assert isinstance(step, Step)
    assert (step.documents, step.answer_in_documents, step.queries, step.noisy) == ((LEE,), True, (), None)
    assert step.messages == (
        (
            "tool",
            "[{'url': 'https://x.org/lee', 'information': [{'page_number': 0, 'page_summary': "
            "'Ann Lee was born\\nin Geneva.'}]}]",
        ),
    )
    assert episode.searches == 1
    by_title = episode.advance("</think>" + call("browse_webpage", url_list=["Other"]))
    assert isinstance(by_title, Step)
    assert [document.source for document in by_title.documents] == ["p2"]


@pytest.mark.parametrize(
    ("name", "turn", "error"),
    [
        ("hermes", "<tool_call>{</tool_call>", "{\nerror: \nThis call cannot be read"),
        ("hermes", call("calculator", query="1+1"), "\nerror: \nThere is no function with the name 'calculator'."),
        ("hermes", call("browse_webpage", url_list=["a"]), "There is no function"),
        ("deepresearcher", "</think>" + call("calculator", query="1+1"), "There is no function"),
        ("deepresearcher", "</think>" + call("web_search", query=[]), "This call has no query"),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_answered(name: str, turn: str, error: str) -> None:
    episode = start(name)
    step = episode.advance(turn)
    assert isinstance(step, Step)
    assert (step.action, step.stop_reason, step.query, step.queries) == ("invalid", None, None, ())
    ((role, content),) = step.messages
    assert role == "tool"
    assert error in content
    assert content in step.observation
    mixed = start("hermes")
    requests(mixed, call("search", query="a") + call("calculator", query="b"))
    assert [content.count("error: ") for _, content in mixed.observe(SearchResult((LEE,))).messages] == [0, 1]


def test_a_broken_call_ends_deepresearcher_unless_a_notice_is_chosen() -> None:
    turn = "</think><tool_call>{</tool_call>"
    assert start("deepresearcher").advance(turn).stop_reason is StopReason.NO_ACTION  # type: ignore[union-attr]
    step = start("deepresearcher", invalid_notice="\nTry again.\n").advance(turn)
    assert isinstance(step, Step)
    assert (step.observation, step.messages) == ("\nTry again.\n", (("user", "Try again."),))
    silent = start("deepresearcher", invalid_notice="none").advance(turn)
    assert isinstance(silent, Step)
    assert (silent.observation, silent.messages, silent.done) == ("", (), False)


def test_the_calls_of_the_last_turn_are_not_made() -> None:
    episode = start(max_turns=1)
    requests(episode, TWO)
    episode.observe([SearchResult(())] * 3)
    step = episode.advance(TWO)
    assert isinstance(step, Step)
    assert (step.stop_reason, step.action, episode.searches) == (StopReason.MAX_TURNS, "search", 3)


def test_one_failed_search_ends_the_episode() -> None:
    episode = start(noise_level=0.5)
    requests(episode, TWO)
    step = episode.observe([SearchResult((LEE,)), SearchResult((), failure="down"), SearchResult(())])
    assert (step.stop_reason, step.error, step.reward) == (StopReason.ENGINE_ERROR, "down", 0.0)
    assert step.queries == ("Ann Lee", "Geneva", "Bern")
    assert len(step.noise_flags) == 3


def test_the_number_of_results_is_checked() -> None:
    episode = start()
    with pytest.raises(EpisodeError, match="no search is pending"):
        episode.observe(SearchResult(()))
    requests(episode, TWO)
    with pytest.raises(EpisodeError, match="3 searches are pending, got 1 results"):
        episode.observe(SearchResult(()))
    assert episode.pending
    stopped = episode.stop(StopReason.CONTEXT_LIMIT)
    assert (stopped.query, stopped.queries) == ("Ann Lee; Geneva; Bern", ("Ann Lee", "Geneva", "Bern"))


def test_an_action_without_text_plays_the_turn_that_the_protocol_writes() -> None:
    for name in ("hermes", "deepresearcher"):
        by_text, by_action = start(name), start(name)
        by_text.advance(get_protocol(name).render_search("Ann Lee"))
        by_action.advance_action("search", " Ann\n Lee ")
        assert by_text.observe(SearchResult((LEE,))) == by_action.observe([SearchResult((LEE,))])
        assert by_text.turns == by_action.turns


def test_tools_and_the_role_of_observations_go_together() -> None:
    with pytest.raises(ConfigError, match="observation_role is 'tool', and render_call is missing"):
        make_rules(protocol=replace(get_protocol("zerosearch"), name="own", observation_role="tool"))


turns = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=60)
@given(turns=turns, seed=st.integers(0, 2**53), level=st.floats(0, 1), unit=st.sampled_from(["search", "document"]))
def test_the_noise_is_that_of_the_kth_search_of_the_episode(
    turns: list[list[str]], seed: int, level: float, unit: str
) -> None:
    """However searches are divided into turns: the same draws, seeds and flags, and a higher level is a superset."""
    several, single = (start(noise_level=level, seed=seed, noise_unit=unit, max_turns=99) for _ in range(2))
    higher = start(noise_level=(1 + level) / 2, seed=seed, noise_unit=unit, max_turns=99)
    for queries in turns:
        together = requests(several, "".join(call("search", query=query) for query in queries))
        apart = []
        for query in queries:
            apart += requests(single, call("search", query=query))
            single.observe(SearchResult(()))
        assert list(together) == apart
        raised = requests(higher, call("search", query=queries))
        for request, above in zip(together, raised, strict=True):
            assert all(b or not a for a, b in zip(request.noise_mask, above.noise_mask, strict=True))
        step = several.observe([SearchResult(())] * len(queries))
        higher.observe([SearchResult(())] * len(queries))
        assert step.noise_flags == tuple(request.noisy for request in together)
        expected = any(step.noise_flags) if unit == "search" else tuple(f for r in together for f in r.noise_mask)
        assert step.noisy == expected


# The shells


def test_the_environment_makes_one_engine_call_per_turn() -> None:
    engine = RecordingEngine()
    env = gym.make("ZeroSearch-v0", dataset=ROW, search_engine=engine, protocol="hermes", noise_level=0.5)
    env.reset(seed=3)
    observation, _, terminated, _, info = env.step(TWO)
    assert (engine.calls, terminated, info["turn"]) == ([3], False, 1)
    assert observation.count("<tool_response>") == 2
    assert info["queries"] == ("Ann Lee", "Geneva", "Bern")
    assert [group[0].title for group in info["document_groups"]] == list(info["queries"])
    assert info["noisy"] is any(info["noise_flags"])
    assert plain(info)["document_groups"][2] == plain({"x": info["documents"]})["x"][2:]
    assert env.step(r"\boxed{Geneva}")[1] == 1.0


def test_a_vector_of_environments_plays_the_same_with_one_call_for_all() -> None:
    engine = RecordingEngine()
    options = {"dataset": ROW, "protocol": "hermes", "noise_level": 0.5}
    envs = gym.make_vec("ZeroSearch-v0", num_envs=3, search_engine=engine, **options)
    envs.reset(seed=0)
    actions = [TWO, call("search", query="x"), call("calculator", query="y")]
    observations, *_, infos = envs.step(actions)
    assert engine.calls == [4]
    for index, action in enumerate(actions):
        env = gym.make("ZeroSearch-v0", search_engine=RecordingEngine(), **options)
        env.reset(seed=index)
        observation, *_, info = env.step(action)
        assert observation == observations[index]
        for key in ("queries", "document_groups", "noise_flags", "documents", "noisy"):
            assert infos[key][index] == info[key]


def test_a_session_plays_turns_with_several_searches() -> None:
    for play in (lambda s: s.turn(TWO), lambda s: asyncio.run(s.aturn(TWO))):
        engine = RecordingEngine()
        session = Session(QUESTION, make_rules(protocol="hermes"), engine)
        step = play(session)
        assert [group[0].title for group in step.groups] == ["Ann Lee", "Geneva", "Bern"]
        assert session.search("more")[0].title == "more"
        assert sum(engine.calls) == 4


def test_episodes_with_pending_searches_share_one_engine_call() -> None:
    engine, episodes = RecordingEngine(), [start(), start("zerosearch")]
    requests(episodes[0], TWO)
    requests(episodes[1], "<search>x</search>")
    steps = observe_searches(engine, episodes)
    assert engine.calls == [4]
    assert [step.queries for step in steps] == [("Ann Lee", "Geneva", "Bern"), ("x",)]


def test_records_show_each_search_with_its_documents_and_old_records_load() -> None:
    episode = start(noise_level=0.5, seed=1)
    requests(episode, TWO)
    step = episode.observe([SearchResult((LEE,)), SearchResult(()), SearchResult((Document("T", "x"),))])
    record = json.loads(json.dumps(transcript_record(episode)))
    (turn,) = record["turns"]
    assert [(s["query"], s["documents"], s["noisy"]) for s in turn["searches"]] == [
        ("Ann Lee", 1, step.noise_flags[0]), ("Geneva", 0, step.noise_flags[1]), ("Bern", 1, step.noise_flags[2])
    ]  # fmt: skip
    assert [message["role"] for message in turn["messages"]] == ["tool", "tool"]
    assert noisy_flags(turn) == [step.noise_flags[0], step.noise_flags[2]]
    shown = render_ansi(record)
    assert [shown.index(f"? {query}") for query in step.queries] == sorted(shown.index(f"? {q}") for q in step.queries)
    assert shown.count("no documents") == 1
    assert render_html(record).count('class="zs-query"') == 3
    for key in ("searches", "messages"):
        del turn[key]
    assert "? Ann Lee; Geneva; Bern" in render_ansi(record)
    assert len(noisy_flags(turn)) == 2
