"""Parses the output of a simulation LLM into documents, in any common numbering style; text is never invented.

Recognised headers are `Doc 1:`, `Document 1 -`, `**Doc 1**`, `## Result 1`, `[1]`, `(1)`, `1.` and `1)`, with or
without a title as in `Doc 1 (Title: Name)`. The first header determines the style, and only the next number in sequence
starts a new document. So a document that mentions "Doc 2" or contains a numbered list is not split. `reject.py` decides
whether a text is a document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...types import Document
from .reject import MIN_WORDS, NO_PROMPT, PromptWords, Rejection, is_chat, is_refusal, rejection, text_key

Problem = Rejection | Literal["empty", "too few"]

_WORD = r"(?:doc(?:ument)?|passage|result|snippet|source|information)"
_END = r"(?P<end>[*_]*(?:\s*[:.)\-\u2013\u2014]+[*_]*)?)"
_STYLES = (
    re.compile(
        rf"(?P<mark>[*_#>\-\[(\s]*){_WORD}\s*[#:.]?\s*[\[(]?(?P<number>\d{{1,4}})[\])]?{_END}(?=\s|$|\(|[^\w])",
        re.IGNORECASE,
    ),
    re.compile(rf"(?P<mark>[*_#>\s]*)[\[(](?P<number>\d{{1,4}})[\])]{_END}"),
    re.compile(r"(?P<mark>[*_#>\s]*)(?P<number>\d{1,4})(?P<end>[.):][*_]*)(?=\s|$|[*_])"),
)
_INLINE = re.compile(rf"(?<!\w){_WORD}\s*\[?(?P<number>\d{{1,4}})\]?\s*:", re.IGNORECASE)
_BULLET = re.compile(r"\s*[-*\u2022]\s+(?=\S)")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^\s*```[\w-]*\s*$", re.MULTILINE)
_TITLE = re.compile(r"\(\s*title\s*:\s*(?P<title>.*?)\)(?=\s|[^\w)]|$)\s*[:\-]?", re.IGNORECASE | re.DOTALL)
_TITLE_LINE = re.compile(r"\**title\**\s*:\s*\**(?P<title>[^\n]{1,200}?)\**\s*(?:\n|$)", re.IGNORECASE)
_BOLD_TITLE = re.compile(r"\*\*(?P<title>[^*\n]{1,200})\*\*\s*[:\-\u2013\u2014\n]\s*")
_QUOTED_TITLE = re.compile(r"\"(?P<title>[^\"\n]{1,200})\"\s*\n")
_CONTENT = re.compile(r"(?:\(\s*)?\**(?:content|text|passage|snippet)\**\s*:\**\s*", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The parsed documents. `problem` is None if and only if there are as many documents as requested."""

    documents: tuple[Document, ...]
    problem: Problem | None = None
    rejected: tuple[Rejection, ...] = ()
    """Why texts of the completion, in their order, were not taken for documents."""


