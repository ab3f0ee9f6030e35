"""Information blocks: the form in which each protocol shows documents to the policy.

In every block each document is one paragraph: line breaks become blanks and control characters are removed. The tags of
all protocols are defused, so a document can neither close its block nor imitate another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..types import Document
from .hygiene import clean_query, defuse_tags, visible

NOTHING_FOUND = "No documents were found."
"""The content of the block when the search succeeded but returned no documents."""

Line = Callable[[int, str, str], str]
"""(1-based number, title, text) -> the paragraph of one document, without a line break at its end."""


def zerosearch_line(number: int, title: str, text: str) -> str:
    """`Doc 1: title: text`; an empty title is left out."""
    return f"Doc {number}: {title}: {text}" if title else f"Doc {number}: {text}"


def search_r1_line(number: int, title: str, text: str) -> str:
    """`Doc 1(Title: title) text`."""
    return f"Doc {number}(Title: {title}) {text}"


def r1_searcher_line(number: int, title: str, text: str) -> str:
    """`(1)title text`."""
    return f"({number}){title} {text}" if title else f"({number}){text}"


def research_line(number: int, title: str, text: str) -> str:
    """Title and text on two lines, with a blank line between documents."""
    head = "\n" if number > 1 else ""
    return f"{head}{title}\n{text}" if title else f"{head}{text}"


def tool_line(number: int, title: str, text: str) -> str:
    """`[1] title: text`."""
    return f"[{number}] {title}: {text}" if title else f"[{number}] {text}"


def render_block(
    line: Line, opening: str, closing: str, nothing: str, documents: Sequence[Document], query: str
) -> str:
    """The block of one search: `opening`, one paragraph per document, `closing`. The query is not shown.

    Args:
        line: renders one document.
        opening: start of the block.
        closing: end of the block.
        nothing: content of the block if there are no documents.
        documents: the documents to show.
        query: not used; `render_tool_block` takes it too.
    """
    body = "\n".join(
        [
            line(
                number,
                document.title if document.title.isprintable() else visible(document.title),
                visible(document.text),
            )
            for number, document in enumerate(documents, 1)
        ]
    )
    return f"{opening}{defuse_tags(body) or nothing}{closing}"


def render_tool_block(opening: str, closing: str, documents: Sequence[Document], query: str) -> str:
    """Like `render_block`, with the query in the first line, for protocols that call tools."""
    head = f'Results for "{clean_query(query)}":\n'
    return render_block(tool_line, opening + head, closing, NOTHING_FOUND, documents, query)
