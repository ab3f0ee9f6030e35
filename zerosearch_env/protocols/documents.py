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

Heading = Callable[[int, str], str]
"""(1-based number, title) -> what stands before the text of one document."""


def zerosearch_heading(number: int, title: str) -> str:
    """`Doc 1: title: `; an empty title is left out."""
    return f"Doc {number}: {title}: " if title else f"Doc {number}: "


def search_r1_heading(number: int, title: str) -> str:
    """`Doc 1(Title: "title") `, as Search-R1's corpus quotes its titles."""
    return f'Doc {number}(Title: "{title}") '


def r1_searcher_heading(number: int, title: str) -> str:
    """`(1)title `."""
    return f"({number}){title} " if title else f"({number})"


def quoted_heading(number: int, title: str) -> str:
    """The title in quotes on a line of its own, after a blank line between documents."""
    between = "\n" if number > 1 else ""
    return f'{between}"{title}"\n' if title else between


def render_block(
    heading: Heading,
    clean: Callable[[str], str],
    opening: str,
    closing: str,
    nothing: str,
    documents: Sequence[Document],
    query: str = "",
) -> str:
    """The block of one search: `opening`, the documents, one below the other, `closing`.

    Args:
        heading: renders the number and the title of a document.
        clean: cleans a text: `visible` makes it one line, `visible_lines` keeps its lines.
        opening: start of the block.
        closing: end of the block.
        nothing: what follows `opening` if there are no documents.
        documents: the documents to show.
        query: not used; protocols that call tools show it.
    """
    if not documents:
        return opening + nothing
    parts = [opening]
    for number, document in enumerate(documents, 1):
        title = document.title
        parts += heading(number, title if title.isprintable() else visible(title)), clean(document.text), "\n"
    parts[-1] = closing
    block = "".join(parts)  # one piece, because texts are long: every copy shows in the time of a step
    end = len(block) - len(closing)
    if block.find("<", len(opening), end) < 0:
        return block
    return f"{opening}{defuse_tags(block[len(opening) : end])}{closing}"


def render_message(opening: str, closing: str, message: str, query: str = "") -> str:
    """The block of a search whose tool failed: its message in place of documents.

    Args:
        opening: start of the block.
        closing: end of the block.
        message: what the tool says, cleaned.
        query: not used; protocols that call tools show it.
    """
    return f"{opening}{message}{closing}"


def render_plain(documents: Sequence[Document]) -> str:
    """Documents without a block around them, for agents outside the protocols: `Doc 1: title: text`, one line each."""
    return render_block(zerosearch_heading, visible, "", "", NOTHING_FOUND, documents)
