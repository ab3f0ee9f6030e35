"""Protocols that call tools (DeepResearcher, ReCall, Hermes): JSON objects between `<tool_call>` and `</tool_call>`.

Only what follows the first `</think>` of a turn acts: before it the policy drafts. The calls of `hermes` are read as
ReCall reads them: all of a turn, if its opening and closing tags pair up. Those of `deepresearcher` are read as
DeepResearcher reads them: the first one, which may hold several queries; an answer in the same turn comes first; and a
turn without `</think>` is invalid, because the prompt has opened its thought.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..types import Document
from .base import INVALID, ParsedAction, ToolCall
from .documents import quoted_heading, render_block
from .hygiene import clean_query, defuse_tags, visible, visible_lines
from .tags import THINK_END, answer_action, boxed_action

CALL, CALL_END = "<tool_call>", "</tool_call>"
HERMES_TAGS = ("<tool_response>", "\n</tool_response>\n")
DEEPRESEARCHER_TAGS = ("<tool_response>\n", "\n</tool_response>\n")

_CALL_TAG = re.compile("<(/?)tool_call>")
_QUERY_KEYS = ("query", "queries", "query_list", "q")
_PAGE_KEYS = ("url_list", "urls", "url")
_NESTED = 2
"""Maximum number of times a value is decoded from JSON (some servers encode arguments twice)."""
_MISSING_BRACES = 2
"""Maximum number of closing braces that may be missing at the end of a call: one per object."""
_DEEPRESEARCHER_QUERIES = 3
"""DeepResearcher searches for the first three queries of a call."""
_MAX_SEARCHES = 16
"""Maximum number of searches in one turn of `hermes`; the calls after them are refused."""

_BROKEN = "This call cannot be read: it has to be a JSON object with a name and arguments."
_NO_QUERY = "This call has no query: its argument query has to be a text or a list of texts."
_NO_PAGE = "This call has no page: its argument url_list has to be a list of texts."
_UNKNOWN_PAGE = "None of these pages is among the results of the searches so far."
_TOO_MANY = "Too many searches in one turn. Make this call again in the next one."


def read_call(content: str, *, pages: bool = False) -> ToolCall | None:
    """Read the content of a call, or None if it is not a JSON object with a name and arguments.

    A search has a `name` that contains "search"; its query is in `query`, `queries`, `query_list` or `q`, as a string
    or a list of strings, of which empty ones are left out. Arguments are an object, or an object encoded as a string.
    Any other call that can be read has its `error` set.

    Like the parsers of inference servers, this accepts line breaks and other control characters inside strings, and
    closing braces that are missing at the end. Nothing else is repaired: quotes are never guessed.

    Args:
        content: the text between the tags.
        pages: whether there is a second tool, `browse_webpage` with `url_list`.
    """
    text = defuse_tags(content.strip())
    call = _decode(content)
    if not isinstance(call, dict):
        return None
    name, arguments = call.get("name"), _decode(call.get("arguments"))
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    if pages and name == "browse_webpage":
        urls = _texts(arguments, _PAGE_KEYS)
        return ToolCall(text, pages=urls) if urls else ToolCall(text, error=_NO_PAGE)
    if "search" in name.lower():
        queries = _texts(arguments, _QUERY_KEYS)
        return ToolCall(text, queries) if queries else ToolCall(text, error=_NO_QUERY)
    return ToolCall(text, error=f"There is no function with the name {clean_query(name)[:80]!r}.")


def _texts(arguments: dict[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    """The cleaned, non-empty strings of the first key that is there."""
    value = next((arguments[key] for key in keys if key in arguments), None)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(part, str) for part in values):
        return ()
    return tuple(filter(None, map(clean_query, values)))


def _decode(value: Any) -> Any:
    for _ in range(_NESTED):
        if not isinstance(value, str):
            break
        value = _load(value)
    return value


def _load(text: str) -> Any:
    for missing in range(_MISSING_BRACES + 1):
        try:
            return json.loads(text + "}" * missing, strict=False)
        except (ValueError, RecursionError):
            continue
    return None


def find_calls(text: str) -> list[tuple[str, int]]:
    """The contents of all calls and the positions of their ends; none if opening and closing tags do not pair up."""
    marks: tuple[list[int], list[int]] = ([], [])
    for match in _CALL_TAG.finditer(text):
        marks[bool(match[1])].append(match.start())
    starts, ends = marks
    if len(starts) != len(ends) or any(start > end for start, end in zip(starts, ends, strict=True)):
        return []
    calls: list[tuple[str, int]] = []
    position = k = 0
    for start in starts:
        if start >= position:
            while ends[k] < start:
                k += 1
            calls.append((text[start + len(CALL) : ends[k]], ends[k] + len(CALL_END)))
            position = calls[-1][1]
    return calls


def parse_hermes(text: str) -> ParsedAction:
    r"""Parse one turn of `hermes`: all calls of a turn act, and a turn without a call is the final answer.

    The prediction is the last `\boxed{}`. A call that cannot be carried out gets an error, and the episode continues.
    """
    start = text.find(THINK_END) + len(THINK_END) if THINK_END in text else 0
    final = text[start:]
    contents = find_calls(final)
    if not contents:
        return boxed_action(final)
    calls: list[ToolCall] = []
    searches = 0
    for content, _ in contents:
        call = read_call(content) or ToolCall(defuse_tags(content.strip()), error=_BROKEN)
        searches += len(call.queries)
        if call.queries and searches > _MAX_SEARCHES:
            call = ToolCall(call.text, error=_TOO_MANY)
        calls.append(call)
    return _calls_action(tuple(calls), start + contents[-1][1])


def parse_deepresearcher(text: str) -> ParsedAction:
    """Parse one turn of `deepresearcher`: an answer, or else its first call, which searches or reads pages."""
    start = text.find(THINK_END) + len(THINK_END)
    if start < len(THINK_END):
        return INVALID
    opening, closing, kind = "<answer>", "</answer>", "answer"
    begin = text.find(opening, start)
    if begin < 0:
        opening, closing, kind = CALL, CALL_END, "search"
        begin = text.find(opening, start)
    end = text.find(closing, begin)
    if begin < 0 or end < 0:
        return INVALID
    content = text[begin + len(opening) : end]
    end += len(closing)
    if kind == "answer":
        action = answer_action(content)
        return ParsedAction(action.kind, action.content, end)
    call = read_call(content, pages=True)
    if call is None:
        return ParsedAction("invalid", "", end)
    return _calls_action((ToolCall(call.text, call.queries[:_DEEPRESEARCHER_QUERIES], call.pages, call.error),), end)


def _calls_action(calls: tuple[ToolCall, ...], end: int) -> ParsedAction:
    queries = [query for call in calls for query in call.queries]
    if queries:
        return ParsedAction("search", "; ".join(queries), end, calls)
    pages = [page for call in calls for page in call.pages]
    return ParsedAction("browse" if pages else "invalid", "; ".join(pages), end, calls)


def hermes_result(call: ToolCall, groups: Sequence[Sequence[Document]]) -> str:
    """What ReCall's policies are told about a call: the call, then its result or error."""
    if call.error is not None:
        return f"{call.text}\nerror: \n{call.error}"
    documents = [document for group in groups for document in group]
    head = f"{call.text}\n"
    return render_block(quoted_heading, visible_lines, f"{head}result: \n", "", "", documents) if documents else head


