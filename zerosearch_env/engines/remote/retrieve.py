"""`RetrieveEngine`: a client for Search-R1 style retrieval servers, in all the dialects used by training code."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from importlib.util import find_spec

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError
from ...game.answers import contains_answer
from ...llm.http.client import JsonClient, StatusError
from ...llm.http.codecs import JSON, MSGPACK
from ...llm.http.keys import key_of
from ...llm.http.options import HttpOptions, check_url
from ...retrieve_api.bodies import context_of
from ...retrieve_api.dialects import get_dialect
from ...retrieve_api.results import parse_results
from ...types import Document, SearchRequest, full_text
from ..cache import ResultCache, cache_key
from .engine import PageRequest, RemoteEngine, RemoteOptions, bounded
from .pages import Page, Selection, depth_of

TOKEN_VARIABLE = "ZEROSEARCH_RETRIEVE_TOKEN"
"""Environment variable with the bearer token, for servers that require one."""

_SPLIT = frozenset({400, 413, 422})
"""Statuses that may be caused by one query of a batch, or by the size of the batch."""


class RetrieveEngine(RemoteEngine):
    """Asks one retrieval server, or several replicas of it.

    - A page of the ranking is the list of the best `count` documents; each further page is a list twice as long. A
      noisy search first requests `top_k + noise_depth` documents, and more only if too many of them hold an answer.
    - With `send_context` the server makes the noise. It receives the question, answers, noise and seed, in the format
      of `zerosearch serve`, and its documents are returned unchanged. If a noisy one contains a gold answer, the
      search fails.
    - If the dialect accepts a list of queries, they are sent in batches, otherwise as concurrent single requests. If
      the server rejects a batch, it is sent again in halves, so that one bad query does not fail the others.

    Args:
        urls: addresses of the servers, with or without the dialect's path.
        dialect: one of `retrieve_api.dialects.DIALECTS`.
        path: path appended to an address; None means the path of the dialect, unless the address already ends in it.
        send_context: whether the server makes the noise.
        batch_size: maximum number of queries per HTTP request.
        encoding: `"json"` or `"msgpack"`; None means msgpack for GEM if it is installed, otherwise JSON.
        token_env: environment variable with a bearer token; None means `ZEROSEARCH_RETRIEVE_TOKEN`, if it is set.
        options: limits and noise.
        http: options of the HTTP client.
        cache: a path, or an open cache; None turns caching off.

    Raises:
        ConfigError: an argument is invalid.
        CacheError: the cache cannot be opened.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        dialect: str = "search-r1",
        path: str | None = None,
        send_context: bool = False,
        batch_size: int = 64,
        encoding: str | None = None,
        token_env: str | None = None,
        options: RemoteOptions | None = None,
        http: HttpOptions | None = None,
        cache: ResultCache | str | None = None,
    ) -> None:
        self._dialect = get_dialect(dialect)
        paths = self._dialect.paths
        self._path = paths[0] if path is None else path
        self._urls = tuple(_base(url, paths if path is None else ()) for url in urls)
        self._send_context = send_context
        self._batch_size = check_whole_number("batch_size", batch_size)
        if encoding not in (None, "json", "msgpack"):
            raise ConfigError(f"encoding must be 'json' or 'msgpack', got {encoding!r}")
        packed = encoding == "msgpack" or (encoding is None and self._dialect.msgpack and find_spec("msgpack"))
        self._codec = MSGPACK if packed else JSON
        self._token_env = token_env
        self._http = http
        super().__init__("retrieve", RemoteOptions() if options is None else options, cache)
        self._connect()

    def _new_client(self) -> JsonClient:
        token = key_of(self._token_env or TOKEN_VARIABLE, "the bearer token", needed=self._token_env is not None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return JsonClient(
            self._urls,
            self._http,
            headers=headers,
            codec=self._codec,
            loop=self._loop,
            extra="retrieve",
        )

    def _steps(self, request: SearchRequest) -> Generator[int, Page, Selection]:
        return _as_sent(request) if self._send_context else super()._steps(request)

    def _size(self, page_request: PageRequest) -> int:
        if self._send_context:
            return page_request.request.top_k
        return depth_of(page_request.request, self._options.noise_depth) << page_request.number

    def _key(self, page_request: PageRequest) -> bytes:
        request = page_request.request
        context = (request.question, request.answers, request.noisy, request.seed) if self._send_context else ()
        where = (sorted(self._urls), self._path, self._dialect.name)
        # The size is what is sent. The number distinguishes a list from an "end of ranking" entry of the same size.
        what = (request.query, self._size(page_request), page_request.number, self._options.max_document_chars)
        return cache_key(self._name, *where, *what, *context)

    async def _fetch(self, page_requests: Sequence[PageRequest]) -> list[Page | EngineError]:
        by_size: dict[int, list[int]] = {}
        for place, page_request in enumerate(page_requests):
            by_size.setdefault(self._size(page_request), []).append(place)
        width = self._batch_size if self._dialect.batch else 1
        chunks = [
            places[start : start + width] for places in by_size.values() for start in range(0, len(places), width)
        ]
        sent = await asyncio.gather(*(self._post([page_requests[place] for place in chunk]) for chunk in chunks))
        pages = {
            place: page for chunk, got in zip(chunks, sent, strict=True) for place, page in zip(chunk, got, strict=True)
        }
        return [pages[place] for place in range(len(page_requests))]

    async def _post(self, page_requests: Sequence[PageRequest]) -> Sequence[Page | EngineError]:
        """Send one HTTP request for pages of equal size; if the server rejects it, send it again in halves."""
        size, requests = self._size(page_requests[0]), [page_request.request for page_request in page_requests]
        body = self._dialect.request([request.query for request in requests], size)
        if self._send_context:
            body |= context_of(requests, batch=self._dialect.batch)
        try:
            reply = await self._client.request("POST", self._path, body=body)
        except EngineError as error:
            self._counters.add(requests=error.attempts)
            cause = error.__cause__
            if len(page_requests) > 1 and isinstance(cause, StatusError) and cause.status in _SPLIT:
                middle = len(page_requests) // 2
                first, second = await asyncio.gather(
                    self._post(page_requests[:middle]), self._post(page_requests[middle:])
                )
                return [*first, *second]
            return [error] * len(page_requests)
        self._counters.add(requests=reply.attempts)
        try:
            results = parse_results(reply.data, len(page_requests), numbered=self._dialect.name == "r1-searcher")
        except ValueError as cause:
            unreadable = EngineError(f"{reply.url}{self._path}: {cause}", attempts=reply.attempts)
            return [unreadable] * len(page_requests)
        self._counters.add(pages=len(results))
        where = f"{reply.url}{self._path}"
        return [self._page(ranking, size, where, reply.attempts) for ranking in results]

    def _page(self, ranking: list[Document] | None, size: int, where: str, attempts: int) -> Page | EngineError:
        if ranking is None:
            return EngineError(f"{where}: results without any title or text", attempts=attempts)
        longest = self._options.max_document_chars
        documents = tuple(bounded(document, longest) for document in ranking[:size])
        return Page(documents, len(ranking) < size, attempts)


def _as_sent(request: SearchRequest) -> Generator[int, Page, Selection]:
    """The documents of a server that makes the noise itself; noisy ones must not contain a gold answer."""
    page = yield 0
    for document, noise in zip(page.documents, request.noise_mask, strict=False):
        if noise and contains_answer(full_text(document), request.answers):
            return Selection(failure="the server was asked for noise and sent a document with a gold answer")
    return Selection(page.documents)


def _base(url: str, paths: Sequence[str]) -> str:
    """An address without the dialect's path, which is appended again later.

    Raises:
        ConfigError: it is not an http(s) address, or it may contain a password, which would appear in messages.
    """
    base = check_url(url, f"the environment variable {TOKEN_VARIABLE}")
    return next((base[: -len(path)] for path in paths if base.endswith(path)), base)
