"""`WebSearchEngine`: web search services, with a rate limit, a budget and noise from the lower ranks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError, QuotaError, unknown_name
from ...llm.http.client import JsonClient, StatusError
from ...llm.http.deduplicate import Deduplicator
from ...llm.http.keys import key_of
from ...llm.http.options import HttpOptions, check_url, is_loopback
from ...privacy import hide
from ...types import Document, SearchRequest, SearchResult
from ..cache import ResultCache, cache_key
from .engine import PageRequest, RemoteEngine, RemoteOptions, RemoteStats, bounded
from .pages import Page
from .providers import EXTRAS, PROVIDERS, AnswerError, QuotaAnswer, WebQuery, used_up, wrong_key
from .token_bucket import Meter, TokenBucket

_CODE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]{2,4})?")


class WebSearchEngine(RemoteEngine):
    """Searches the web with SerpAPI, Serper or Brave.

    - Useful documents are the top of the page: the requested `extras` and the best results. Title and snippet are
      separate fields; the source of a document is its URL.
    - Noisy documents come from the ranks below, which may be on further pages. So a noisy search costs more requests
      than a useful one, unless the page is long enough or cached.
    - If several searches need the same page at the same time, it is fetched and paid once.
    - The key comes from the environment and appears in no message, log line, copy, statistic or cache key.

    Args:
        provider: `"serpapi"`, `"serper"` or `"brave"`.
        extras: names from `providers.EXTRAS`. Each becomes documents: answer box and knowledge graph come before the
            results of the first page, related questions after them.
        page_size: results per page; None means the service's default.
        country: country code such as `"us"`.
        language: language code such as `"en"`.
        rate: requests per second; None means the limit of the service's smaller plans.
        burst: number of requests that may be sent immediately after a pause; None means those of one second.
        max_requests: number of HTTP requests, retries included, after which every search fails; None means no limit.
            Like the rate, it applies to one engine in one process: a copy in another process has its own budget.
        price_per_1000: price of a thousand requests, for `stats().cost`.
        url: another address for the service, such as a gateway. The key is sent there.
        key_env: environment variable with the key; None means the service's default variable.
        options: limits and noise.
        http: options of the HTTP client.
        cache: a path, or an open cache; None turns caching off.

    Raises:
        ConfigError: an argument is invalid, or the key is missing.
        CacheError: the cache cannot be opened.
    """

    _LIVE = (*RemoteEngine._LIVE, "_meter", "_flights", "_key_text")

    def __init__(
        self,
        provider: str,
        *,
        extras: Sequence[str] = (),
        page_size: int | None = None,
        country: str | None = None,
        language: str | None = None,
        rate: float | None = None,
        burst: int | None = None,
        max_requests: int | None = None,
        price_per_1000: float = 0.0,
        url: str | None = None,
        key_env: str | None = None,
        options: RemoteOptions | None = None,
        http: HttpOptions | None = None,
        cache: ResultCache | str | None = None,
    ) -> None:
        if provider not in PROVIDERS:
            raise unknown_name("web search service", provider, PROVIDERS)
        service = PROVIDERS[provider]
        self._provider = provider
        self._extras = _extras(extras)
        self._page_size = service.page_size if page_size is None else page_size
        check_whole_number("page_size", self._page_size)
        if self._page_size > service.max_page_size:
            raise ConfigError(f"{provider} serves at most {service.max_page_size} results per page, got {page_size!r}")
        self._country, self._language = _code("country", country), _code("language", language)
        self._rate = service.rate if rate is None else rate
        self._burst = burst
        self._max_requests, self._price = max_requests, price_per_1000
        self._url = _safe(service.url if url is None else url)
        self._key_env = key_env or service.key_variable
        self._http = http
        bounds = RemoteOptions(noise_depth=15) if options is None else options
        super().__init__(provider, replace(bounds, max_pages=min(bounds.max_pages, service.max_pages)), cache)
        self._connect()

    def stats(self) -> RemoteStats:
        """The counts so far, in this process; an immutable snapshot."""
        meter = self._meter
        return replace(super().stats(), requests=meter.requests, cost=meter.cost, budget_left=meter.left)

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request, independently of other callers.

        Raises:
            EngineError: the engine is closed.
            QuotaError: a budget or quota is used up.
            ConfigError: the length of the noise mask is not `top_k`.
        """
        self._check_open()
        (result,) = await self._loop.arun(self._answer([request]))
        return result

    def _connect(self) -> None:
        self._key_text = key_of(self._key_env, f"the key of {self._provider}", needed=True)
        bucket = TokenBucket(self._rate, self._burst)
        self._meter = Meter(bucket, max_requests=self._max_requests, price_per_1000=self._price)
        self._flights: Deduplicator[Page | EngineError] = Deduplicator()
        super()._connect()

    def _new_client(self) -> JsonClient:
        service = PROVIDERS[self._provider]
        headers = {service.key_header: self._key_text} if service.key_header else {}
        hidden, gate = [self._key_text], self._meter.admit
        return JsonClient(
            [self._url], self._http, headers=headers, hidden=hidden, gate=gate, loop=self._loop, extra="retrieve"
        )

    def _key(self, page_request: PageRequest) -> bytes:
        query = self._query(page_request)
        more = (query.text, query.page, query.size, query.country, query.language, self._extras)
        return cache_key(self._name, self._url, *more, self._options.max_document_chars)

    def _query(self, page_request: PageRequest) -> WebQuery:
        service = PROVIDERS[self._provider]
        text = " ".join(page_request.request.query.split()[: service.max_words])[: service.max_chars].rstrip()
        return WebQuery(text, page_request.number, self._page_size, self._country, self._language)

    async def _fetch(self, page_requests: Sequence[PageRequest]) -> list[Page | EngineError]:
        return list(await asyncio.gather(*map(self._get, page_requests)))

    async def _fetch_and_keep(self, page_requests: Mapping[bytes, PageRequest]) -> dict[bytes, Page | EngineError]:
        """One piece of work per page, which others who want the page at the same time join: pages cost money."""
        joined = [self._flights.join(key, partial(self._once, key, page)) for key, page in page_requests.items()]
        return dict(zip(page_requests, await asyncio.gather(*joined), strict=True))

    async def _once(self, key: bytes, page_request: PageRequest) -> Page | EngineError:
        # Another caller may have stored it between the look into the cache and now.
        stored = await self._off_loop(self._stored, [key])
        if key in stored:
            return Page(stored[key])
        return (await super()._fetch_and_keep({key: page_request}))[key]

    async def _get(self, page_request: PageRequest) -> Page | EngineError:
        """Fetch one page from the service."""
        service = PROVIDERS[self._provider]
        fields = service.fields(self._query(page_request))
        sent: dict[str, Any] = {"body": fields} if service.method == "POST" else {"params": fields}
        if not service.key_header:
            sent["params"] = {**sent.get("params", {}), "api_key": self._key_text}
        try:
            reply = await self._client.request(service.method, service.path, hopeless=used_up, **sent)
        except EngineError as error:
            return self._explained(error)
        try:
            if not isinstance(reply.data, dict):
                raise AnswerError(f"expected an object, got {type(reply.data).__name__}")
            page = service.read(reply.data)
        except AnswerError as cause:
            kind = QuotaError if isinstance(cause, QuotaAnswer) else EngineError
            # Hide the key before the text is cut: the cut could leave half of the key.
            message = " ".join(hide(f"{self._provider} answered: {cause}", [self._key_text]).split())[:500]
            return kind(message, attempts=reply.attempts)
        self._counters.add(pages=1)
        head = [d for name in self._extras if name != "related_questions" for d in page.extras[name]]
        tail = page.extras["related_questions"] if "related_questions" in self._extras else ()
        # Some services repeat the boxes on every page; use those of the first page only.
        documents: tuple[Document, ...] = page.results if page_request.number else (*head, *page.results, *tail)
        longest = self._options.max_document_chars
        cut = tuple(bounded(document, longest) for document in documents)
        return Page(cut, page.last or not page.results, reply.attempts)

    def _explained(self, error: EngineError) -> EngineError:
        """The error with a clearer message; a `QuotaError` if the account's searches are used up."""
        cause = error.__cause__
        if not isinstance(cause, StatusError):
            return error
        if cause.hopeless:
            spent = f"the searches of the {self._provider} account are used up: {error}"
            explained: EngineError = QuotaError(spent, attempts=error.attempts)
        elif wrong_key(cause.status, str(cause)):
            refused = f"{self._provider} refused the key in {self._key_env}: {error}"
            explained = EngineError(refused, attempts=error.attempts)
        else:
            return error
        explained.__cause__ = cause
        return explained


def _extras(given: Sequence[str]) -> tuple[str, ...]:
    """The requested extras, without repetitions, in the order of `EXTRAS`.

    Raises:
        ConfigError: the value is not a list of names, or a name is unknown.
    """
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence):
        raise ConfigError(f"extras must be a list of names from {', '.join(EXTRAS)}, got {given!r}")
    for name in names:
        if name not in EXTRAS:
            raise unknown_name("extra of web search", name, EXTRAS)
    return tuple(name for name in EXTRAS if name in names)


def _code(what: str, value: str | None) -> str | None:
    """A country or language code in lower case.

    Raises:
        ConfigError: the value is not such a code.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not _CODE.fullmatch(value):
        raise ConfigError(f"{what} must be a code such as 'us', 'en' or 'pt-br', got {value!r}")
    return value.lower()


def _safe(url: str) -> str:
    """Check that a key may be sent to an address, and return the address.

    Raises:
        ConfigError: it is not an address, it is plain http to another machine, or it may already contain a key.
    """
    base = check_url(url)
    parts = urlsplit(base)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ConfigError(f"the key would be sent in the clear to {base}: give an https address")
    return base