def parse_documents(
    text: str,
    count: int,
    *,
    source: str = "",
    max_chars: int = 2000,
    min_words: int = MIN_WORDS,
    prompt: PromptWords = NO_PROMPT,
) -> Parsed:
    """Parse the first `count` documents of a completion.

    Args:
        text: the completion.
        count: number of documents wanted, at least 1; further documents are dropped.
        source: `source` field of every document.
        max_chars: maximum length of a document's text, in characters; it is cut there.
        min_words: minimum number of words of a document.
        prompt: the words of the prompt, whose echoes are not documents.

    Returns:
        The documents. If there are fewer than `count`, also the reason: `"empty"` (no text at all), that of the last
        text that was rejected (see `rejection`), or `"too few"`.
    """
    text = _CONTROL.sub(" ", _FENCE.sub("", _THOUGHT.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")))).strip()
    if not text:
        return Parsed((), "empty")
    if is_refusal(text):
        return Parsed((), "refusal", ("refusal",))
    documents: list[Document] = []
    rejected: list[Rejection] = []
    seen: set[str] = set()
    blocks = _blocks(_without_closing(text), count)
    if not blocks and is_chat(text):
        rejected.append("chat")
    for block in blocks:
        document = _document(block, source)
        if not document.text or len(documents) == count:
            continue
        reason = rejection(document.text, seen, prompt, min_words)
        if reason is not None:
            rejected.append(reason)
            continue
        seen.add(text_key(document.text))
        documents.append(replace(document, text=document.text[:max_chars].rstrip()))
    if len(documents) == count:
        return Parsed(tuple(documents), rejected=tuple(rejected))
    return Parsed(tuple(documents), rejected[-1] if rejected else "too few", tuple(rejected))


def _without_closing(text: str) -> str:
    """The text without lines at its end that speak to the user ("I hope this helps!")."""
    lines = text.split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or is_chat(lines[-1])):
        lines.pop()
    return "\n".join(lines)


def _blocks(text: str, count: int) -> Sequence[str]:
    """Split a completion into one string per document, with the first method that works."""
    lines = text.split("\n")
    for line in lines:
        for style in _STYLES:
            opening = style.match(line)
            if opening is not None and int(opening["number"]) in (0, 1):
                blocks = _numbered(lines, style, int(opening["number"]))
                if len(blocks) == 1 < count and style is _STYLES[0]:
                    return _inline(text, int(opening["number"])) or blocks
                return blocks
    bullets = [line for line in lines if _BULLET.match(line)]
    if len(bullets) >= count and len(bullets) > 1:
        return [_BULLET.sub("", line, count=1) for line in bullets]
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", text)]
    if len(paragraphs) > 1 and paragraphs[0].endswith(":"):
        del paragraphs[0]
    # Accept unnumbered text only if it has one paragraph per document; otherwise the split would be a guess.
    return paragraphs if len(paragraphs) == count else ()


def _numbered(lines: Sequence[str], style: re.Pattern[str], first: int) -> list[str]:
    blocks: list[list[str]] = []
    for line in lines:
        header = style.match(line)
        if header is not None and int(header["number"]) == first + len(blocks):
            blocks.append([_unmarked(line, header)])
        elif blocks:
            blocks[-1].append(line)
    return ["\n".join(block).strip() for block in blocks]


def _unmarked(line: str, header: re.Match[str]) -> str:
    """The line after its header; if a bold header continues with a title (`**Doc 1: Name**`), its stars are kept."""
    rest = line[header.end() :].lstrip(" :")
    opened, closed = "**" in header["mark"], "**" in header["end"]
    return f"**{rest}" if opened and not closed and "**" in rest else rest


def _inline(text: str, first: int) -> list[str]:
    """Split documents that are all on one line: `Doc 1: ... Doc 2: ...`."""
    starts: list[re.Match[str]] = []
    for header in _INLINE.finditer(text):
        if int(header["number"]) == first + len(starts):
            starts.append(header)
    ends = [*(header.start() for header in starts[1:]), len(text)][: len(starts)]
    return [text[header.end() : end].strip() for header, end in zip(starts, ends, strict=True)]


def _document(block: str, source: str) -> Document:
    title, text = "", block.strip()
    for pattern in (_TITLE, _TITLE_LINE, _BOLD_TITLE, _QUOTED_TITLE):
        numbered = pattern.match(text)
        if numbered is not None and text[numbered.end() :].strip():
            title, text = numbered["title"], text[numbered.end() :]
            break
    else:
        head, _, rest = text.partition("\n")
        if rest.strip() and len(head) <= 80 and not head[:1].islower() and not re.search(r"[.!?:;,]\s*$", head):
            title, text = head, rest
    text = _CONTENT.sub("", text.strip(), count=1) if _CONTENT.match(text.strip()) else text
    return Document(" ".join(title.strip(" *\"'").split())[:200], " ".join(text.split()), source)
