r"""Text hygiene at the two borders where foreign text enters: the policy's queries and the engine's documents.

Every function takes linear time. Nothing here decides what an action is; `tags.py` and `tools.py` do.
"""

from __future__ import annotations

import re

MAX_QUERY_SCAN = 8192
"""Characters of a query that are looked at; the rest of a longer one is dropped before cleaning."""

_TAG_NAMES = (
    "think|search|answer|information|result|tool_call|tool_response|tools|access|"
    "s|bos|eos|pad|unk|start_of_turn|end_of_turn"
)
_PROTOCOL_TAG = re.compile(
    rf"<(\s*+/?\s*+(?:{_TAG_NAMES})\b[^<>]{{0,64}}|\s{{0,8}}[|\uff5c][^<>]{{0,64}}[|\uff5c]\s{{0,8}})>", re.IGNORECASE
)
_ANY_TAG = re.compile(r"<\s{0,8}/?\s{0,8}[A-Za-z|\uff5c][^<>]{0,64}>")
# Line and paragraph separators, C0 and C1 controls and lone surrogates act as white space. What is invisible
# (zero-width space, bidirectional overrides, byte-order mark, tag characters) is removed; the joiners U+200C and
# U+200D stay, since some scripts need them.
_BLANK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_INVISIBLE = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f]+")


def visible(text: str) -> str:
    """`text` with control characters and lone surrogates as blanks and without invisible format characters."""
    if text.isprintable():
        return text
    return _INVISIBLE.sub("", _BLANK.sub(" ", text))


def clean_query(text: str) -> str:
    """A query as data: one line, no tag of any shape, no control character, single blanks, at most 8,192 characters.

    Tags are cut out again until none is left, so that one cannot be hidden in another; the text between them stays.
    """
    if len(text) > MAX_QUERY_SCAN:
        text = text[:MAX_QUERY_SCAN]
    if not text.isprintable():
        text = visible(text)
    elif "<" not in text and "  " not in text:
        return text.strip()  # the usual query: a blank is the only white space that is printable
    if "<" in text:
        for _ in range(4):
            text, found = _ANY_TAG.subn(" ", text)
            if not found:
                break
        else:
            text = text.replace("<", " ").replace(">", " ")
    return " ".join(text.split())


def defuse_tags(text: str) -> str:
    """Turn every tag of every protocol, and every special token of chat templates, into `[tag]`.

    A document can then neither act, nor close the block it stands in, nor open a chat turn. Case and blanks inside a
    tag do not matter. Other angle brackets (formulas, HTML) are left alone.
    """
    return _PROTOCOL_TAG.sub(r"[\1]", text) if "<" in text else text
