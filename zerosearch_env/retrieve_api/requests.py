"""Requests to retrieval servers: one row per dialect, under the same names as in `zerosearch serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import unknown_name
from ..types import SearchRequest

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RequestDialect:
    """The request format of one family of servers."""

    name: str
    servers: str
    """The servers that accept it."""
    batch: bool
    """Whether a request holds a list of queries. If not, each query is a request, and several are sent concurrently."""
    count: tuple[str, ...]
    """Fields for the number of documents per query."""
    more: tuple[tuple[str, Any], ...] = ()
    """Further fields."""
    paths: tuple[str, ...] = ("/retrieve",)
    """Paths the server listens on. The first is appended to an address that ends in none of them."""
    msgpack: bool = False
    """Whether bodies are msgpack, if that is installed."""

    def body(self, queries: Sequence[str], count: int) -> Body:
        """Build the request's body for `count` documents per query; exactly one query if `batch` is False."""
        asked: Body = {self._field: list(queries) if self.batch else queries[0]}
        return asked | dict.fromkeys(self.count, count) | dict(self.more)

    @property
    def _field(self) -> str:
        return "queries" if self.batch and "/batch_search" not in self.paths else "query"


_SCORES = (("return_scores", True),)

DIALECTS: dict[str, RequestDialect] = {
    dialect.name: dialect
    for dialect in (
        RequestDialect("search-r1", "Search-R1's retrieval server", True, ("topk",), _SCORES),
        RequestDialect("search-r1-rerank", "Search-R1's reranking server", True, ("topk_retrieval", "topk_rerank")),
        RequestDialect("search-r1-proxy", "Search-R1's web proxies, which choose the number", True, ("topk",)),
        RequestDialect("verl", "servers of verl's SearchTool", True, ("topk",), _SCORES),
        RequestDialect("asearcher", "ASearcher's server", True, ("topk",), (("return_scores", False),)),
        RequestDialect("skyrl", "SkyRL's server: one query", False, ("topk",), _SCORES),
        RequestDialect("gem", "GEM's server: one query, in msgpack", False, ("topk",), _SCORES, msgpack=True),
        RequestDialect("zerosearch-wiki", "ZeroSearch's wiki server: one query", False, ("top_k",)),
        RequestDialect("rllm", "rLLM's server: one query", False, ("top_k", "k")),
        RequestDialect("r1-searcher", "R1-Searcher's server", True, ("k",), paths=("/queries",)),
        RequestDialect(
            *("research", "ReSearch's server", True, ("top_n",), (("return_score", True),)),
            paths=("/batch_search", "/search"),
        ),
    )
}


def get_request_dialect(name: str) -> RequestDialect:
    """Return a dialect by name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest one.
    """
    if name not in DIALECTS:
        raise unknown_name("dialect", name, DIALECTS)
    return DIALECTS[name]


def context_of(requests: Sequence[SearchRequest], *, batch: bool) -> Body:
    """Return question, answers, noise and seed as fields that `zerosearch serve` reads."""
    noisy = [flag if isinstance(flag, bool) else list(flag) for flag in (request.noisy for request in requests)]
    if not batch:
        (only,) = requests
        return {"question": only.question, "answers": list(only.answers), "noisy": noisy[0], "seed": only.seed}
    return {
        "questions": [request.question for request in requests],
        "answers": [list(request.answers) for request in requests],
        "noisy": noisy,
        "seed": [request.seed for request in requests],
    }
