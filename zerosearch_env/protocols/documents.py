"""Information blocks: the form in which each protocol shows documents to the policy.

Titles and separators are those of the published systems. A title is one line. So is a text in `zerosearch`; in the
other protocols it keeps its line breaks, as the passages of the published systems do. Control characters become blanks,
invisible format characters are removed, and the tags of all protocols are defused, so a document can neither close its
block nor imitate a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..types import Document
from .hygiene import defuse_tags, visible

NOTHING_FOUND = "No documents were found."
"""The content of a `zerosearch` block when the search succeeded but returned no documents."""

Line = Callable[[int, str, str], str]
"""(1-based number, title, text) -> the paragraph of one document, without a line break at its end."""


def zerosearch_line(number: int, title: str, text: str) -> str:
    """`Doc 1: title: text`; an empty title is left out."""
    return f"Doc {number}: {title}: {text}" if title else f"Doc {number}: {text}"


def search_r1_line(number: int, title: str, text: str) -> str:
    """`Doc 1(Title: "title") text`, as Search-R1's corpus quotes its titles."""
    return f'Doc {number}(Title: "{title}") {text}'


def r1_searcher_line(number: int, title: str, text: str) -> str:
    """`(1)title text`."""
    return f"({number}){title} {text}" if title else f"({number}){text}"


def quoted_passage(number: int, title: str, text: str) -> str:
    """The title in quotes and the text on two lines, with a blank line between documents."""
    head = "\n" if number > 1 else ""
    return f'{head}"{title}"\n{text}' if title else f"{head}{text}"


def render_block(
    line: Line,
    clean: Callable[[str], str],
    opening: str,
    closing: str,
    nothing: str,
    documents: Sequence[Document],
    query: str = "",
) -> str:
    """The block of one search: `opening`, the paragraphs of the documents, one below the other, `closing`.

    Args:
        line: renders one document.
        clean: cleans a text: `visible` makes it one line, `visible_lines` keeps its lines.
        opening: start of the block.
        closing: end of the block.
        nothing: what follows `opening` if there are no documents.
        documents: the documents to show.
        query: not used; protocols that call tools show it.
    """
    if not documents:
        return opening + nothing
    body = "\n".join(
        [
            line(
                number,
                document.title if document.title.isprintable() else visible(document.title),
                clean(document.text),
            )
            for number, document in enumerate(documents, 1)
        ]
    )
    return f"{opening}{defuse_tags(body)}{closing}"
