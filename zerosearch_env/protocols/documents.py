"""Information blocks: documents as each protocol shows them to the policy.

In every block each document is one paragraph (line breaks inside it become blanks), control characters are gone, and
tags of every protocol are defused, so that a document can neither close its block nor pass for a second one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..types import Document
from .hygiene import clean_query, defuse_tags, visible

NOTHING_FOUND = "No documents were found.\n"
"""Stands in the block when an engine succeeded and returned nothing."""

Line = Callable[[int, str, str], str]
"""(1-based number, title, text) to the paragraph of one document."""


def zerosearch_line(number: int, title: str, text: str) -> str:
    """`Doc 1: title: text`, the title left out when there is none."""
    return f"Doc {number}: {title}: {text}\n" if title else f"Doc {number}: {text}\n"


def search_r1_line(number: int, title: str, text: str) -> str:
    """`Doc 1(Title: title) text`."""
    return f"Doc {number}(Title: {title}) {text}\n"


def r1_searcher_line(number: int, title: str, text: str) -> str:
    """`(1)title text`."""
    return f"({number}){title} {text}\n" if title else f"({number}){text}\n"


def research_line(number: int, title: str, text: str) -> str:
    """Title and text on two lines, a blank line after each document but the last."""
    head = "\n" if number > 1 else ""
    return f"{head}{title}\n{text}\n" if title else f"{head}{text}\n"


def tool_line(number: int, title: str, text: str) -> str:
    """`[1] title: text`."""
    return f"[{number}] {title}: {text}\n" if title else f"[{number}] {text}\n"


def render_block(
    line: Line, opening: str, closing: str, nothing: str, documents: Sequence[Document], query: str
) -> str:
    """The block of one search: `opening`, one paragraph a document, `closing`; the query is not shown."""
    body = "".join(
        [
            line(
                number,
                document.title if document.title.isprintable() else visible(document.title),
                document.text if document.text.isprintable() else visible(document.text),
            )
            for number, document in enumerate(documents, 1)
        ]
    )
    return f"{opening}{defuse_tags(body) or nothing}{closing}"


def render_tool_block(opening: str, closing: str, documents: Sequence[Document], query: str) -> str:
    """The same with the query in its first line, for tools that answer query by query."""
    head = f'Results for "{clean_query(query)}":\n'
    return render_block(tool_line, opening + head, closing, NOTHING_FOUND, documents, query)
