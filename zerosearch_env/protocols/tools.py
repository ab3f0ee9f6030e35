"""The tool-call grammars: a JSON object between `<tool_call>` and `</tool_call>` (DeepResearcher, ReCall, Hermes)."""

from __future__ import annotations

import json
from typing import Any

from .base import INVALID, ParsedAction
from .hygiene import clean_query
from .tags import Grammar, boxed_action, query_action, scan_elements, without_thoughts

_QUERY_KEYS = ("query", "queries", "query_list", "q")
_NESTED = 2
"""How often arguments may be JSON inside a JSON string (some servers encode them twice)."""


def call_action(content: str) -> ParsedAction:
    """The search that a tool call asks for, or an invalid turn.

    Valid is an object with a `name` that contains "search" and `arguments` (an object, or one encoded as a string)
    that hold the query under `query`, `queries`, `query_list` or `q`: a string or a list of strings. A turn is one
    search, so several queries are joined by "; ", empty ones left out. Broken JSON, another tool, a query of another
    type: invalid.
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
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value


def parse_calls_or_final(grammar: Grammar, text: str) -> ParsedAction:
    r"""Parse one turn of a protocol in which a turn without a call is the final answer (Hermes, ReCall).

    The first complete call outside thoughts decides. Without one, the prediction is the last `\boxed{}` outside
    thoughts, where everything up to the last `</think>` counts as thought (the prompt may have opened it).
    """
    element = scan_elements(grammar, text)
    if element is not None:
        return call_action(element[1])
    return boxed_action(without_thoughts(text).rpartition("</think>")[2])


def render_call(query: str) -> str:
    """A well-formed tool call that searches for `query`."""
    call = {"name": "search", "arguments": {"query": clean_query(query)}}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def render_web_call(query: str) -> str:
    """The same in DeepResearcher's form: tool `web_search`, a list of queries."""
    call = {"name": "web_search", "arguments": {"query": [clean_query(query)]}}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"
