r"""Cleaning of untrusted text: the policy's queries and the engine's documents.

Every function takes linear time. Actions are parsed in `tags.py` and `tools.py`, not here.
"""

from __future__ import annotations

import re

MAX_QUERY_SCAN = 8192
"""Queries are cut to this many characters before they are cleaned."""

_TAG_NAMES = (
    "think|search|answer|information|result|tool_call|tool_response|tools|access|"
    "s|bos|eos|pad|unk|start_of_turn|end_of_turn"
)
_PROTOCOL_TAG = re.compile(
    rf"<(\s*+/?\s*+(?:{_TAG_NAMES})\b[^<>]{{0,64}}|\s{{0,8}}[|\uff5c][^<>]{{0,64}}[|\uff5c]\s{{0,8}})>", re.IGNORECASE
)
_ANY_TAG = re.compile(r"<\s{0,8}/?\s{0,8}[A-Za-z|\uff5c][^<>]{0,64}>")
# Line and paragraph separators, C0 and C1 controls and lone surrogates are replaced by blanks. Invisible characters
# (zero-width space, bidirectional overrides, byte-order mark, tag characters) are removed, except the joiners U+200C
# and U+200D, which some scripts need.
_BLANK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_PRINTABLE = bytes(range(0x20, 0x7F))
_BLANK_IN_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")  # without \t and \n
_PRINTABLE_IN_LINES = _PRINTABLE + b"\t\n"
_INVISIBLE = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f]+")


def visible(text: str) -> str:
    """Replace control characters and lone surrogates by blanks and remove invisible format characters."""
    # Deleting what is printable from an ASCII text takes a third of the time of `isprintable`.
    if not text.encode().translate(None, _PRINTABLE) if text.isascii() else text.isprintable():
        return text
    return _INVISIBLE.sub("", _BLANK.sub(" ", text))


def visible_lines(text: str) -> str:
    r"""Like `visible`, but tabs and line breaks (`\n`) stay."""
    if not text.encode().translate(None, _PRINTABLE_IN_LINES) if text.isascii() else text.isprintable():
        return text
    return _INVISIBLE.sub("", _BLANK_IN_LINES.sub(" ", text.replace("\r\n", "\n")))


def clean_query(text: str) -> str:
    """Clean a query: one line, no tags, no control characters, single blanks, at most 8,192 characters.

    Removing a tag can leave a new one, as in `<a<b>>`, so removal is repeated. After four rounds all remaining angle
    brackets are dropped. The text between tags is kept.
    """
    if len(text) > MAX_QUERY_SCAN:
        text = text[:MAX_QUERY_SCAN]
    if not text.isprintable():
        text = visible(text)
    elif "<" not in text and "  " not in text:
        return text.strip()  # common case: a blank is the only printable white space, so nothing else needs cleaning
    if "<" in text:
        for _ in range(4):
            text, removed = _ANY_TAG.subn(" ", text)
            if not removed:
                break
        else:
            text = text.replace("<", " ").replace(">", " ")
    return " ".join(text.split())


def defuse_tags(text: str) -> str:
    """Replace `<tag>` by `[tag]` for the tags of all protocols and the special tokens of chat templates.

    A document can then neither trigger an action, nor close its own block, nor open a chat turn. Case and blanks inside
    a tag are ignored. Other angle brackets (formulas, HTML) are not changed.
    """
    return _PROTOCOL_TAG.sub(r"[\1]", text) if "<" in text else text
