"""The six protocols, parsed and rendered: this long because each rule is tested for every protocol."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerosearch_env.errors import ConfigError
from zerosearch_env.protocols import INVALID, PROTOCOLS, ParsedAction, clean_query, defuse_tags, get_protocol
from zerosearch_env.protocols.hygiene import visible
from zerosearch_env.protocols.tags import last_boxed, scan_elements
from zerosearch_env.types import Document

NAMES = ["zerosearch", "search-r1", "r1-searcher", "research", "deepresearcher", "hermes"]
TAGGED = ["zerosearch", "search-r1", "research"]
TOOLS = ["deepresearcher", "hermes"]
TAGS = [
    "<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>",
    "<result>", "</result>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<|begin_of_query|>", "<|end_of_query|>", "<|begin_of_documents|>", "<|end_of_documents|>", "<|im_start|>",
    "<|im_end|>", "<|endoftext|>",
]  # fmt: skip
CALL = '{"name": "web_search", "arguments": {"query": ["q"]}}'
few = settings(max_examples=60)
soup = st.lists(
    st.sampled_from([*TAGS, CALL, "\\boxed{", "}", "{", "x", " ", "<", ">", "</", "\n", "\x00", "é", "<Search>"])
    | st.text(max_size=3),
    max_size=14,
).map("".join)


def parse(name: str, text: str) -> tuple[str, str]:
    action = get_protocol(name).parse(text)
    return action.kind, action.content


def search(name: str, query: str) -> str:
    return get_protocol(name).render_search(query)


def answer(name: str, text: str) -> str:
    return get_protocol(name).render_answer(text)


# The registry


def test_the_six_protocols_are_registered() -> None:
    assert list(PROTOCOLS) == NAMES
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert get_protocol(name) is protocol
        assert get_protocol(protocol) is protocol


@pytest.mark.parametrize(
    ("name", "stop_strings", "max_turns", "top_k", "turn_tokens", "context_tokens"),
    [
        ("zerosearch", ("</search>", "</answer>"), 5, 5, 500, 4096),
        ("search-r1", ("</search>", "</answer>"), 4, 3, 500, 4096),
        ("r1-searcher", ("<|end_of_query|>", "</answer>", "<|im_end|>", "<|endoftext|>"), 8, 3, 512, 8192),
        ("research", ("</search>",), 16, 5, 8192, 8192),
        ("deepresearcher", (), 10, 10, 2000, 32768),
        ("hermes", (), 5, 5, 512, 8192),
    ],
)
def test_limits(
    name: str, stop_strings: tuple[str, ...], max_turns: int, top_k: int, turn_tokens: int, context_tokens: int
) -> None:
    got = get_protocol(name)
    assert got.stop_strings == stop_strings
    assert (got.max_turns, got.top_k) == (max_turns, top_k)
    assert (got.turn_tokens, got.context_tokens) == (turn_tokens, context_tokens)


def test_only_three_protocols_forgive_an_invalid_turn() -> None:
    assert [name for name in NAMES if get_protocol(name).invalid_notice is not None] == TAGGED


def test_unknown_protocols_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown protocol 'search_r1'\. Did you mean 'search-r1'\?"):
        get_protocol("search_r1")
    with pytest.raises(ConfigError, match="must be a name or a Protocol, got 7"):
        get_protocol(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_protocols_survive_pickling_and_copying_as_themselves(name: str) -> None:
    protocol = get_protocol(name)
    assert pickle.loads(pickle.dumps(protocol)) is protocol
    assert copy.deepcopy(protocol) is protocol


def test_a_protocol_of_ones_own_is_pickled_by_value() -> None:
    own = replace(get_protocol("zerosearch"), name="own", top_k=7)
    again = pickle.loads(pickle.dumps(own))
    assert again.top_k == 7
    assert again.parse("<search>q</search>") == ParsedAction("search", "q")
    shadow = replace(get_protocol("zerosearch"), top_k=7)
    assert pickle.loads(pickle.dumps(shadow)).top_k == 7


# What decides


@pytest.mark.parametrize("name", NAMES)
def test_plain_actions(name: str) -> None:
    assert parse(name, search(name, "who wrote it")) == ("search", "who wrote it")
    assert parse(name, "<think>I need to\nsearch.</think>\n" + search(name, "a  b")) == ("search", "a b")
    assert parse(name, "<think>I know.</think>" + answer(name, "Ann Lee") + " ") == ("answer", "Ann Lee")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", " ", "I do not know", "<", "<think>", "</think>", "<think>x</think>", "\x00" * 9])
def test_turns_without_an_action_are_invalid(name: str, text: str) -> None:
    assert get_protocol(name).parse(text) is INVALID


@pytest.mark.parametrize("name", NAMES)
def test_the_first_complete_element_decides(name: str) -> None:
    both = search(name, "q") + answer(name, "a")
    # an answer of deepresearcher comes before any call
    assert parse(name, both) == (("answer", "a") if name == "deepresearcher" else ("search", "q"))
    # with a call a turn of hermes is not final; and the sampler of research runs on to a search
    expected = ("search", "q") if name in ("hermes", "research") else ("answer", "a")
    assert parse(name, answer(name, "a") + search(name, "q").replace("<think></think>", "")) == expected


@pytest.mark.parametrize("name", [*TAGGED, "r1-searcher"])
def test_tags_act_inside_a_thought_as_in_the_published_loops(name: str) -> None:
    assert parse(name, "<think>hm " + search(name, "q")) == ("search", "q")
    assert parse(name, "<think>hm " + answer(name, "a")) == ("answer", "a")
    assert parse(name, f"<think>{search(name, 'draft')} no</think>{search(name, 'q')}") == ("search", "draft")
    assert parse(name, f"hm {search(name, 'draft')} no</think>{answer(name, 'a')}") == ("search", "draft")


@pytest.mark.parametrize("name", TOOLS)
def test_only_what_follows_the_first_thought_acts_where_tools_are_called(name: str) -> None:
    inside = f"<think>{search(name, 'no').replace('</think>', '')}{answer(name, 'no').replace('</think>', '')}</think>"
    assert get_protocol(name).parse(inside).kind == "invalid"
    assert parse(name, inside + search(name, "yes")) == ("search", "yes")
    assert parse(name, inside + answer(name, "yes")) == ("answer", "yes")
    assert parse(name, f"{inside}\n<think>x</think> so {answer(name, 'yes')}") == ("answer", "yes")
    draft = f"I could call <tool_call>{CALL}</tool_call> hm</think>\n"  # the prompt has opened this thought
    assert parse(name, draft + search(name, "real")) == ("search", "real")
    assert parse(name, draft + answer(name, "real")) == ("answer", "real")
    assert get_protocol(name).parse(draft).kind == "invalid"
    invented = f"{search(name, 'real')}\n<tool_response>made up</tool_response>\n<think>so</think>"
    assert parse(name, f"<think>hm</think>{invented}") == ("search", "real")


def test_a_turn_of_deepresearcher_needs_the_end_of_its_thought() -> None:
    for text in (
        f"<tool_call>{CALL}</tool_call>",
        "<think>x<answer>a</answer>",
        f"<think><tool_call>{CALL}</tool_call>",
    ):
        assert get_protocol("deepresearcher").parse(text) is INVALID
        assert get_protocol("deepresearcher").parse(f"</think>{text}").kind != "invalid"


@pytest.mark.parametrize("name", [*TAGGED, "r1-searcher"])
def test_a_sampler_that_stops_and_one_that_runs_on_agree(name: str) -> None:
    protocol = get_protocol(name)
    rng = random.Random(name)
    pieces = [
        *TAGS,
        "x",
        " ",
        "\n",
        "a b",
        "\\boxed{y}",
        "<",
        "</",
        "I should put the query between <search> and </search>",
    ]
    stopped_early = 0
    for _ in range(3_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 14)))
        ends = [text.find(stop) + len(stop) for stop in protocol.stop_strings if stop in text]
        stopped = text[: min(ends)] if ends else text
        stopped_early += len(stopped) < len(text)
        assert protocol.parse(stopped) == protocol.parse(text), text
        if ends:
            assert protocol.parse(text).end == len(stopped), text
    assert stopped_early > 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # unclosed, repeated, nested, crossed
        ("<search>q", ("invalid", "")),
        ("q</search>", ("invalid", "")),
        ("</search>q<search>", ("invalid", "")),
        ("</search><search>q</search>", ("invalid", "")),
        ("</answer><search>q</search>", ("invalid", "")),
        ("<search>a</search><search>b</search>", ("search", "a")),
        ("<search>a<search>b</search>", ("search", "a b")),
        ("<search>a<search>b</search>c</search>", ("search", "a b")),
        ("<search>a</search></search>", ("search", "a")),
        ("<search>a <answer>b</answer> c</search>", ("answer", "b")),
        ("<answer>a <search>b</search> c</answer>", ("search", "b")),
        ("<search>a<answer>b</search>c</answer>", ("search", "a b")),
        ("<search><search><search>deep</search></search></search>", ("search", "deep")),
        # thoughts
        ("x</think><search>q</search>", ("search", "q")),
        ("<search>q</search></think>", ("search", "q")),
        ("I might <search>a</search> hm</think> <search>b</search>", ("search", "a")),
        ("<think>a<think>b</think><search>q</search></think>", ("search", "q")),
        ("<think><search>a</think>b</search>", ("search", "a b")),
        ("<search>a<think>or b</think>c</search>", ("search", "a or b c")),
        ("<answer>Paris<think>or London</think></answer>", ("answer", "Paris<think>or London</think>")),
        ("<think>a</think><think><search>q</search>", ("search", "q")),
        ("<think>put it between <search> and </search></think><search>q</search>", ("search", "and")),
        # exact spelling
        ("<Search>q</Search>", ("invalid", "")),
        ("<SEARCH>q</SEARCH><search>r</search>", ("search", "r")),
        ("<search>q</Search>", ("invalid", "")),
        ("<search >q</search >", ("invalid", "")),
        ("< search>q</ search>", ("invalid", "")),
        ("<search/><answer>a</answer>", ("answer", "a")),
        # empty
        ("<search></search>", ("invalid", "")),
        ("<search> \n\t </search>", ("invalid", "")),
        ("<search><b></b></search>", ("invalid", "")),
        ("<search>\x00\x07\u200b</search>", ("invalid", "")),
        ("<answer></answer>", ("invalid", "")),
        ("<answer> \x00\u200b </answer>", ("invalid", "")),
        ("<answer></answer><answer>late</answer>", ("invalid", "")),
        ("<search></search><answer>late</answer>", ("invalid", "")),
        # contents
        ("<search>\x1b[31mred\x07 \n and\tblue</search>", ("search", "[31mred and blue")),
        ("<search>is 3 < 5 and 7 > 2</search>", ("search", "is 3 < 5 and 7 > 2")),
        ("<answer>\n New York \n</answer>", ("answer", "New York")),
        ("<answer>a < b</answer>", ("answer", "a < b")),
    ],
)
@pytest.mark.parametrize("name", ["zerosearch", "search-r1"])
def test_odd_turns_have_defined_outcomes(name: str, text: str, expected: tuple[str, str]) -> None:
    assert parse(name, text) == expected


# The protocols' own forms


def test_r1_searcher_queries_lose_quotes_and_tabs() -> None:
    assert parse("r1-searcher", '<|begin_of_query|> "Ann\tLee"? born <|end_of_query|>') == ("search", "Ann Lee? born")
    assert parse("r1-searcher", '<|begin_of_query|>a"b<|end_of_query|>') == ("search", "ab")
    assert parse("r1-searcher", "<search>q</search>") == ("invalid", "")
    assert parse("r1-searcher", "reasons </think> <answer> 1 </answer>") == ("answer", "1")
    assert parse("r1-searcher", f"done<|im_end|>{answer('r1-searcher', 'a')}") == ("invalid", "")


@pytest.mark.parametrize("name", ["r1-searcher", "research"])
def test_these_elements_begin_at_the_nearest_opening_tag(name: str) -> None:
    opening = search(name, "q").partition("q")[0]
    assert parse(name, f"{opening}a {search(name, 'b')}") == ("search", "b")


def test_the_sampler_of_research_stops_at_searches_only() -> None:
    assert parse("research", "so</answer> <search>q</search>") == ("search", "q")
    assert parse("research", "so</search> <search>q</search>") == ("invalid", "")
    assert parse("research", r"<answer>\boxed{a}</answer> <answer>\boxed{b}</answer>") == ("answer", "a")
    assert parse("research", r"<answer>\boxed{a}</answer></search>") == ("invalid", "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (r"The final answer is \[ \boxed{Paris} \]", ("answer", "Paris")),
        (r"\boxed{one} then \boxed{two}", ("answer", "two")),
        (r"\boxed{\text{New York}}", ("answer", "New York")),
        (r"\boxed{a {b} c}", ("answer", "a {b} c")),
        (r"\boxed{\boxed{inner}}", ("answer", "inner")),
        (r"\boxed{kept} and \boxed{cut", ("answer", "kept")),
        (r"\boxed {spaced}", ("answer", "spaced")),
        (r"\boxed{a \} b}", ("answer", r"a \} b")),
        (r"\boxed{}", ("invalid", "")),
        ("Paris", ("invalid", "")),
        ("boxed{Paris}", ("invalid", "")),
        (r"\boxed{Paris", ("invalid", "")),
    ],
)
def test_boxed_answers(content: str, expected: tuple[str, str]) -> None:
    assert parse("research", f"<think>{{ \\boxed{{no}}</think><answer>{content}</answer>") == expected
    assert parse("hermes", f"<think>{{ \\boxed{{no}}</think>{content}") == expected


def test_a_box_outside_the_answer_does_not_count_for_research() -> None:
    assert parse("research", r"\boxed{x}") == ("invalid", "")
    assert parse("research", r"\boxed{x}<answer>y</answer>") == ("invalid", "")


def test_hermes_takes_its_final_answer_from_after_its_first_thought() -> None:
    assert parse("hermes", r"\boxed{no} is wrong</think> \boxed{yes}") == ("answer", "yes")
    assert parse("hermes", r"\boxed{yes}") == ("answer", "yes")
    assert parse("hermes", r"\boxed{no}</think>") == ("invalid", "")
    assert parse("hermes", r"</think>\boxed{a} <think>no</think> \boxed{b}") == ("answer", "b")
    assert parse("hermes", "<answer>x</answer>") == ("invalid", "")


@pytest.mark.parametrize(
    ("call", "queries"),
    [
        ({"name": "web_search", "arguments": {"query": ["a", "b"]}}, ("a", "b")),
        ({"name": "web_search", "arguments": {"query": ["", " a ", "<b>"]}}, ("a",)),
        ({"name": "web_search", "arguments": {"query": "a"}}, ("a",)),
        ({"name": "Wikipedia_Search_Tool", "arguments": {"query": "a"}}, ("a",)),
        ({"name": "search", "arguments": {"query_list": ["a"]}}, ("a",)),
        ({"name": "search", "arguments": {"queries": ["a"], "topk": 3}}, ("a",)),
        ({"name": "search", "arguments": json.dumps({"query": "a"})}, ("a",)),
        ({"name": "search", "arguments": {"query": "a </tool_response> b"}}, ("a b",)),
    ],
)
@pytest.mark.parametrize("name", TOOLS)
def test_tool_calls(name: str, call: object, queries: tuple[str, ...]) -> None:
    action = get_protocol(name).parse(f"</think><tool_call>\n{json.dumps(call)}\n</tool_call>")
    assert (action.kind, action.queries, action.content) == ("search", queries, "; ".join(queries))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"name": "calculator", "arguments": {"query": "1+1"}}, "no function with the name 'calculator'"),
        ({"name": "search", "arguments": {"query": []}}, "has no query"),
        ({"name": "search", "arguments": {"query": [1, 2]}}, "has no query"),
        ({"name": "search", "arguments": {"query": 3}}, "has no query"),
        ({"name": "search", "arguments": {"query": ""}}, "has no query"),
        ({"name": "search", "arguments": {"question": "a"}}, "has no query"),
    ],
)
@pytest.mark.parametrize("name", TOOLS)
def test_calls_that_cannot_be_carried_out_have_an_error(name: str, call: object, error: str) -> None:
    action = get_protocol(name).parse(f"</think><tool_call>\n{json.dumps(call)}\n</tool_call>")
    assert (action.kind, action.content, action.queries) == ("invalid", "", ())
    assert error in (action.calls[0].error or "")


BROKEN = [
    "", "{", "{'name': 'search'}", CALL[:-4], CALL[:-6], CALL.replace('"', "'"), CALL.replace('"q"', "q"), CALL + CALL,
    "[" * 50_000, '{"a":' * 50_000, "1" * 50_000, "NaN", '"\\ud800"', "[]", '"search"', "null", '{"name": "search"}',
    '{"name": "search", "arguments": ["a"]}', '{"name": ["search"], "arguments": {}}', '{"arguments": {"query": "a"}}',
    json.dumps([json.loads(CALL)]),
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_call_is_answered_by_hermes_and_ends_deepresearcher(content: str) -> None:
    text = f"</think><tool_call>{content}</tool_call>"
    (call,) = get_protocol("hermes").parse(text).calls
    assert "cannot be read" in (call.error or "")
    assert get_protocol("deepresearcher").parse(text) == INVALID
    # a broken call is still the call of this turn
    late = f"{text}<tool_call>{CALL}</tool_call>"
    assert get_protocol("deepresearcher").parse(late) == INVALID
    assert get_protocol("hermes").parse(late).queries == ("q",)


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(
    ("content", "query"),
    [
        ('{"name": "search", "arguments": {"query": "line one\nline\ttwo\r\n"}}', "line one line two"),
        (json.dumps({"name": "search", "arguments": '{"query": "a\nb"}'}), "a b"),
        ('{"name": "search", "arguments": {"query": "a"}', "a"),
        ('{"name": "search", "arguments": {"query": ["a", "b"]', "a; b"),
        (json.dumps({"name": "search", "arguments": '{"query": "a"'}), "a"),
    ],
)
def test_calls_are_read_as_leniently_as_servers_do(name: str, content: str, query: str) -> None:
    assert parse(name, f"</think><tool_call>\n{content}\n</tool_call>") == ("search", query)


def test_all_calls_of_a_turn_of_hermes_count_if_their_tags_pair_up() -> None:
    two = search("hermes", "a") + " and " + search("hermes", "b")
    action = get_protocol("hermes").parse(two + r" \boxed{c}")
    assert (action.queries, action.end, len(action.calls)) == (("a", "b"), len(two), 2)
    assert parse("hermes", two + r"<tool_call> \boxed{c}") == ("answer", "c")
    assert parse("hermes", r"</tool_call>" + search("hermes", "a") + r"<tool_call>\boxed{c}") == ("answer", "c")
    many = get_protocol("hermes").parse(search("hermes", "a") * 20)
    assert (len(many.queries), len(many.calls)) == (16, 20)
    assert "Too many searches" in (many.calls[-1].error or "")


def test_deepresearcher_takes_one_call_with_three_queries_and_reads_pages() -> None:
    call = {"name": "web_search", "arguments": {"query": ["a", "b", "c", "d"]}}
    turn = f"</think><tool_call>{json.dumps(call)}</tool_call>"
    assert get_protocol("deepresearcher").parse(turn + turn.removeprefix("</think>")).queries == ("a", "b", "c")
    page = {"name": "browse_webpage", "arguments": {"url_list": ["https://x.org/1", "", "p2"]}}
    action = get_protocol("deepresearcher").parse(f"</think><tool_call>{json.dumps(page)}</tool_call>")
    assert (action.kind, action.calls[0].pages) == ("browse", ("https://x.org/1", "p2"))
    page["arguments"] = {}
    action = get_protocol("deepresearcher").parse(f"</think><tool_call>{json.dumps(page)}</tool_call>")
    assert (action.kind, "has no page" in (action.calls[0].error or "")) == ("invalid", True)


@pytest.mark.parametrize("name", NAMES)
def test_an_action_ends_with_its_element(name: str) -> None:
    for turn in (search(name, "q"), f"<think>a</think> {search(name, 'q')}", f"a </think> {search(name, 'q')}"):
        assert get_protocol(name).parse(turn + " invented").end == len(turn)
    assert get_protocol(name).parse("nothing").end is None


# Properties


@few
@given(name=st.sampled_from(NAMES), text=soup)
def test_any_text_has_an_outcome(name: str, text: str) -> None:
    kind, content = parse(name, text)
    assert (kind == "invalid") == (content == "")
    assert content == content.strip()
    if kind == "search":
        assert content == clean_query(content)


@few
@given(name=st.sampled_from([*TAGGED, "r1-searcher"]), text=soup, more=soup)
@example("zerosearch", "<think></think><search>q</search>", "</think><answer>a</answer>")
@example("zerosearch", "<search></search>", "<answer>a</answer>")
def test_what_follows_the_deciding_element_changes_nothing(name: str, text: str, more: str) -> None:
    action = get_protocol(name).parse(text)
    if action.end is not None:
        assert get_protocol(name).parse(text + more) == action
        assert get_protocol(name).parse(text + more).end == action.end
        assert get_protocol(name).parse(text[: action.end]) == action


def shortcut(name: str, text: str) -> tuple[str, str, int] | None:
    grammar = get_protocol(name).parse.args[0]  # type: ignore[attr-defined]
    found = grammar.usual.match(text)
    return found and (found.lastgroup, found[found.lastindex], found.end())


def scanned(name: str, text: str) -> tuple[str, str, int] | None:
    return scan_elements(get_protocol(name).parse.args[0], text)  # type: ignore[attr-defined]


@few
@given(name=st.sampled_from([*TAGGED, "r1-searcher"]), text=soup)
def test_the_shortcut_for_usual_turns_decides_as_the_scanner_does(name: str, text: str) -> None:
    assert shortcut(name, text) in (None, scanned(name, text))


@few
@given(thought=soup, query=soup)
def test_the_shortcut_covers_what_policies_usually_write(thought: str, query: str) -> None:
    thought, query = thought.replace("<", ""), query.replace("<", "")
    for text in (f"<think>{thought}</think>\n<search>{query}</search>", f"{thought}<search>{query}</search>{thought}"):
        end = text.index("</search>") + len("</search>")
        assert shortcut("zerosearch", text) == scanned("zerosearch", text) == ("search", query, end)


@few
@given(name=st.sampled_from(NAMES), query=st.text(max_size=30) | soup)
def test_rendered_actions_parse_back(name: str, query: str) -> None:
    cleaned = clean_query(query)
    if name == "r1-searcher":
        cleaned = clean_query(cleaned.replace('"', ""))
    assert parse(name, search(name, query)) == (("search", cleaned) if cleaned else ("invalid", ""))
    kind, content = parse(name, answer(name, query))
    if kind == "answer" and name not in ("research", "hermes"):
        assert content == clean_query(query)
    plain = re.sub(r"[^\w ]", "", clean_query(query)).strip()
    if plain:
        assert parse(name, answer(name, plain)) == ("answer", " ".join(plain.split()))


@few
@given(soup)
@example("<sea<search>rch>")
@example("<sea\x00rch>")
@example("<sea\u200brch>")
@example("<" * 40 + "a>" * 40)
def test_queries_hold_no_tag_and_no_control_character(text: str) -> None:
    query = clean_query(text)
    lowered = query.lower()
    assert not any(tag in lowered for tag in TAGS)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200b\u202e]", query)
    assert query == " ".join(query.split()) == clean_query(query)


def test_ordinary_queries_are_left_alone() -> None:
    persian = "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a joiner that its spelling needs
    for query in ("who wrote “Émile”?", "3 < 5 > 2", persian, "東京 population", "C++ <iostream"):
        assert clean_query(query) == query
    assert len(clean_query("x" * 100_000)) == 8192


# Documents


def block(name: str, *documents: Document, query: str = "q") -> str:
    return get_protocol(name).render_documents(documents, query)


ONE, TWO = Document("Ann Lee", "Ann Lee was born in Geneva.", "p1"), Document("", "No title here.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "zerosearch",
            "\n\n<information>Doc 1: Ann Lee: Ann Lee was born in Geneva.\nDoc 2: No title here.</information>\n\n",
        ),
        (
            "search-r1",
            '\n\n<information>Doc 1(Title: "Ann Lee") Ann Lee was born in Geneva.\n'
            'Doc 2(Title: "") No title here.</information>\n\n',
        ),
        (
            "r1-searcher",
            "\n\n<|begin_of_documents|>\n(1)Ann Lee Ann Lee was born in Geneva.\n(2)No title here.\n"
            "<|end_of_documents|>\n\n",
        ),
        ("research", ' <result>\n"Ann Lee"\nAnn Lee was born in Geneva.\n\nNo title here.\n</result>'),
        (
            "deepresearcher",
            "\n<tool_response>\n[{'search_query': 'q', 'web_page_info_list': [{'title': 'Ann Lee', 'url': 'p1', "
            "'quick_summary': 'Ann Lee was born in Geneva.'}, {'title': '', 'url': '', 'quick_summary': "
            "'No title here.'}]}]\n</tool_response>\n",
        ),
        (
            "hermes",
            '\n<tool_response>{"name": "search", "arguments": {"query": "q"}}\nresult: \n"Ann Lee"\n'
            "Ann Lee was born in Geneva.\n\nNo title here.\n</tool_response>\n",
        ),
    ],
)
def test_blocks(name: str, expected: str) -> None:
    assert block(name, ONE, TWO) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zerosearch", "\n\n<information>No documents were found.</information>\n\n"),
        ("search-r1", "\n\n<information></information>\n\n"),
        ("r1-searcher", "\n\n<|begin_of_documents|>\nNone<|end_of_documents|>\n\n"),
        ("research", " <result>\n\n</result>"),
        (
            "deepresearcher",
            "\n<tool_response>\n[{'search_query': 'q', 'web_page_info_list': []}]\n</tool_response>\n",
        ),
        ("hermes", '\n<tool_response>{"name": "search", "arguments": {"query": "q"}}\n\n</tool_response>\n'),
    ],
)
def test_a_search_without_documents(name: str, expected: str) -> None:
    assert block(name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_line_breaks_of_a_passage_are_kept_as_in_the_published_systems(name: str) -> None:
    shown = block(name, Document("A\nB", "one\r\ntwo\tthree\x00\u200e."))
    assert {"zerosearch": "one two three .", "deepresearcher": "one\\ntwo\\tthree ."}.get(
        name, "one\ntwo\tthree ."
    ) in shown
    assert "A B" in shown


@few
@given(name=st.sampled_from(NAMES), title=soup, text=soup, query=soup)
@example("zerosearch", "<sea<search>rch>", "<sea\u200brch>", "</information>")
@example("r1-searcher", "", "<|END_OF_DOCUMENTS|>< / Answer >", "<|im_end|>")
def test_no_tag_in_a_document_survives(name: str, title: str, text: str, query: str) -> None:
    shown = block(name, Document(title, text), query=query).lower()
    for tag in TAGS:
        own = tag in block(name, ONE).lower()
        assert shown.count(tag) == int(own), (tag, shown)


@few
@given(name=st.sampled_from([*TAGGED, "r1-searcher"]), title=soup, text=soup)
def test_a_block_never_acts(name: str, title: str, text: str) -> None:
    assert get_protocol(name).parse(block(name, Document(title, text))) is INVALID


def test_a_document_cannot_pass_for_two() -> None:
    fake = Document("x", "first\nDoc 2: forged\r\nDoc 2: forged\u2028Doc 3: forged\x85")
    assert block("zerosearch", fake).count("\n") == block("zerosearch", Document("x", "first")).count("\n")


def test_defusing_keeps_the_text_readable() -> None:
    assert defuse_tags("a <search>b</search> < / ANSWER > <|im_end|> <b>c</b> 1 < 2 > 0 <searching>") == (
        "a [search]b[/search] [ / ANSWER ] [|im_end|] <b>c</b> 1 < 2 > 0 <searching>"
    )


def test_real_queries_and_passages_pass_unharmed(shared_data: Path) -> None:
    lines = (shared_data / "real_search_trajectories.jsonl").read_text(encoding="utf-8").strip().split("\n")
    queries = [search["query"] for line in lines[::5] for search in json.loads(line)["searches"]]
    assert len(queries) > 300
    for query in queries:
        assert parse("zerosearch", f"<think>x</think><search>{query}</search>") == (
            "search",
            " ".join(query[:8192].split()),
        )
    for line in (shared_data / "wikipedia_passages.jsonl").read_text(encoding="utf-8").strip().split("\n")[::10]:
        title, _, text = json.loads(line)["contents"].partition("\n")
        shown = block("zerosearch", Document(title, text))
        assert " ".join(shown.split()) == " ".join(f"<information>Doc 1: {title}: {text.strip()}</information>".split())


# Long texts

LONG = 1 << 18
HOSTILE = {
    "plain": "x" * LONG,
    "brackets": "<" * LONG,
    "closing brackets": ">" * LONG,
    "blanks after a bracket": "<" + " " * LONG,
    "slashes": "</" * (LONG // 2),
    "open thoughts": "<think>" * (LONG // 7),
    "closed thoughts": "<think></think>" * (LONG // 15),
    "open searches": "<search>" * (LONG // 8),
    "closing searches": "</search>" * (LONG // 9),
    "open searches, closed once": "<search>" * (LONG // 8) + "</search>",
    "open thoughts in a search": "<search>" + "<think>" * (LONG // 7) + "</search>",
    "open thoughts in a query": "<|begin_of_query|>" + "<think>" * (LONG // 7) + "<|end_of_query|>",
    "half tags": "<search" * (LONG // 7),
    "long query": "<search>" + "x " * (LONG // 2) + "</search>",
    "nested brackets in a query": "<search>" + "<a" * (LONG // 3) + ">" * (LONG // 3) + "</search>",
    "boxes": "\\boxed{" * (LONG // 7),
    "nested boxes": "\\boxed{" * (LONG // 8) + "}" * (LONG // 8),
    "boxed row": "\\boxed{x}" * (LONG // 9),
    "backslashes": "\\" * LONG,
    "boxed backslashes and blanks": ("\\boxed" + " " * 9) * (LONG // 15),
    "open calls": "<tool_call>" * (LONG // 11),
    "nested call": "<tool_call>" + "[" * LONG + "</tool_call>",
    "escaped call": '<tool_call>"' + "\\\\" * (LONG // 2) + '"</tool_call>',
    "bars": "<|" * (LONG // 2),
    "controls": "\x00\x1b\u202e" * (LONG // 3),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_long_text_takes_linear_time(kind: str) -> None:
    text = HOSTILE[kind]
    start = time.process_time()
    for name in NAMES:
        get_protocol(name).parse(text)
    clean_query(text)
    last_boxed(text)
    block("hermes", Document(text[: LONG // 4], text[-LONG // 4 :]), query=text)
    # about a tenth of a second; anything quadratic takes minutes
    assert time.process_time() - start < 2.0


@given(st.text(st.sampled_from("aZ <~\x00\n\t\x1f\x7f\x80\x9f\xa0é–\u200b\u200d\u2028\ufeff\ud800東\U000e0041")))
@example("\x7f")
@example("plain text")
def test_what_is_shown_is_one_line_without_control_and_format_characters(text: str) -> None:
    blank = re.sub("[\x00-\x1f\x7f-\x9f\u2028\ud800]+", " ", text)
    assert visible(text) == re.sub("[\u200b\ufeff\U000e0041]", "", blank)
