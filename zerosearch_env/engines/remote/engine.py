"""`RemoteEngine`: base class of the engines that ask a server for a ranking.

Queries are cleaned and cut. The pages of a ranking come from the cache or the server, and the useful and noisy
documents are chosen from them (`pages.py`). A failed search is reported in its result; documents are never invented.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ...checks import check_whole_number
from ...errors import EngineError, QuotaError
from ...llm.http.client import JsonClient
from ...llm.http.loop import LoopThread
from ...types import Document, SearchRequest, SearchResult
from ..base import check_mask
from ..cache import ResultCache
from ..cached import CachedEngine
from ..simulated.prompts import quotable_query
from ..stats import SearchCounts
from .pages import Page, Selection, find

_TITLE_CHARS = 300


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Limits and noise of a remote engine."""

    noise_depth: int = 20
    """Number of ranks below `top_k` from which noisy documents are drawn; at least `top_k` ranks are used."""
    max_pages: int = 5
    """Maximum number of pages of a ranking per search."""
    max_query_chars: int = 300
    """Maximum length of a query, in characters; longer queries are cut."""
    max_document_chars: int = 2000
    """Maximum length of a document's text, in characters; longer texts are cut. Titles are cut at 300 characters."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is invalid.
        """
        for field in fields(self):
            check_whole_number(field.name, getattr(self, field.name))


@dataclass(frozen=True, slots=True)
class RemoteStats(SearchCounts):
    """Counts since an engine was created, in this process. The cache counts refer to pages."""

    empty_searches: int = 0
    """Searches that succeeded but found nothing."""
    pages: int = 0
    """Pages of rankings received from a server."""
    requests: int = 0
    """HTTP requests, retries included."""
    cost: float = 0.0
    """`requests` times the configured price, in its currency. A provider may bill less, e.g. for failed requests."""
    budget_left: int | None = None
    """Number of requests left in the budget; None without a budget."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One page to fetch: number `number` of the ranking for `request`. The query of the request has been cleaned."""

    request: SearchRequest
    number: int


@dataclass
class _PagedSearch:
    """The state of one search: the request, the generator that chooses its documents, and the outcome."""

    request: SearchRequest
    steps: Generator[int, Page, Selection]
    selection: Selection | None = None
    error: EngineError | None = None
    attempts: int = 0


