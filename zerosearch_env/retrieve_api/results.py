"""Extract documents from the responses of retrieval servers, in any known shape.

    {"result": [[{"document": {"id", "contents"}, "score"}]]}      Search-R1, SkyRL; without scores the inner items
    {"result": [{"document", "score"}]}                            GEM; rLLM with `results`
    {"result": [[{"contents", "url"}]]}                            ASearcher
    [{"text"}]                                                     ZeroSearch
    {"queries": [...], "answers": [["1 Title text"]]}              R1-Searcher
    [[{"id", "contents"}]], or [documents, scores]                 ReSearch

The shape is detected from the data, not from the dialect, because servers of one family differ. Unknown shapes raise
ValueError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..checks import is_number
from ..datasets.files.passages import split_contents
from ..types import Document, Json
from .codec import shown

_RESULTS = ("result", "results", "answers", "documents", "data")
_TEXTS = ("text", "contents", "content", "passage", "body", "snippet")
_SOURCES = ("url", "link", "id", "_id", "docid", "source")
_NUMBERED = re.compile(r"(?P<number>\d+)[ \t]+(?P<text>.+)", re.DOTALL)


def parse_results(data: Json, count: int, *, numbered: bool = False) -> list[list[Document] | None]:
    """Return the documents of each query, best first; None for a query whose results have neither title nor text.

    They do not mean "nothing found" (an empty list): the server lacks the passages or names them otherwise.

    Args:
        data: the decoded response.
        count: number of queries sent.
        numbered: whether documents that are plain strings start with their id, as R1-Searcher's do.

    Raises:
        ValueError: the response has no known shape, or is for a different number of queries.
    """
    rows, scores = _without_scores(_results(data), count)
    if len(rows) == count and all(isinstance(row, list) for row in rows):
        lists = rows
    elif count == 1 and not any(isinstance(row, list) for row in rows):
        lists, scores = [rows], None if scores is None else [scores]
    else:
        raise ValueError(f"expected documents for {count} {'query' if count == 1 else 'queries'}, got {shown(data)}")
    valued = [[None] * len(row) for row in lists] if scores is None else scores
    return [_documents(row, values, numbered) for row, values in zip(lists, valued, strict=True)]


def _documents(row: list[Any], scores: list[Any], numbered: bool) -> list[Document] | None:
    parsed = [_document(item, score, numbered) for item, score in zip(row, scores, strict=True)]
    documents = [document for document in parsed if document is not None]
    return documents if documents or not row else None


def _results(data: Any) -> list[Any]:
    fields = [data.get(name) for name in _RESULTS] if isinstance(data, Mapping) else [data]
    for value in fields:
        if isinstance(value, list):
            return value
    raise ValueError(f"expected results, got {shown(data)}")


def _without_scores(rows: list[Any], count: int) -> tuple[list[Any], list[Any] | None]:
    """Split a pair [documents, scores]; the scores are None if it is not such a pair."""
    if len(rows) != 2 or not _alike(*rows):
        return rows, None
    leaves = list(_leaves(rows[1]))
    nested = any(isinstance(row, list) for row in rows[1])
    if not all(is_number(leaf) for leaf in leaves) or (count == 2 and not leaves and not nested):
        return rows, None
    return rows[0], rows[1]


def _alike(documents: Any, scores: Any) -> bool:
    """Whether two values are lists of the same length, at both levels if there are two."""
    if not isinstance(documents, list) or not isinstance(scores, list) or len(documents) != len(scores):
        return False
    pairs = zip(documents, scores, strict=True)
    return all(not isinstance(s, list) or (isinstance(d, list) and len(d) == len(s)) for d, s in pairs)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _document(item: Any, score: Any, numbered: bool) -> Document | None:
    """Parse one document; None if it has no text, because it would show the policy nothing."""
    if isinstance(item, Mapping) and isinstance(item.get("document"), Mapping | str):
        score, item = item.get("score", score), item["document"]
    if isinstance(item, str):
        document = _from_text(item, numbered)
    elif isinstance(item, Mapping):
        document = _from_fields(item)
        score = item.get("score") if score is None else score
    else:
        raise ValueError(f"expected a document, got {shown(item)}")
    usable = is_number(score) and math.isfinite(score)
    scored = replace(document, score=float(score) if usable else None)
    return scored if scored.title or scored.text else None


def _from_text(text: str, numbered: bool) -> Document:
    match = _NUMBERED.fullmatch(text.strip()) if numbered else None
    source, body = (match["number"], match["text"]) if match else ("", text.strip())
    title, body = split_contents(body) if body.startswith('"') else ("", body)
    return Document(title, body, source)


def _from_fields(item: Mapping[str, Any]) -> Document:
    field = next((name for name in _TEXTS if isinstance(item.get(name), str)), None)
    given = item.get("title")
    if field is None:
        raise ValueError(f"expected a document with {' or '.join(_TEXTS)}, got {shown(item)}")
    named = isinstance(given, str) and bool(given.strip())
    title, text = (str(given), item[field]) if named or field != "contents" else split_contents(item[field])
    key = next((item[name] for name in _SOURCES if isinstance(item.get(name), str | int) and item[name] != ""), "")
    return Document(title.strip() if named or field == "contents" else "", text.strip(), str(key))
