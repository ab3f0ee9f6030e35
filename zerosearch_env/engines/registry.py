"""Registry of search engine kinds, and the function that builds an engine from its description."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from ..errors import ConfigError, ZeroSearchError, suggestion, unknown_name
from ..identity import source_file, source_hash
from ..loading import code_identity, load_attribute, names_code
from ..privacy import redact
from ..types import Dataset, Options, SearchRequest, SearchResult
from .base import SearchEngine, engine_parts

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
        spec: one of

            - `"KIND"` or `"KIND:ARGUMENT"`,
            - `{"kind": KIND, "argument": ARGUMENT, **options}`, or the same mapping as JSON in a string; `KIND` may
              contain the argument: `{"kind": "retrieve:http://127.0.0.1:8000", "cache": "searches.sqlite"}`,
            - `"module:attribute"` or `"file.py:attribute"`, also as the `kind` of a mapping: an engine, or a class or
              function that returns one. It is called with the options, and with `dataset` if it has a parameter of
              that name. Loading it runs its code, so never pass a description that comes from a file here. An engine
              that the module itself has made belongs to the module: it stays open, and others may use it,
            - a ready-made engine, which is returned unchanged.
        dataset: an embedded engine searches the passages of this dataset.

    Raises:
        ConfigError: the kind or an option is unknown (the message suggests the nearest valid one), a value is invalid,
            or the code cannot be loaded.
    """
    if isinstance(spec, (str, Mapping)):
        kind, argument, options = _parts(spec)
    elif isinstance(spec, SearchEngine):
        return spec
    else:
        raise ConfigError(
            "a search engine must be a string such as 'corpus', a mapping with a 'kind', or an object with "
            f"search, asearch and close; got {type(spec).__name__}"
        )
    factory = _FACTORIES.get(kind)
    if factory is None:
        if loads_code(spec):
            return _load_engine(f"{kind}:{argument}", dataset, options)
        raise unknown_name("search engine", kind, _FACTORIES)
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        factory = cast("EngineFactory", getattr(importlib.import_module(module), attribute))
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the search engine {kind!r}", option, ["argument", *known])
    return factory(argument, dataset, **options)


def loads_code(spec: str | Options) -> bool:
    """Whether `make_engine` would load code that the description names. Refuse it if it comes from a file."""
    kind, argument, _ = _parts(spec)
    return kind not in _FACTORIES and names_code(f"{kind}:{argument}")


def searches_dataset(spec: str | Options) -> bool:
    """Whether an engine with this description searches the passages of the dataset that it is made with."""
    kind, argument, _ = _parts(spec)
    return kind == "corpus" and not argument


def engine_name(spec: str | Options) -> str:
    """A description as it is shown in tables: `retrieve:URL (cache=searches.sqlite)`, without credentials."""
    kind, argument, options = _parts(spec)
    name = f"{kind}:{argument}" if argument else kind
    return redact(f"{name} ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else name)


def engine_identity(engine: SearchEngine, spec: str | Options | SearchEngine = "") -> dict[str, str]:
    """The record of an engine (`zerosearch_env.identity`): what its `identity` names, and its code if it is your own.

    Args:
        engine: the engine.
        spec: the description that it was made from.
    """
    record = {name: redact(value) for name, value in engine_parts(engine).identity().items()}
    if type(engine).__module__.partition(".")[0] != __name__.partition(".")[0] and (file := source_file(engine)):
        record[f"the code in {file.name}"] = source_hash(file)
    if isinstance(spec, (str, Mapping)) and spec and loads_code(spec):
        kind, argument, _ = _parts(spec)
        record |= code_identity([f"{kind}:{argument}"])
    return record


def _parts(spec: str | Options) -> tuple[str, str, dict[str, Any]]:
    """The kind, the argument and the options of a description."""
    example = '{"kind": "retrieve:http://127.0.0.1:8000", "cache": "searches.sqlite"}'
    options: Any = {"kind": spec}
    if isinstance(spec, Mapping):
        options = dict(spec)
    elif spec.lstrip().startswith("{"):
        try:
            options = json.loads(spec)
        except ValueError as cause:
            raise ConfigError(f"the search engine {spec!r} is not JSON ({cause}); expected e.g. {example}") from cause
    if "kind" not in options:
        raise ConfigError(
            f"a search engine's description needs a 'kind', got the keys {sorted(map(str, options))}; expected "
            f"e.g. {example}"
        )
    kind = options.pop("kind")
    if not isinstance(kind, str):
        raise unknown_name("search engine", kind, _FACTORIES)
    if "argument" in options:
        return kind, options.pop("argument"), options
    # A path may contain a colon, so code is split at the last one.
    kind, _, argument = kind.rpartition(":") if names_code(kind) else kind.partition(":")
    return kind, argument, options


class _Borrowed:
    """An engine that a user's module has made. It outlives every environment and command that uses it."""

    def __init__(self, engine: SearchEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_engine":  # in a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._engine, name)

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return self._engine.search(requests)

    async def asearch(self, request: SearchRequest) -> SearchResult:
        return await self._engine.asearch(request)

    def close(self) -> None:
        """Does nothing: the module that has made the engine may close it."""


def _load_engine(spec: str, dataset: Dataset | None, options: dict[str, Any]) -> SearchEngine:
    """The engine that `module:attribute` names, or that it returns."""
    try:
        target = load_attribute(spec, "search engine")
    except ConfigError as cause:
        kind = spec.partition(":")[0]
        if hint := suggestion(kind, _FACTORIES):
            raise ConfigError(f"unknown search engine {kind!r}.{hint} ({cause})") from cause
        raise
    ready = isinstance(target, SearchEngine) and not inspect.isclass(target)
    if not ready and not callable(target):
        raise ConfigError(f"search engine {spec!r}: expected an engine, a class or a function, got {target!r:.200}")
    parameters = {} if ready else inspect.signature(target).parameters
    offered = {"argument": "", "dataset": dataset}
    known = [name for name in parameters if name not in offered]
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise unknown_name(f"option of the search engine {spec!r}", option, known)
    engine = _Borrowed(target) if ready else target
    if not ready:
        given = {name: value for name, value in offered.items() if name in parameters}
        try:
            engine = target(**given, **options)
        except ZeroSearchError:
            raise
        except (Exception, SystemExit) as cause:
            raise ConfigError(f"search engine {spec!r}: making it failed: {type(cause).__name__}: {cause}") from cause
    if not isinstance(engine, SearchEngine):
        raise ConfigError(
            f"search engine {spec!r}: expected an object with search, asearch and close, got {type(engine).__name__}; "
            "derive it from zerosearch_env.BatchedEngine"
        )
    return engine
