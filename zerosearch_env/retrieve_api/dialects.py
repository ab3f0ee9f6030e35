"""The dialects of `/retrieve`: write a request, detect a request's dialect, and render the response in its format.

Every dialect is one row of `DIALECTS`, used by the engine `retrieve:URL` and by `zerosearch serve`. If two dialects
share a request format but not a response format, `RULES` choose the default; the server's `--dialect`, or the dialect's
name before the path (`/rllm/retrieve`), overrides it. Pure functions without I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import unknown_name
from ..llm.http.codecs import MSGPACK, Codec
from ..types import Document, Json, JsonObject, full_text
from .bodies import ParsedRequest

Results = Sequence[Sequence[Document]]
"""One list of documents per query, in order."""


@dataclass(frozen=True)
class Dialect:
    """The formats of one family of servers and their clients."""

    name: str
    used_by: str
    """The servers and clients that use it, and the shape of the response."""
    batch: bool
    """Whether a request holds a list of queries. If not, each query is a request, and several are sent concurrently."""
    count: tuple[str, ...]
    """Fields for the number of documents per query."""
    render: Callable[[ParsedRequest, Results, bool], Json]
    """(request, documents, whether to include scores) -> the response."""
    more: tuple[tuple[str, Json], ...] = ()
    """Further fields of a request."""
    scores: bool = False
    """Whether to send scores if the request does not specify it."""
    paths: tuple[str, ...] = ("/retrieve",)
    """Paths that the server listens on. The first is appended to an address that ends in none of them."""
    msgpack: bool = False
    """Whether requests are msgpack, if that is installed."""

    def request(self, queries: Sequence[str], count: int) -> dict[str, Json]:
        """Build a request for `count` documents per query; exactly one query if `batch` is False."""
        name = "queries" if self.batch and self.name != "research" else "query"
        query = {name: list(queries) if self.batch else queries[0]}
        return query | dict.fromkeys(self.count, count) | dict(self.more)


def contents(document: Document) -> str:
    """Format a document as in Search-R1's corpora: quoted title, line break, text. Clients split at the first break."""
    return f'"{_one_line(document.title)}"\n{document.text}'


def score_of(document: Document, rank: int) -> float:
    """Return the engine's score, or 1 / rank (1-based; keeps the order) if it has no finite score."""
    score = document.score
    return 1 / rank if score is None or not math.isfinite(score) else float(score)


def _plain(document: Document, rank: int) -> dict[str, Json]:
    return {"id": document.source or str(rank), "contents": contents(document)}


def _with_address(document: Document, rank: int) -> dict[str, Json]:
    return {**_plain(document, rank), "url": document.source}


def _scored(document: Document, rank: int) -> dict[str, Json]:
    return {"document": _plain(document, rank), "score": score_of(document, rank)}


def _nested(document: Document, rank: int) -> dict[str, Json]:
    return {"document": {"contents": contents(document)}}


def _text(document: Document, rank: int) -> dict[str, Json]:
    return {"text": full_text(document)}


def _numbered(document: Document, rank: int) -> str:
    # The client removes the number and the space; the rest goes to the policy unchanged.
    number = document.source if document.source.isdecimal() and document.source.isascii() else str(rank)
    return f"{number} {full_text(document)}"


def _rows(documents: Sequence[Document], item: Callable[[Document, int], Any]) -> list[Any]:
    return [item(document, rank) for rank, document in enumerate(documents, start=1)]


def _table(results: Results, item: Callable[[Document, int], Any]) -> list[list[Any]]:
    return [_rows(documents, item) for documents in results]


def _search_r1(request: ParsedRequest, results: Results, scores: bool) -> Json:
    return {"result": _table(results, _scored if scores else _with_address)}


def _proxy(request: ParsedRequest, results: Results, scores: bool) -> Json:
    return {"result": _table(results, _nested)}


def _asearcher(request: ParsedRequest, results: Results, scores: bool) -> Json:
    return {"result": _table(results, _with_address)}


def _gem(request: ParsedRequest, results: Results, scores: bool) -> Json:
    table = _table(results, _scored if scores else _plain)
    return {"result": table[0] if request.single else table}


def _zerosearch_wiki(request: ParsedRequest, results: Results, scores: bool) -> Json:
    table = _table(results, _text)
    return table[0] if request.single else table


