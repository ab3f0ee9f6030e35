"""Factories for the specs `retrieve:URL`, `serpapi`, `serper` and `brave`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import ConfigError
from ...llm.http.options import HttpOptions
from ...types import Dataset, Options
from ..registry import EngineFactory, forwards
from .engine import RemoteOptions
from .retrieve import RetrieveEngine
from .web import WebSearchEngine


# Any: the signature that `forwards` sets gives each option its type
@forwards(RetrieveEngine, RemoteOptions, without=("options",))
def retrieve_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    url: str | Sequence[str] | None = None,
    http: Options | None = None,
    cache: str | None = None,
    **options: Any,
) -> RetrieveEngine:
    """Build the engine for `"retrieve:URL[,URL...]"`.

    Args:
        argument: one address, or the addresses of several replicas, separated by commas.
        dataset: not used; each request carries its question.
        url: the address or the list of addresses, instead of `argument`.
        http: fields of `zerosearch_env.llm.HttpOptions`, for example `{"concurrency": 256}`.
        cache: path of a SQLite file that stores the server's answers.
        **options: the options of `RetrieveEngine` and the fields of `RemoteOptions`.

    Raises:
        ConfigError: the address is missing, or an option is invalid.
        CacheError: the cache cannot be opened.
    """
    limits = _limits(options)
    if argument and url is not None:
        raise ConfigError("the retrieve engine got its address twice: give the part after the colon, or url")
    addresses = argument if url is None else url
    urls = [a for a in (addresses.split(",") if isinstance(addresses, str) else addresses) if a.strip()]
    return RetrieveEngine(urls, options=limits, http=HttpOptions.from_mapping(http), cache=cache, **options)


def web_engine(provider: str) -> EngineFactory:
    """The engine factory for a web search service: `"serpapi"`, `"serper"` or `"brave"`."""

    @forwards(WebSearchEngine, RemoteOptions, without=("options",))
    def factory(
        argument: str,
        dataset: Dataset | None,
        *,
        noise_depth: int = 15,
        http: Options | None = None,
        cache: str | None = None,
        **options: Any,
    ) -> WebSearchEngine:
        """Build the engine for a web search service; for the options see `WebSearchEngine` and `RemoteOptions`.

        Raises:
            ConfigError: there is an argument after the name, the key is missing, or an option is invalid.
            CacheError: the cache cannot be opened.
        """
        if argument:
            raise ConfigError(f"the engine {provider!r} takes no argument, got {len(argument)} characters")
        limits = replace(_limits(options), noise_depth=noise_depth)
        return WebSearchEngine(provider, options=limits, http=HttpOptions.from_mapping(http), cache=cache, **options)

    return factory


serpapi_engine, serper_engine, brave_engine = map(web_engine, ("serpapi", "serper", "brave"))


def _limits(options: dict[str, Any]) -> RemoteOptions:
    """Take the fields of `RemoteOptions` out of `options`."""
    return RemoteOptions(**{name: options.pop(name) for name in RemoteOptions.__dataclass_fields__ if name in options})