class RemoteEngine(CachedEngine):
    """Base class of the engines that ask a server.

    Args:
        name: name of the engine in results and in the cache.
        options: limits and noise.
        cache: a path, or an open cache; None turns caching off.

    Raises:
        CacheError: the cache cannot be opened.
    """

    _LIVE: tuple[str, ...] = ("_loop", "_client")
    """Attributes that are not copied; a copy creates them in `_connect`."""
    waits = True

    _loop: LoopThread
    _client: JsonClient

    def __init__(self, name: str, options: RemoteOptions, cache: ResultCache | str | None) -> None:
        super().__init__(name, cache)
        self._options = options

    @abstractmethod
    def _new_client(self) -> JsonClient:
        """Create a client. It reads keys from the environment, so that copies of the engine do not contain them."""

    @abstractmethod
    async def _fetch(self, page_requests: Sequence[PageRequest]) -> list[Page | EngineError]:
        """Fetch pages: one page or error per entry of `page_requests`, in order. Counts the pages received."""

    @abstractmethod
    def _key(self, page_request: PageRequest) -> bytes:
        """The cache key: everything that the page depends on, without API keys."""

    def _steps(self, request: SearchRequest) -> Generator[int, Page, Selection]:
        """The generator that chooses the documents of a request; see `pages.find`."""
        return find(request, noise_depth=self._options.noise_depth, max_pages=self._options.max_pages)

    def _connect(self) -> None:
        """Create the attributes that belong to this process."""
        self._loop = LoopThread(f"zerosearch-{self._name}")
        self._client = self._new_client()

    def stats(self) -> RemoteStats:
        """The counts so far, in this process; an immutable snapshot."""
        return self._snapshot(RemoteStats)

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order; `latency_s` is the time of the whole batch, in seconds.

        Raises:
            EngineError: the engine is closed.
            QuotaError: a budget or quota is used up, and no request of the batch could be answered.
            ConfigError: the length of a noise mask is not `top_k`.
        """
        self._check_open()
        return self._loop.run(self._answer(requests)) if requests else []

    def close(self) -> None:
        """Cancel pending requests, and close the connections and the cache. Calling it twice is fine."""
        self._loop.close()
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out keys and connections."""
        return {name: value for name, value in super().__getstate__().items() if name not in self._LIVE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reconnect: a copy reads its key from the environment and has its own connections and counts."""
        super().__setstate__(state)
        self._connect()

    async def _answer(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer all requests in lockstep: get the next page of each unfinished search until all are done."""
        began = time.perf_counter()
        searches = [self._begin(request) for request in requests]
        waiting = [
            (search, page_request) for search in searches if (page_request := _advance(search, None)) is not None
        ]
        while waiting:
            keys = [self._key(page_request) for _, page_request in waiting]
            pages = await self._pages(dict(zip(keys, (page_request for _, page_request in waiting), strict=True)))
            steps = [(search, _advance(search, pages[key])) for (search, _), key in zip(waiting, keys, strict=True)]
            waiting = [(search, page_request) for search, page_request in steps if page_request is not None]
        elapsed = time.perf_counter() - began
        results = [self._result(search, elapsed) for search in searches]
        # In a partly answered batch the failed results show the error. A batch without any answer must raise it.
        quota = next((search.error for search in searches if isinstance(search.error, QuotaError)), None)
        if quota is not None and all(result.failure is not None for result in results):
            raise quota
        return results

    def _begin(self, request: SearchRequest) -> _PagedSearch:
        check_mask(request)
        cleaned = replace(request, query=quotable_query(request.query, self._options.max_query_chars))
        # Do not send an empty query: servers answer it with an error, and some bill it.
        return _PagedSearch(cleaned, self._steps(cleaned), None if cleaned.query else Selection())

    async def _pages(self, page_requests: Mapping[bytes, PageRequest]) -> dict[bytes, Page | EngineError]:
        hits = await self._off_loop(self._look_up, list(page_requests))
        pages: dict[bytes, Page | EngineError] = {key: Page(documents) for key, documents in hits.items()}
        missing = {key: page_request for key, page_request in page_requests.items() if key not in pages}
        if missing:
            pages |= await self._fetch_and_keep(missing)
        return pages

    async def _fetch_and_keep(self, page_requests: Mapping[bytes, PageRequest]) -> dict[bytes, Page | EngineError]:
        fetched = dict(zip(page_requests, await self._fetch(list(page_requests.values())), strict=True))
        await self._keep(page_requests, fetched)
        return fetched

    async def _keep(
        self, page_requests: Mapping[bytes, PageRequest], fetched: Mapping[bytes, Page | EngineError]
    ) -> None:
        if self._cache is None:
            return
        entries: dict[bytes, tuple[Document, ...]] = {}
        for key, page in fetched.items():
            if isinstance(page, Page):
                entries[key] = page.documents
                if page.last:  # Cache the end of the ranking as an empty page after the last one.
                    entries[self._key(replace(page_requests[key], number=page_requests[key].number + 1))] = ()
        await self._off_loop(self._store, entries)

    def _result(self, search: _PagedSearch, elapsed: float) -> SearchResult:
        selection = (
            Selection(failure=str(search.error)) if search.error is not None else search.selection or Selection()
        )
        attempts, count, failed = max(1, search.attempts), len(selection.documents), selection.failure is not None
        self._counters.add(
            searches=1,
            failed_searches=failed,
            empty_searches=not failed and not count,
            documents=count,
            noisy_documents=sum(search.request.noise_mask[:count]),
        )
        return SearchResult(selection.documents, self._name, elapsed, attempts, selection.failure)


def _advance(search: _PagedSearch, page: Page | EngineError | None) -> PageRequest | None:
    """Send a search its page, or None to start it. Returns the page it needs next, or None if it is finished."""
    if search.selection is not None:
        return None
    search.attempts += 0 if page is None else page.attempts
    if isinstance(page, EngineError):
        search.error = page
        return None
    try:
        return PageRequest(search.request, next(search.steps) if page is None else search.steps.send(page))
    except StopIteration as done:
        search.selection = done.value
        return None


def bounded(document: Document, max_chars: int) -> Document:
    """The document with its title cut to 300 characters and its text cut to `max_chars`."""
    title, text = document.title, document.text
    if len(title) <= _TITLE_CHARS and len(text) <= max_chars:
        return document
    return replace(document, title=title[:_TITLE_CHARS].rstrip(), text=text[:max_chars].rstrip())
