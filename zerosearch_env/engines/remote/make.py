"""Factories for the specs `retrieve:URL`, `serpapi`, `serper` and `brave`; an engine is imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...types import Dataset

if TYPE_CHECKING:
    from ..registry import EngineFactory
    from .retrieve import RetrieveEngine
    from .web import WebSearchEngine


def retrieve_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    dialect: str = "search-r1",
    path: str | None = None,
    send_context: bool = False,
    batch_size: int = 64,
    encoding: str | None = None,
    token_env: str | None = None,
    noise_depth: int = 20,
    max_pages: int = 5,
    max_query_chars: int = 300,
    max_document_chars: int = 2000,
    http: Mapping[str, Any] | None = None,
    cache: str | None = None,
) -> RetrieveEngine:
    """Build the engine for `"retrieve:URL[,URL...]"`.

    Args:
        argument: one address, or the addresses of several replicas, separated by commas.
        dataset: not used; each request carries its question.
        dialect: as in `RetrieveEngine`, like the options up to `token_env`.
        path: path appended to an address.
        send_context: whether the server makes the noise.
        batch_size: maximum number of queries per HTTP request.
        encoding: encoding of the request and response bodies.
        token_env: environment variable with a bearer token. The token itself is not an option, since descriptions of
            environments are written to files.
        noise_depth: as in `RemoteOptions`, like the options up to `max_document_chars`.
        max_pages: maximum number of lists per search; each list is twice as long as the one before.
        max_query_chars: maximum length of a query; longer queries are cut.
        max_document_chars: maximum length of a document; longer documents are cut.
        http: fields of `zerosearch_env.llm.HttpOptions`, for example `{"concurrency": 256}`.
        cache: path of a SQLite file that stores the server's answers.

    Raises:
        ConfigError: the address is missing, or an option is invalid.
        CacheError: the cache cannot be opened.
    """
    from ...llm.http.options import HttpOptions
    from .engine import RemoteOptions
    from .retrieve import RetrieveEngine

    return RetrieveEngine(
        [url for url in argument.split(",") if url.strip()],
        dialect=dialect,
        path=path,
        send_context=send_context,
        batch_size=batch_size,
        encoding=encoding,
        token_env=token_env,
        options=RemoteOptions(noise_depth, max_pages, max_query_chars, max_document_chars),
        http=HttpOptions.from_mapping(http),
        cache=cache,
    )


def web_engine(provider: str) -> EngineFactory:
    """The engine factory for a web search service: `"serpapi"`, `"serper"` or `"brave"`."""

    def factory(
        argument: str,
        dataset: Dataset | None,
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
        noise_depth: int = 15,
        max_pages: int = 5,
        max_query_chars: int = 300,
        max_document_chars: int = 2000,
        http: Mapping[str, Any] | None = None,
        cache: str | None = None,
    ) -> WebSearchEngine:
        """Build the engine for a web search service; for the options see `WebSearchEngine` and `RemoteOptions`.

        Raises:
            ConfigError: there is an argument after the name, the key is missing, or an option is invalid.
            CacheError: the cache cannot be opened.
        """
        from ...llm.http.options import HttpOptions
        from .engine import RemoteOptions
        from .web import WebSearchEngine

        if argument:
            raise ConfigError(f"the engine {provider!r} takes no argument, got {len(argument)} characters")
        return WebSearchEngine(
            provider,
            extras=extras,
            page_size=page_size,
            country=country,
            language=language,
            rate=rate,
            burst=burst,
            max_requests=max_requests,
            price_per_1000=price_per_1000,
            url=url,
            key_env=key_env,
            options=RemoteOptions(noise_depth, max_pages, max_query_chars, max_document_chars),
            http=HttpOptions.from_mapping(http),
            cache=cache,
        )

    return factory