def deepresearcher_result(call: ToolCall, groups: Sequence[Sequence[Document]]) -> str:
    """What DeepResearcher's policies are told about a call: a list of results, as Python writes it."""
    if call.error is not None:
        return call.error
    if call.queries:
        return str(
            [
                {
                    "search_query": query,
                    "web_page_info_list": [
                        {
                            "title": defuse_tags(visible(document.title)),
                            "url": defuse_tags(visible(document.source)),
                            "quick_summary": defuse_tags(visible_lines(document.text)),
                        }
                        for document in group
                    ],
                }
                for query, group in zip(call.queries, groups, strict=True)
            ]
        )
    pages = [
        {
            "url": page,
            "information": [
                {"page_number": number, "page_summary": defuse_tags(visible_lines(document.text))}
                for number, document in enumerate(group)
            ],
        }
        for page, group in zip(call.pages, groups, strict=True)
        if group
    ]
    return str(pages) if pages else _UNKNOWN_PAGE


def render_results(tags: tuple[str, str], contents: Iterable[str]) -> str:
    """The observation of a turn: what the policy is told about each of its calls, between `tags`."""
    return "\n" + "".join([f"{tags[0]}{content}{tags[1]}" for content in contents])


def hermes_documents(documents: Sequence[Document], query: str) -> str:
    """The observation after the call of `hermes` that searches for one query."""
    call = ToolCall(_hermes_call(query), (clean_query(query),))
    return render_results(HERMES_TAGS, [hermes_result(call, [documents])])


def hermes_message(message: str, query: str) -> str:
    """The observation after the call of `hermes` if the search tool says that it failed."""
    call = ToolCall(_hermes_call(query), (clean_query(query),), error=message)
    return render_results(HERMES_TAGS, [hermes_result(call, [])])


def deepresearcher_documents(documents: Sequence[Document], query: str) -> str:
    """The observation after the call of `deepresearcher` that searches for one query."""
    call = ToolCall("", (clean_query(query),))
    return render_results(DEEPRESEARCHER_TAGS, [deepresearcher_result(call, [documents])])


def deepresearcher_message(message: str, query: str) -> str:
    """The observation after the call of `deepresearcher` if the search tool says that it failed."""
    call = ToolCall("", (clean_query(query),), error=message)
    return render_results(DEEPRESEARCHER_TAGS, [deepresearcher_result(call, [])])


def _hermes_call(query: str) -> str:
    return json.dumps({"name": "search", "arguments": {"query": clean_query(query)}}, ensure_ascii=False)


def render_call(query: str) -> str:
    """A well-formed tool call that searches for `query`."""
    return f"{CALL}\n{_hermes_call(query)}\n{CALL_END}"


def render_web_call(query: str) -> str:
    """A well-formed turn in DeepResearcher's form: a thought and a call of `web_search` with a list of queries."""
    call = {"name": "web_search", "arguments": {"query": [clean_query(query)]}}
    return f"<think></think>\n{CALL}\n{json.dumps(call, ensure_ascii=False)}\n{CALL_END}"
