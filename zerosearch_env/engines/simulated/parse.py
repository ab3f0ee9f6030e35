"""Parses the output of a simulation LLM into documents, in any common numbering style; text is never invented.

Recognised headers are `Doc 1:`, `Document 1 -`, `**Doc 1**`, `## Result 1`, `[1]`, `(1)`, `1.` and `1)`, with or
without a title as in `Doc 1 (Title: Name)`. The first header determines the style, and only the next number in sequence
starts a new document. So a document that mentions "Doc 2" or contains a numbered list is not split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...types import Document

Problem = Literal["empty", "refusal", "looping", "too few"]

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
_REFUSAL = re.compile(
    r"[\s\"'*]*(?:(?:i'?m|i am)\s+(?:(?:very|so|really)\s+)?(?:sorry|afraid|unable|not able)|sorry\b|i\s+apologi[sz]e|"
    r"i\s+(?:can(?:no|')?t|can not|won't|will not|must decline|do not have|don't have)\b|"
    r"as an? (?:ai|artificial|large))",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The parsed documents. `problem` is None if and only if there are as many documents as requested."""

    documents: tuple[Document, ...]
    problem: Problem | None = None


def parse_documents(text: str, count: int, *, source: str = "", max_chars: int = 2000) -> Parsed:
    """Parse the first `count` documents of a completion.

    Args:
        text: the completion.
        count: number of documents wanted, at least 1; further documents are dropped.
        source: `source` field of every document.
        max_chars: maximum length of a document's text, in characters.

    Returns:
        The documents. If there are fewer than `count`, also the reason: `"empty"` (no text at all), `"refusal"`,
        `"looping"` (the same document twice, or a document that repeats itself) or `"too few"`.
    """
    text = _CONTROL.sub(" ", _FENCE.sub("", _THOUGHT.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")))).strip()
    if not text:
        return Parsed((), "empty")
    if _REFUSAL.match(text):
        return Parsed((), "refusal")
    documents: list[Document] = []
    seen: set[str] = set()
    problem: Problem = "too few"
    for block in _blocks(text, count):
        document = _document(block, source, max_chars)
        key = " ".join(document.text.casefold().split())
        if not key:
            continue
        if _REFUSAL.match(document.text):
            problem = "refusal"
        elif key in seen or _loops(key):
            problem = "looping"
        else:
            seen.add(key)
            documents.append(document)
    if len(documents) >= count:
        return Parsed(tuple(documents[:count]))
    return Parsed(tuple(documents), problem)


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


def _document(block: str, source: str, max_chars: int) -> Document:
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
    return Document(" ".join(title.strip(" *\"'").split())[:200], " ".join(text.split())[:max_chars].rstrip(), source)


def _loops(text: str) -> bool:
    """Whether a text repeats itself: fewer than half of its runs of four words are distinct.

    Texts without spaces are compared in runs of eight characters.
    """
    units: Sequence[str] = text.split()
    size = 4
    if len(units) < 24:
        if len(units) > 8 or len(text) < 96:
            return False
        units, size = text, 8
    runs = [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]
    return len(set(runs)) < 0.5 * len(runs)
