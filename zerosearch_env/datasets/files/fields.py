"""Read the fields of a row: text, answers, paragraphs.

Depending on who wrote the file and which library read it, the same field is a list, a tuple, a numpy array, a dict of
lists or a JSON string. All these forms are accepted. Anything else raises a `RowError`; values are never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...types import Json, Paragraph
from .rows import Row, RowError

ANSWER_SEPARATOR = "<|answer_split|>"
"""Separates several gold answers in one string (DeepResearcher's data)."""


def plain(value: Json) -> Json:
    """Convert numpy arrays and scalars to plain Python values, at any depth."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def first_of(row: Row, names: Iterable[str]) -> str | None:
    """The first of these field names whose value in the row is not null, or None."""
    return next((name for name in names if row.get(name) is not None), None)


def text(value: Json, field: str) -> str:
    """Check that a value is a non-empty string, and strip the white space around it.

    Raises:
        RowError: the value is not a string, is blank, or contains a lone surrogate (half a character).
    """
    if not isinstance(value, str) or not value.strip():
        raise RowError(field, "a non-empty string", value)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowError(field, "valid Unicode (it holds half a surrogate pair)", value) from None
    return value.strip()


def answers(value: Json, field: str) -> tuple[str, ...]:
    """Gold answers from a string, a number, a list of these, or a dict in a known form; duplicates and blanks dropped.

    Raises:
        RowError: there is no answer, or an answer is neither a string nor a number.
    """
    texts: dict[str, None] = {}
    for item in _answer_items(plain(value), field):
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise RowError(field, "strings or numbers as answers", item)
        if str(item).strip():
            texts.setdefault(text(str(item), field))
    if not texts:
        raise RowError(field, "at least one non-empty answer", value)
    return tuple(texts)


def _answer_items(value: Any, field: str) -> list[Any]:
    if isinstance(value, str):
        return list(value.split(ANSWER_SEPARATOR))
    if isinstance(value, Mapping):
        for name in ("target", "text", "ground_truth"):
            if value.get(name) is not None:
                return _answer_items(value[name], f"{field}.{name}")
        if value.get("value") is not None:
            return [value["value"], *(value.get("aliases") or ())]
        raise RowError(field, "a dict with 'target', 'text', or 'value'", value)
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def unpacked(value: Json, field: str) -> Json:
    """A nested field as Python objects; a field stored as a JSON string is parsed."""
    value = plain(value)
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            raise RowError(field, "a list, a dict, or either as a JSON string", value) from None
    return value


def titled_sentences(value: Json, field: str) -> list[tuple[str, str]]:
    """(title, text) pairs from `[[title, [sentence, ...]], ...]` or from a dict of lists of equal length."""
    value = unpacked(value, field)
    if isinstance(value, Mapping):
        bodies = first_of(value, ("sentences", "content", "text"))
        if bodies is None or not isinstance(value.get("title"), list) or len(value["title"]) != len(value[bodies]):
            raise RowError(field, "lists 'title' and 'sentences' of equal length", value)
        value = list(zip(value["title"], value[bodies], strict=True))
    if not isinstance(value, list) or not value:
        raise RowError(field, "a non-empty list of [title, sentences]", value)
    paragraphs = []
    for entry in value:
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
            raise RowError(field, "[title, sentences]", entry)
        title, body = entry
        sentences = [body] if isinstance(body, str) else body
        if (
            not isinstance(title, str)
            or not isinstance(sentences, list)
            or not all(isinstance(s, str) for s in sentences)
        ):
            raise RowError(field, "[title, sentences]", entry)
        paragraphs.append((title.strip(), " ".join(sentence.strip() for sentence in sentences).strip()))
    return paragraphs


def supporting_titles(value: Json, field: str) -> set[str]:
    """Titles of supporting facts, from `[[title, sentence number], ...]` or from a dict of lists."""
    value = unpacked(value, field)
    titles = value.get("title") if isinstance(value, Mapping) else value
    if not isinstance(titles, list):
        raise RowError(field, "a list of [title, sentence number]", value)
    names = set()
    for entry in titles:
        title = entry[0] if isinstance(entry, (list, tuple)) and entry else entry
        if not isinstance(title, str):
            raise RowError(field, "[title, sentence number]", entry)
        names.add(title.strip())
    return names


def flagged_paragraphs(value: Json, field: str) -> tuple[Paragraph, ...]:
    """Paragraphs from dicts with `title`, `paragraph_text` and `is_supporting` (MuSiQue)."""
    value = unpacked(value, field)
    if not isinstance(value, list) or not value:
        raise RowError(field, "a non-empty list of paragraphs", value)
    paragraphs = []
    for entry in value:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("is_supporting"), bool):
            raise RowError(field, "dicts with 'title', 'paragraph_text' and 'is_supporting'", entry)
        body = text(entry.get("paragraph_text"), f"{field}.paragraph_text")
        paragraphs.append(Paragraph(str(entry.get("title") or "").strip(), body, entry["is_supporting"]))
    return tuple(paragraphs)
