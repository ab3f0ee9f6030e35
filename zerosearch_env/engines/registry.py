"""The kinds of search engines by name, and the function that builds one from its description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError, unknown_name
from ..types import Dataset
from .base import SearchEngine

EngineFactory = Callable[..., SearchEngine]
"""`factory(argument, dataset, **options) -> SearchEngine`; `argument` is the text after the colon of a spec, or ""."""


_FACTORIES: dict[str, EngineFactory] = {}


def register_engine(kind: str, factory: EngineFactory) -> None:
    """Make a kind of engine known to `make_engine`.

    Args:
        kind: the name in front of the colon of a spec, for example `"corpus"`.
        factory: called as `factory(argument, dataset, **options)`; its keyword-only parameters are the options that
            a mapping may give.

    Raises:
        ConfigError: when the kind is empty, holds a colon, or is taken by another factory.
    """
    if not kind or ":" in kind:
        raise ConfigError(f"the kind of an engine is a non-empty name without a colon, got {kind!r}")
    if _FACTORIES.setdefault(kind, factory) is not factory:
        raise ConfigError(f"an engine of the kind {kind!r} is registered already")


def make_engine(spec: str | Mapping[str, Any] | SearchEngine, *, dataset: Dataset | None = None) -> SearchEngine:
    """Build a search engine from its description.

    Args:
        spec: `"KIND"`, `"KIND:ARGUMENT"`, `{"kind": KIND, "argument": ARGUMENT, **options}`, or a ready-made engine,
            which is returned as it is.
        dataset: the dataset whose passages an embedded engine searches.

    Raises:
        ConfigError: for an unknown kind or option (the nearest valid one is named), or an unusable value.
    """
    if isinstance(spec, str):
        kind, _, argument = spec.partition(":")
        options: dict[str, Any] = {}
    elif isinstance(spec, Mapping):
        options = dict(spec)
        if "kind" not in options:
            raise ConfigError(f"a search engine's description needs a 'kind', got the keys {sorted(map(str, spec))}")
        kind, argument = options.pop("kind"), options.pop("argument", "")
    elif isinstance(spec, SearchEngine):
        return spec
    else:
        raise ConfigError(
            "a search engine is described by a text such as 'corpus', by a mapping with a 'kind', or is an object with "
            f"search, asearch and close; got {type(spec).__name__}"
        )
    factory = _FACTORIES.get(kind) if isinstance(kind, str) else None
    if factory is None:
        raise unknown_name("search engine", kind, _FACTORIES)
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the search engine {kind!r}", option, known)
    return factory(argument, dataset, **options)
