"""The six built-in protocols. Tags, stop strings, observations and limits follow each one's publication and code."""

from __future__ import annotations

from functools import partial

from . import documents as docs
from . import prompts, tools
from .base import ParsedAction, Protocol, register_protocol
from .hygiene import visible, visible_lines
from .tags import answer_action, boxed_action, make_grammar, parse_tags, query_action, render_boxed, render_element

_SEARCH = ("<search>", "</search>")
_ANSWER = ("<answer>", "</answer>")
_QUERY = ("<|begin_of_query|>", "<|end_of_query|>")
_TAG_STOPS = ("</search>", "</answer>")
_R1_SEARCHER_STOPS = ("<|end_of_query|>", "</answer>", "<|im_end|>", "<|endoftext|>")

_TAGGED = make_grammar({"search": _SEARCH, "answer": _ANSWER}, stops=_TAG_STOPS)
_R1_SEARCHER = make_grammar({"search": _QUERY, "answer": _ANSWER}, stops=_R1_SEARCHER_STOPS, nearest=True)
_RESEARCH_TAGS = make_grammar({"search": _SEARCH, "answer": _ANSWER}, stops=("</search>",), nearest=True)


def _unquoted_query(content: str) -> ParsedAction:
    return query_action(content.replace('"', ""))


def _boxed_answer(answer: str) -> str:
    return f"<answer>{render_boxed(answer)}</answer>"


_ZEROSEARCH = Protocol(
    name="zerosearch",
    stop_strings=_TAG_STOPS,
    prompt_template=prompts.ZEROSEARCH,
    max_turns=5,
    top_k=5,
    turn_tokens=500,
    context_tokens=4096,
    parse=partial(parse_tags, _TAGGED, {"search": query_action, "answer": answer_action}),
    render_documents=partial(
        docs.render_block,
        docs.zerosearch_heading,
        visible,
        "\n\n<information>",
        "</information>\n\n",
        f"{docs.NOTHING_FOUND}</information>\n\n",
    ),
    render_message=partial(docs.render_message, "\n\n<information>", "</information>\n\n"),
    invalid_notice=prompts.INVALID_NOTICE,
    reference_invalid_notice=prompts.REFERENCE_INVALID_NOTICE,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=partial(render_element, *_SEARCH),
    render_answer=partial(render_element, *_ANSWER),
)

_SEARCH_R1 = Protocol(
    name="search-r1",
    stop_strings=_TAG_STOPS,
    prompt_template=prompts.SEARCH_R1,
    max_turns=4,
    top_k=3,
    turn_tokens=500,
    context_tokens=4096,
    parse=partial(parse_tags, _TAGGED, {"search": query_action, "answer": answer_action}),
    render_documents=partial(
        docs.render_block,
        docs.search_r1_heading,
        visible_lines,
        "\n\n<information>",
        "</information>\n\n",
        "</information>\n\n",
    ),
    render_message=partial(docs.render_message, "\n\n<information>", "</information>\n\n"),
    invalid_notice=prompts.INVALID_NOTICE,
    reference_invalid_notice=prompts.REFERENCE_INVALID_NOTICE,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=partial(render_element, *_SEARCH),
    render_answer=partial(render_element, *_ANSWER),
)

# The policy's turn ends with the closing query token, which is a stop string; the observation starts after it.
_R1_SEARCHER_PROTOCOL = Protocol(
    name="r1-searcher",
    stop_strings=_R1_SEARCHER_STOPS,
    prompt_template=prompts.R1_SEARCHER,
    max_turns=8,
    top_k=3,
    turn_tokens=512,
    context_tokens=8192,
    parse=partial(parse_tags, _R1_SEARCHER, {"search": _unquoted_query, "answer": answer_action}),
    render_documents=partial(
        docs.render_block,
        docs.r1_searcher_heading,
        visible_lines,
        "\n\n<|begin_of_documents|>\n",
        "\n<|end_of_documents|>\n\n",
        "None<|end_of_documents|>\n\n",
    ),
    render_message=partial(docs.render_message, "\n\n<|begin_of_documents|>\n", "\n<|end_of_documents|>\n\n"),
    invalid_notice=None,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=partial(render_element, *_QUERY),
    render_answer=partial(render_element, *_ANSWER),
)

# ReSearch limits only the length of an episode: one turn may use the whole response, so `turn_tokens` equals
# `context_tokens`, and 16 turns are enough to fill any response.
_RESEARCH = Protocol(
    name="research",
    stop_strings=("</search>",),
    prompt_template=prompts.RESEARCH,
    max_turns=16,
    top_k=5,
    turn_tokens=8192,
    context_tokens=8192,
    parse=partial(parse_tags, _RESEARCH_TAGS, {"search": query_action, "answer": boxed_action}),
    render_documents=partial(
        docs.render_block, docs.quoted_heading, visible_lines, " <result>\n", "\n</result>", "\n</result>"
    ),
    render_message=partial(docs.render_message, " <result>\n", "\n</result>"),
    invalid_notice=prompts.RESEARCH_INVALID_NOTICE,
    last_turn_notice=prompts.BOXED_LAST_TURN_NOTICE,
    render_search=partial(render_element, *_SEARCH),
    render_answer=_boxed_answer,
)

_DEEPRESEARCHER = Protocol(
    name="deepresearcher",
    stop_strings=(),
    prompt_template=prompts.DEEPRESEARCHER,
    max_turns=10,
    top_k=10,
    turn_tokens=2000,
    context_tokens=32768,
    parse=tools.parse_deepresearcher,
    render_documents=tools.deepresearcher_documents,
    render_message=tools.deepresearcher_message,
    invalid_notice=None,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=tools.render_web_call,
    render_answer=partial(render_element, "<think></think>\n<answer>", "</answer>"),
    observation_role="tool",
    render_call=tools.deepresearcher_result,
    call_tags=tools.DEEPRESEARCHER_TAGS,
    tools=prompts.DEEPRESEARCHER_TOOLS,
    tool_prompt_template=prompts.DEEPRESEARCHER_WITHOUT_TOOLS,
)

_HERMES = Protocol(
    name="hermes",
    stop_strings=(),
    prompt_template=prompts.HERMES,
    max_turns=5,
    top_k=5,
    turn_tokens=512,
    context_tokens=8192,
    parse=tools.parse_hermes,
    render_documents=tools.hermes_documents,
    render_message=tools.hermes_message,
    invalid_notice=None,
    last_turn_notice=prompts.HERMES_LAST_TURN_NOTICE,
    render_search=tools.render_call,
    render_answer=render_boxed,
    observation_role="tool",
    render_call=tools.hermes_result,
    call_tags=tools.HERMES_TAGS,
    tools=prompts.HERMES_TOOLS,
    tool_prompt_template=prompts.HERMES_WITHOUT_TOOLS,
)

for _protocol in (_ZEROSEARCH, _SEARCH_R1, _R1_SEARCHER_PROTOCOL, _RESEARCH, _DEEPRESEARCHER, _HERMES):
    register_protocol(_protocol)
