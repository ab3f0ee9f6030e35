"""The protocols against the loops of the published systems, episode by episode, on generated episodes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from generated_episodes import CLASSES, Script, passages, script
from play_both import NAMED, Difference, first_difference, name_of, rules_of
from published_loops import LOOPS, Loop, Passage

from zerosearch_env import get_protocol

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocols.md"
WOLVES = Passage("Wolves of the Range", "Wolves of the Range is a film.", "u")

# Where docs/protocols.md names each class of difference.
DOCUMENTED = {
    "empty_query": "an empty query is searched",
    "empty_answer": "an empty answer ends the episode",
    "query_as_written": "queries as written",
    "passage_as_written": "passages as they are",
    "no_documents": "no documents: an empty block",
    "one_line": "is one line",
    "untitled": "a passage without a title",
    "answer_tag_first": "</answer>",
    "open_answer": "left open by an earlier turn",
    "earlier_answer": "the first answer of all turns",
    "draft": "after the first `</think>`",
    "call_as_written": "the call as written",
    "asked_number": "`top_n` of a call",
    "lenient_json": "strict JSON",
    "no_search": "an empty list",
    "refused_call": "ends the episode at a call",
}


def differences(protocol: str, episodes: int) -> list[tuple[Script, Difference]]:
    rules = rules_of(protocol)
    scripts = (script(protocol, seed) for seed in range(episodes))
    found = ((played, first_difference(protocol, played, rules)) for played in scripts)
    return [(played, difference) for played, difference in found if difference is not None]


def unnamed(protocol: str, found: list[tuple[Script, Difference]]) -> list[tuple[str, Difference]]:
    return [(played.kind, difference) for played, difference in found if name_of(protocol, difference) is None]


@pytest.mark.parametrize("protocol", LOOPS)
def test_an_episode_is_played_as_the_published_loop_plays_it(protocol: str) -> None:
    assert not unnamed(protocol, differences(protocol, 150))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", LOOPS)
def test_three_thousand_episodes(protocol: str) -> None:
    """At least 99.5 % agree outside the named classes of difference, and these together are at most 3 %."""
    found = differences(protocol, 3000)
    without_name = unnamed(protocol, found)
    assert len(without_name) <= 0.005 * 3000, without_name[:3]
    names = Counter(name_of(protocol, difference) for _, difference in found)
    assert sum(names.values()) - len(without_name) <= 0.03 * 3000, names
    kinds = Counter(played.kind for played, _ in found)
    agree = [100 - kinds[kind] / 6 for kind in CLASSES]
    assert min(agree[:-1]) >= 98
    assert printed(protocol) == pytest.approx([*agree, 100 - len(found) / 30], abs=0.5)


def printed(protocol: str) -> list[float]:
    """The agreement of whole episodes on the page: by class, then of all."""
    rows = [
        line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| `{protocol}` |") and "→" in line
    ]
    return [float(number) for number in re.findall(r"→ (\S+)", rows[-1])]


@pytest.mark.parametrize("protocol", LOOPS)
def test_a_sampler_that_stops_and_one_that_continues_give_the_same_action(protocol: str) -> None:
    parse, stops = get_protocol(protocol).parse, get_protocol(protocol).stop_strings
    for seed in range(200):
        for text in script(protocol, seed).turns:
            ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
            assert parse(text[: min(ends)]) == parse(text) if ends else True, text


def test_the_page_names_every_class_of_difference() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    named = {predicate.__name__ for predicates in NAMED.values() for predicate in predicates}
    assert named == set(DOCUMENTED)
    assert not [words for words in DOCUMENTED.values() if words not in page]


def test_classes_are_equal_and_episodes_repeat() -> None:
    kinds = Counter(script("search-r1", seed).kind for seed in range(100))
    assert kinds == dict.fromkeys(CLASSES, 20)
    assert script("hermes", 7) == script("hermes", 7) != script("hermes", 12)
    assert passages("a", 3) == passages("a", 3)


def turn(protocol: str, *texts: str) -> list[str | None]:
    """What the restated loop shows after each turn."""
    loop: Loop = LOOPS[protocol](lambda query, number: [WOLVES] if query else [])
    return [loop.turn(text).observation for text in texts]


SHOWN = "Wolves of the Range is a film."
CALL = '{"name": "search", "arguments": {"query": "q"}}'
WEB = '{"name": "web_search", "arguments": {"query": ["q"]}}'


@pytest.mark.parametrize(
    ("protocol", "text", "observation"),
    [
        (
            "search-r1",
            "<think>I look it up <search>q</search>",
            f'\n\n<information>Doc 1(Title: "Wolves of the Range") {SHOWN}</information>\n\n',
        ),
        ("search-r1", "I do not know.", "\n(notice)\n"),
        ("search-r1", "<answer>a</answer> <search>", None),
        (
            "zerosearch",
            "<search>q</search> and on",
            f"\n\n<information>Doc 1: Wolves of the Range: {SHOWN}</information>\n\n",
        ),
        (
            "r1-searcher",
            "Hm. <|begin_of_query|>q<|end_of_query|>",
            f"\n\n<|begin_of_documents|>\n(1)Wolves of the Range {SHOWN}\n<|end_of_documents|>\n\n",
        ),
        ("r1-searcher", "Hm. <|begin_of_query|><|end_of_query|>", None),
        ("research", "<search>q</search>", f' <result>\n"Wolves of the Range"\n{SHOWN}\n</result>'),
        ("research", "I do not know.", None),
        (
            "hermes",
            f"</think>\n<tool_call>\n{CALL}\n</tool_call>",
            f'<tool_response>{CALL}\nresult: \n"Wolves of the Range"\n{SHOWN}\n</tool_response>\n',
        ),
        (
            "deepresearcher",
            f"</think>\n<tool_call>\n{WEB}\n</tool_call>",
            "[{'search_query': 'q', 'web_page_info_list': [{'title': 'Wolves of the Range', 'url': 'u', "
            f"'quick_summary': '{SHOWN}'}}]}}]",
        ),
        ("deepresearcher", f"<tool_call>{WEB}</tool_call>", None),
    ],
)
def test_the_restated_loops_show_what_the_published_ones_show(
    protocol: str, text: str, observation: str | None
) -> None:
    assert turn(protocol, text) == [observation]


def test_the_restated_loops_read_the_last_or_the_first_answer() -> None:
    assert LOOPS["search-r1"](passages).turn("<answer> a </answer>").prediction == "a"
    assert LOOPS["r1-searcher"](passages).turn("<answer>a <answer>b</answer>").prediction == "b"
    assert LOOPS["research"](passages).turn(r"<answer>\boxed{a{b}c}</answer>").prediction == "a{b}c"
    assert LOOPS["hermes"](passages).turn(r"\boxed{a} \boxed{b}").prediction == "b"
    assert LOOPS["deepresearcher"](passages).turn("</think><answer>a</answer><answer>b</answer>").prediction == "a"
