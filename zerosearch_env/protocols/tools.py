"""Tool-call grammars: a JSON object between `<tool_call>` and `</tool_call>` (DeepResearcher, ReCall, Hermes)."""

from __future__ import annotations

import json
from typing import Any

from .base import INVALID, ParsedAction
from .hygiene import clean_query
from .tags import Grammar, boxed_action, opened_thought, query_action, scan_elements, without_thoughts

_QUERY_KEYS = ("query", "queries", "query_list", "q")
_NESTED = 2
"""Maximum number of times a value is decoded from JSON (some servers encode arguments twice)."""
_MISSING_BRACES = 2
"""Maximum number of closing braces that may be missing at the end of a call: one per object."""


def call_action(content: str) -> ParsedAction:
    """The search requested by a tool call, or an invalid turn.

    A valid call is an object with a `name` that contains "search" and with `arguments` (an object, or an object encoded
    as a string). The query is in `query`, `queries`, `query_list` or `q`, as a string or a list of strings. One turn
    makes one search, so several queries are joined by "; "; empty ones are left out. Broken JSON, another tool, or a
    query of another type make the turn invalid.

    Like the parsers of inference servers, this accepts line breaks and other control characters inside strings, and
    closing braces that are missing at the end. Nothing else is repaired: quotes are never guessed.
    """
    call = _decode(content)
    if not isinstance(call, dict):
        return INVALID
    name, arguments = call.get("name"), _decode(call.get("arguments"))
    if not isinstance(name, str) or "search" not in name.lower() or not isinstance(arguments, dict):
        return INVALID
    query = next((arguments[key] for key in _QUERY_KEYS if key in arguments), None)
    if isinstance(query, list) and all(isinstance(part, str) for part in query):
        query = "; ".join(filter(None, map(clean_query, query)))
    return query_action(query) if isinstance(query, str) else INVALID


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


def parse_calls_or_final(grammar: Grammar, text: str) -> ParsedAction:
    r"""Parse one turn of a protocol in which a turn without a tool call is the final answer (Hermes, ReCall).

    The first complete call outside thoughts decides. Without a call, the prediction is the last `\boxed{}` outside
    thoughts. Everything up to the last `</think>` counts as thought, because the prompt may have opened it.
    """
    element = scan_elements(grammar, text, opened_thought(grammar, text))
    if element is not None:
        action = call_action(element[1])
        return ParsedAction(action.kind, action.content, element[2])
    return boxed_action(without_thoughts(text).rpartition("</think>")[2])


def render_call(query: str) -> str:
    """A well-formed tool call that searches for `query`."""
    call = {"name": "search", "arguments": {"query": clean_query(query)}}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def render_web_call(query: str) -> str:
    """A well-formed tool call in DeepResearcher's form: tool `web_search` with a list of queries."""
    call = {"name": "web_search", "arguments": {"query": [clean_query(query)]}}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"
