"""The six built-in protocols. Tags, stop strings, observations and limits follow each one's publication and code."""

from __future__ import annotations

from functools import partial

from . import documents as docs
from . import prompts, tools
from .base import ParsedAction, Protocol, register_protocol
from .tags import answer_action, boxed_action, make_grammar, parse_tags, query_action, render_boxed, render_element

_SEARCH = ("<search>", "</search>")
_ANSWER = ("<answer>", "</answer>")
_CALL = ("<tool_call>", "</tool_call>")
_QUERY = ("<|begin_of_query|>", "<|end_of_query|>")

_TAGGED = make_grammar({"search": _SEARCH, "answer": _ANSWER})
_R1_SEARCHER = make_grammar({"search": _QUERY, "answer": _ANSWER}, open_thought_acts=True)
_CALL_OR_ANSWER = make_grammar({"search": _CALL, "answer": _ANSWER})
_CALL_ONLY = make_grammar({"search": _CALL})


def _unquoted_query(content: str) -> ParsedAction:
    return query_action(content.replace('"', " "))


def _boxed_answer(answer: str) -> str:
    return f"<answer>{render_boxed(answer)}</answer>"


_ZEROSEARCH = Protocol(
    name="zerosearch",
    stop_strings=("</search>", "</answer>"),
    prompt_template=prompts.ZEROSEARCH,
    max_turns=5,
    top_k=5,
    turn_tokens=500,
    context_tokens=4096,
    parse=partial(parse_tags, _TAGGED, {"search": query_action, "answer": answer_action}),
    render_documents=partial(
        docs.render_block, docs.zerosearch_line, "\n\n<information>", "</information>\n\n", docs.NOTHING_FOUND
    ),
    invalid_notice=prompts.INVALID_NOTICE,
    reference_invalid_notice=prompts.REFERENCE_INVALID_NOTICE,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=partial(render_element, *_SEARCH),
    render_answer=partial(render_element, *_ANSWER),
)

_SEARCH_R1 = Protocol(
    name="search-r1",
    stop_strings=("</search>", "</answer>"),
    prompt_template=prompts.SEARCH_R1,
    max_turns=4,
    top_k=3,
    turn_tokens=500,
    context_tokens=4096,
    parse=partial(parse_tags, _TAGGED, {"search": query_action, "answer": answer_action}),
    render_documents=partial(
        docs.render_block, docs.search_r1_line, "\n\n<information>", "</information>\n\n", docs.NOTHING_FOUND
    ),
    invalid_notice=prompts.INVALID_NOTICE,
    reference_invalid_notice=prompts.REFERENCE_INVALID_NOTICE,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=partial(render_element, *_SEARCH),
    render_answer=partial(render_element, *_ANSWER),
)

# The policy's turn ends with the closing query token, which is a stop string; the observation starts after it.
_R1_SEARCHER_PROTOCOL = Protocol(
    name="r1-searcher",
    stop_strings=("<|end_of_query|>", "</answer>", "<|im_end|>", "<|endoftext|>"),
    prompt_template=prompts.R1_SEARCHER,
    max_turns=8,
    top_k=3,
    turn_tokens=512,
    context_tokens=8192,
    parse=partial(parse_tags, _R1_SEARCHER, {"search": _unquoted_query, "answer": answer_action}),
    render_documents=partial(
        docs.render_block, docs.r1_searcher_line, "\n\n<|begin_of_documents|>\n", "\n<|end_of_documents|>\n\n", "None"
    ),
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
    parse=partial(parse_tags, _TAGGED, {"search": query_action, "answer": boxed_action}),
    render_documents=partial(docs.render_block, docs.research_line, " <result>\n", "\n</result>", docs.NOTHING_FOUND),
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
    top_k=5,
    turn_tokens=2000,
    context_tokens=32768,
    parse=partial(parse_tags, _CALL_OR_ANSWER, {"search": tools.call_action, "answer": answer_action}),
    render_documents=partial(docs.render_tool_block, "\n<tool_response>\n", "\n</tool_response>\n"),
    invalid_notice=None,
    last_turn_notice=prompts.LAST_TURN_NOTICE,
    render_search=tools.render_web_call,
    render_answer=partial(render_element, *_ANSWER),
)

_HERMES = Protocol(
    name="hermes",
    stop_strings=(),
    prompt_template=prompts.HERMES,
    max_turns=5,
    top_k=5,
    turn_tokens=512,
    context_tokens=8192,
    parse=partial(tools.parse_calls_or_final, _CALL_ONLY),
    render_documents=partial(docs.render_tool_block, "\n<tool_response>\n", "\n</tool_response>\n"),
    invalid_notice=None,
    last_turn_notice=prompts.HERMES_LAST_TURN_NOTICE,
    render_search=tools.render_call,
    render_answer=render_boxed,
)

for _protocol in (_ZEROSEARCH, _SEARCH_R1, _R1_SEARCHER_PROTOCOL, _RESEARCH, _DEEPRESEARCHER, _HERMES):
    register_protocol(_protocol)
