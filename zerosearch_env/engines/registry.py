"""Registry of search engine kinds, and the function that builds an engine from its description."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from ..errors import ConfigError, unknown_name
from ..types import Dataset, Options
from .base import SearchEngine

EngineFactory = Callable[..., SearchEngine]
"""`factory(argument, dataset, **options) -> SearchEngine`; `argument` is the part of a spec after the colon, or ""."""


_FACTORIES: dict[str, EngineFactory | str] = {}


def register_engine(kind: str, factory: EngineFactory | str) -> None:
    """Register a kind of engine for `make_engine`.

    Args:
        kind: the part of a spec before the colon, for example `"corpus"`.
        factory: called as `factory(argument, dataset, **options)`; its keyword-only parameters are the options that
            a spec given as a mapping may contain. `"module:attribute"` is imported at first use.

    Raises:
        ConfigError: `kind` is empty, contains a colon, or is already registered with another factory.
    """
    if not kind or ":" in kind:
        raise ConfigError(f"the kind of an engine is a non-empty name without a colon, got {kind!r}")
    if _FACTORIES.setdefault(kind, factory) != factory:
        raise ConfigError(f"an engine of the kind {kind!r} is registered already")


def forwards(
    *targets: Callable[..., object], without: Collection[str] = ()
) -> Callable[[EngineFactory], EngineFactory]:
    """Decorate a factory that passes its `**options` on: its signature then lists the options of all targets.

    Args:
        *targets: constructors; their parameters with a default are options, unless the factory has one of that name.
        without: names of parameters that are no options.
    """

    def decorate(factory: EngineFactory) -> EngineFactory:
        signature = inspect.signature(factory)
        parameters = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
        for target in targets:
            for name, parameter in inspect.signature(target).parameters.items():
                if parameter.default is not parameter.empty and name not in without:
                    parameters.setdefault(name, parameter.replace(kind=parameter.KEYWORD_ONLY))
        factory.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
        return factory

    return decorate


def make_engine(spec: str | Options | SearchEngine, *, dataset: Dataset | None = None) -> SearchEngine:
    """Build a search engine from its description.

    Args:
        spec: `"KIND"`, `"KIND:ARGUMENT"`, `{"kind": KIND, "argument": ARGUMENT, **options}`, or a ready-made engine,
            which is returned unchanged.
        dataset: an embedded engine searches the passages of this dataset.

    Raises:
        ConfigError: the kind or an option is unknown (the message suggests the nearest valid one), or a value is
            invalid.
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
            "a search engine must be a string such as 'corpus', a mapping with a 'kind', or an object with "
            f"search, asearch and close; got {type(spec).__name__}"
        )
    factory = _FACTORIES.get(kind) if isinstance(kind, str) else None
    if factory is None:
        raise unknown_name("search engine", kind, _FACTORIES)
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        factory = cast("EngineFactory", getattr(importlib.import_module(module), attribute))
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the search engine {kind!r}", option, known)
    return factory(argument, dataset, **options)
