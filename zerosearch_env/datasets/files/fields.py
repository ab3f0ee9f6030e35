"""Read the fields of a row: text, answers, paragraphs.

Depending on who wrote the file and which library read it, the same field is a list, a tuple, a NumPy array, a dict of
lists, or any of these as text (see `packed`). All these forms are accepted. Anything else raises a `RowError`; values
are never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from ...types import Json, JsonObject, Paragraph
from .columns import find_column, first_of, missing
from .packed import unpack
from .rows import Row, RowError

ANSWER_SEPARATOR = "<|answer_split|>"
"""Separates several gold answers in one string (DeepResearcher's data)."""
_ANSWER_KEYS = ("target", "text", "ground_truth", "value", "answer", "answers", "entity_name", "answer_argument")
"""Keys of a dict that holds answers."""
_LISP_ITEM = r"""\((?:description|name|number)\s+("(?:[^"\\]|\\.)*"|[^\s()"]+)\)"""
_LISP_LIST = re.compile(rf"\(list(?:\s+{_LISP_ITEM})+\)")
_WHOLE_FLOATS = 2.0**53
"""Below this, every whole number has its own float."""


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
            raise RowError(
                field, "valid Unicode (it holds half a surrogate pair, or a byte that is not UTF-8)", value
            ) from None
    return value.strip()


def written(value: Json) -> str:
    """A string or number as a person writes it: a float without a fraction loses its ".0"."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE_FLOATS:
        value = int(value)
    return str(value).strip()


def unpacked(value: Json, field: str) -> Json:
    """A nested field as Python objects; a list or dict stored as text is parsed.

    Raises:
        RowError: the value is a text that holds neither.
    """
    value = unpack(value, field)
    if isinstance(value, str):
        raise RowError(field, "a list, a dict, or either as JSON or Python text", value)
    return value


def mapping(row: Row, field: str) -> Row:
    """The dict in an optional field; empty if the field is empty or holds something else."""
    value = unpack(row.get(field), field)
    return value if isinstance(value, dict) else {}


def messages(value: Json) -> tuple[JsonObject, ...] | None:
    """The messages of a prompt; None if the value is neither a text, which is one user message, nor messages."""
    if type(value) is not list:
        try:
            value = unpack(value, "prompt")
        except RowError:
            return None
        if isinstance(value, str) and value.strip():
            return ({"role": "user", "content": value},)
        if not isinstance(value, list):
            return None
    for message in value:
        if not isinstance(message, Mapping) or not (
            isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        ):
            return None
    return tuple(value) or None


def answers(value: Json, field: str) -> tuple[str, ...]:
    """Gold answers from a string, a number, a list of these, or a dict in a known form; duplicates and blanks dropped.

    True and False are the answers "yes" and "no".

    Raises:
        RowError: there is no answer, or an answer is neither a string nor a finite number.
    """
    texts: dict[str, None] = {}
    for item in _answer_items(value, field):
        if isinstance(item, bool):
            item = "yes" if item else "no"
        if not isinstance(item, str) and not (isinstance(item, (int, float)) and math.isfinite(item)):
            raise RowError(field, "strings, numbers, true or false as answers", item)
        if answer := written(item):
            texts.setdefault(text(answer, field))
    if not texts:
        raise RowError(field, "at least one non-empty answer", value)
    return tuple(texts)


def _answer_items(value: Json, field: str) -> list[Json]:
    value = unpack(value, field)
    if isinstance(value, str):
        return _lisp_items(value) or value.split(ANSWER_SEPARATOR)
    if isinstance(value, Mapping):
        return _items_of_dict(value, field)
    if isinstance(value, list):
        return [item for entry in value for item in _items_of_entry(entry, field)]
    return [] if missing(value) else [value]


def _items_of_entry(entry: Json, field: str) -> list[Json]:
    """The answers in an entry of a list: a dict or packed list holds several, anything else is one."""
    if isinstance(entry, str):
        entry = unpack(entry, field)
        return [entry] if isinstance(entry, str) else _answer_items(entry, field)
    return _answer_items(entry, field) if isinstance(entry, Mapping) else [entry]


def _items_of_dict(value: Row, field: str) -> list[Json]:
    """The answers in a dict: TriviaQA's `Value` and `Aliases`, AmbigQA's `qaPairs`, WebQSP's `Answers`, ..."""
    key = first_of(value, _ANSWER_KEYS)
    others = find_column(value, ("aliases",))
    pairs = find_column(value, ("qaPairs",))
    if key is None and others is None and pairs is None:
        raise RowError(field, "a dict with 'target', 'text', 'answer' or 'value'", value)
    items = [] if key is None else _nested(_answer_items(value[key], f"{field}.{key}"))
    if others is not None:
        items += _answer_items(value[others], f"{field}.{others}")
    if pairs is not None:
        # Every reading of an ambiguous question has its own answers; all of them answer it.
        given = value[pairs] if isinstance(value[pairs], list) else [value[pairs]]
        for pair in given:
            if not isinstance(pair, Mapping):
                raise RowError(f"{field}.{pairs}", "dicts with 'question' and 'answer'", pair)
            items += _items_of_dict(pair, f"{field}.{pairs}") if pair else []
    return items


def _nested(items: list[Json]) -> list[Json]:
    """The items of lists in a list (the hub keeps AmbigQA's annotations as lists of lists)."""
    return [item for entry in items for item in (_nested(entry) if isinstance(entry, list) else [entry])]


def _lisp_items(value: str) -> list[Json]:
    """The answers in WebQuestions' `(list (description "A") (description B))`; empty for any other text."""
    if not _LISP_LIST.fullmatch(value.strip()):
        return []
    return [re.sub(r"\\(.)", r"\1", item.strip('"')) for item in re.findall(_LISP_ITEM, value)]


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