def _rllm(request: ParsedRequest, results: Results, scores: bool) -> Json:
    table = _table(results, _scored)
    if request.single:
        return {"query": request.queries[0], "method": "zerosearch", "results": table[0], "num_results": len(table[0])}
    return {"method": "zerosearch", "batch_size": len(table), "result": table}


def _r1_searcher(request: ParsedRequest, results: Results, scores: bool) -> Json:
    return {"queries": list(request.queries), "answers": _table(results, _numbered)}


def _research(request: ParsedRequest, results: Results, scores: bool) -> Json:
    documents = _table(results, _plain)
    values = _table(results, lambda document, rank: score_of(document, rank))
    if request.single:
        return [documents[0], values[0]] if scores else documents[0]
    return [documents, values] if scores else documents


_SCORES = (("return_scores", True),)
_NO_SCORES = (("return_scores", False),)

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("search-r1", "Search-R1: {result: [[{document, score}]]}", True, ("topk",), _search_r1, _SCORES),
        Dialect("search-r1-rerank", "its reranking server", True, ("topk_retrieval", "topk_rerank"), _search_r1),
        Dialect("search-r1-proxy", "its web proxies, which choose the number: no id or score", True, ("topk",), _proxy),
        Dialect("verl", "verl's SearchTool (until 0.8.0.dev): as Search-R1", True, ("topk",), _search_r1, _SCORES),
        Dialect("asearcher", "ASearcher: {result: [[{contents, url}]]}", True, ("topk",), _asearcher, _NO_SCORES),
        Dialect("skyrl", "SkyRL: {result: [[{document, score}]]}", False, ("topk",), _search_r1, _SCORES, scores=True),
        Dialect(
            *("gem", "GEM: {result: [{document, score}]}", False, ("topk",), _gem, _SCORES), scores=True, msgpack=True
        ),
        Dialect("zerosearch-wiki", "ZeroSearch's wiki server: [{text}]", False, ("top_k",), _zerosearch_wiki),
        Dialect("rllm", "rLLM: {results: [{document, score}]}", False, ("top_k", "k"), _rllm, scores=True),
        Dialect(
            *("r1-searcher", "R1-Searcher: {queries, answers: [[text]]}", True, ("k",), _r1_searcher),
            paths=("/queries",),
        ),
        Dialect(
            *("research", "ReSearch: [{id, contents}], with scores [documents, scores]", True, ("top_n",), _research),
            more=(("return_score", True),),
            paths=("/batch_search", "/search"),
        ),
    )
}

PATHS: dict[str, str | None] = {
    path: None if path == "/retrieve" else dialect.name for dialect in DIALECTS.values() for path in dialect.paths
}
"""Accepted paths, with the dialect if the path alone decides it."""

RULES: tuple[tuple[str, str, Callable[[JsonObject, Codec], bool]], ...] = (
    (
        "search-r1",
        "a list of queries",
        lambda body, _: isinstance(body.get("queries", body.get("query")), list | tuple),
    ),
    ("gem", "one query in msgpack", lambda _, codec: codec is MSGPACK),
    ("skyrl", "one query with `topk`", lambda body, _: "topk" in body),
    ("rllm", "one query with `k`", lambda body, _: "k" in body),
    ("zerosearch-wiki", "one query with `top_k`", lambda body, _: "top_k" in body),
    ("research", "one query with `top_n`", lambda body, _: "top_n" in body),
    ("skyrl", "one query alone", lambda body, _: True),
)
"""(dialect, description of the format, test) for `/retrieve`: the first row that matches decides."""


def get_dialect(name: str) -> Dialect:
    """Return a dialect by name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest one.
    """
    if name not in DIALECTS:
        raise unknown_name("dialect", name, DIALECTS)
    return DIALECTS[name]


def choose_dialect(path: str, body: JsonObject, codec: Codec, forced: str | None = None) -> Dialect:
    """Return the dialect of a request.

    Args:
        path: one of `PATHS`.
        body: the decoded body.
        codec: the body's encoding.
        forced: name of a dialect to use unless the path decides.
    """
    name = PATHS[path] or forced
    return DIALECTS[name or next(dialect for dialect, _, fits in RULES if fits(body, codec))]


def render(dialect: Dialect, request: ParsedRequest, results: Results) -> Json:
    """Build the response in a dialect's format, ready to be encoded.

    Args:
        dialect: the dialect.
        request: the request.
        results: the documents of each query, in order.
    """
    return dialect.render(request, results, dialect.scores if request.scores is None else request.scores)


def _one_line(title: str) -> str:
    return " ".join(title.split())
