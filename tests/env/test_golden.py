"""Golden texts: per protocol five turns, one observation, and where notice and prompt stand, byte for byte.

What the published loops read and write, as strings; instructions and notices are this package's own words.
"""

from __future__ import annotations

import json

import pytest

from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.types import Document, Question, SearchResult, Step, StopReason

QUESTION = Question("q", "Where was Ann Lee born?", ("Geneva",))
DOCUMENTS = (
    Document("Ann Lee", "Ann Lee was born in Geneva.\nShe wrote.", "https://x.org/lee"),
    Document('The "Lee" bridge', "It's old.", "w2"),
)
LEE = '"Ann Lee"\nAnn Lee was born in Geneva.\nShe wrote.\n\n"The "Lee" bridge"\nIt\'s old.'
CALL = '{"name": "wikipedia_search", "arguments": {"query": "Ann Lee"}}'
WEB = json.dumps({"name": "web_search", "arguments": {"query": ["Ann Lee", "Lee"]}})
PAGES = (
    "[{'title': 'Ann Lee', 'url': 'https://x.org/lee', 'quick_summary': 'Ann Lee was born in Geneva.\\nShe wrote.'}, "
    "{'title': 'The \"Lee\" bridge', 'url': 'w2', 'quick_summary': \"It's old.\"}]"
)

TURNS: dict[str, list[tuple[str, str, str]]] = {
    "zerosearch": [
        ("<think>hm</think>\n<search> Ann Lee </search>", "search", "Ann Lee"),
        ("<think>I look it up <search>Ann Lee</search>", "search", "Ann Lee"),
        ("<search>Ann Lee</search>\n\n<information>made up</information><answer>x</answer>", "search", "Ann Lee"),
        ("I put it between <answer> and </answer>.", "answer", "and"),
        ("Geneva", "invalid", ""),
    ],
    "search-r1": [
        ("<think>hm</think>\n<search> Ann Lee </search>", "search", "Ann Lee"),
        ("<think>maybe <search>Lee</search> hm</think><search>Ann Lee</search>", "search", "Lee"),
        ("<search>Ann <search>Lee</search>", "search", "Ann Lee"),
        ("<think>so</think><answer> Geneva </answer>", "answer", "Geneva"),
        ("</search><search>Ann Lee</search>", "invalid", ""),
    ],
    "r1-searcher": [
        ('I need it. <|begin_of_query|> "Ann Lee"? <|end_of_query|>', "search", "Ann Lee?"),
        ("<|begin_of_query|>a <|begin_of_query|>Ann Lee<|end_of_query|>", "search", "Ann Lee"),
        ("so </think>\n<answer> Geneva </answer>", "answer", "Geneva"),
        ("<|end_of_query|><|begin_of_query|>Ann Lee<|end_of_query|>", "invalid", ""),
        ("so<|im_end|><answer>Geneva</answer>", "invalid", ""),
    ],
    "research": [
        ("<think>hm</think> <search> Ann Lee </search>", "search", "Ann Lee"),
        ("<think>hm <search>a <search>Ann Lee</search>", "search", "Ann Lee"),
        ("<answer>The final answer is \\[ \\boxed{Geneva} \\]</answer>", "answer", "Geneva"),
        ("so</answer> <search>Ann Lee</search>", "search", "Ann Lee"),
        ("<answer>Geneva</answer>", "invalid", ""),
    ],
    "deepresearcher": [
        (f"<think>hm</think>\n<tool_call>\n{WEB}\n</tool_call>", "search", "Ann Lee; Lee"),
        (f"hm\n</think>\n<tool_call>{WEB}</tool_call><tool_call>{WEB}</tool_call>", "search", "Ann Lee; Lee"),
        (f"</think><tool_call>{WEB}</tool_call><answer> Geneva </answer>", "answer", "Geneva"),
        ("<answer>Geneva</answer>", "invalid", ""),
        ("</think><tool_call>{</tool_call>", "invalid", ""),
    ],
    "hermes": [
        (f"<think>hm</think>\n<tool_call>\n{CALL}\n</tool_call>", "search", "Ann Lee"),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "search", "Ann Lee; Ann Lee"),
        (f"<think>hm <tool_call>{CALL}</tool_call>", "search", "Ann Lee"),
        ("<think>so</think> It is \\boxed{Geneva}.", "answer", "Geneva"),
        (f"<tool_call>{CALL}</tool_call><tool_call>", "invalid", ""),
    ],
}

OBSERVATIONS = {
    "zerosearch": "\n\n<information>Doc 1: Ann Lee: Ann Lee was born in Geneva. She wrote.\n"
    'Doc 2: The "Lee" bridge: It\'s old.</information>\n\n',
    "search-r1": '\n\n<information>Doc 1(Title: "Ann Lee") Ann Lee was born in Geneva.\nShe wrote.\n'
    'Doc 2(Title: "The "Lee" bridge") It\'s old.</information>\n\n',
    "r1-searcher": "\n\n<|begin_of_documents|>\n(1)Ann Lee Ann Lee was born in Geneva.\nShe wrote.\n"
    '(2)The "Lee" bridge It\'s old.\n<|end_of_documents|>\n\n',
    "research": f" <result>\n{LEE}\n</result>",
    "deepresearcher": "\n<tool_response>\n[{'search_query': 'Ann Lee', 'web_page_info_list': "
    + PAGES
    + "}, {'search_query': 'Lee', 'web_page_info_list': []}]\n</tool_response>\n",
    "hermes": f"\n<tool_response>{CALL}\nresult: \n{LEE}\n</tool_response>\n",
}

PROMPTS = {  # what stands after the question: a checkpoint's first turn begins there
    "zerosearch": ("\nQuestion: ", "\n"),
    "search-r1": ("\nQuestion: ", "\n"),
    "r1-searcher": ("\nUser: ", "\nAssistant: <think>"),
    "research": ("\nQuestion: ", "\n"),
    "deepresearcher": ("\nQuestion: ", "\n"),
    "hermes": ("\nQuestion: ", "\n"),
}


def start(name: str, **options: object) -> Episode:
    return Episode(QUESTION, make_rules(protocol=name, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_five_turns(name: str) -> None:
    assert len(TURNS[name]) == 5
    for text, kind, content in TURNS[name]:
        action = PROTOCOLS[name].parse(text)
        assert (action.kind, action.content) == (kind, content), text


@pytest.mark.parametrize("name", PROTOCOLS)
def test_one_observation(name: str) -> None:
    episode = start(name)
    text = TURNS[name][0][0]
    episode.advance(text)
    results = [SearchResult(DOCUMENTS), SearchResult(())][: len(episode.requests)]
    step = episode.observe(results)
    assert step.observation == OBSERVATIONS[name]
    assert episode.text == episode.prompt + text + OBSERVATIONS[name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_layout_of_prompt_and_notices(name: str) -> None:
    before, after = PROMPTS[name]
    assert start(name).prompt.endswith(f"{before}{QUESTION.text}{after}")
    published = start(name, max_turns=1, invalid_notice="reference", last_turn_notice="reference")
    step = published.advance(TURNS[name][-1][0])
    assert isinstance(step, Step)
    if name in ("zerosearch", "search-r1"):  # one line of the policy's own turn, in the first person
        assert step.observation.startswith("\nMy last step")
        assert step.observation.endswith(".\n")
        assert step.observation.count("\n") == 2
        assert "<search> and </search>" in step.observation
        assert "<answer> and </answer>" in step.observation
        assert "No search is left" not in step.observation  # no published loop announces the last turn
    else:
        assert step.stop_reason is StopReason.NO_ACTION
