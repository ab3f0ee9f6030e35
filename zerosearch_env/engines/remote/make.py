"""The specs `retrieve:URL`, `serpapi`, `serper` and `brave` with their options; loads an engine when one is built."""

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
    """The engine of `"retrieve:URL[,URL...]"`.

    Args:
        argument: one address, or those of several replicas with commas between them.
        dataset: not used; a request brings its question along.
        dialect: as in `RetrieveEngine`, like those up to `token_env`.
        path: what is put behind an address.
        send_context: whether the server makes the noise.
        batch_size: queries of one HTTP request at most.
        encoding: of the bodies.
        token_env: environment variable with a bearer token; the token itself is no option, since descriptions of
            environments are written to files.
        noise_depth: as in `RemoteOptions`, like those up to `max_document_chars`.
        max_pages: lists of doubling length that one search asks for at most.
        max_query_chars: where a query is cut.
        max_document_chars: where a document is cut.
        http: fields of `zerosearch_env.llm.HttpOptions`, for example `{"concurrency": 256}`.
        cache: path of a SQLite file that keeps what the server sent.

    Raises:
        ConfigError: no address, or an option that cannot be used.
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
    """The factory of a web search service: `"serpapi"`, `"serper"` or `"brave"`."""

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
        """The engine of a web search service; the options are those of `WebSearchEngine` and `RemoteOptions`.

        Raises:
            ConfigError: an argument behind the name, a missing key, or an option that cannot be used.
            CacheError: the cache cannot be opened.
        """
        from ...llm.http.options import HttpOptions
        from .engine import RemoteOptions
        from .web import WebSearchEngine

        if argument:
            raise ConfigError(f"the engine {provider!r} takes nothing behind a colon, got {len(argument)} characters")
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
