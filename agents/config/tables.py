"""TOML tables and the dataclasses that they fill, with every value checked against the type of its field."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from zerosearch_env.errors import ConfigError, sentence, unknown_name

Options = TypeVar("Options")


def read_toml(path: str | os.PathLike[str], what: str) -> str:
    """The text of a TOML file.

    Args:
        path: the file.
        what: what it holds, for the error messages, for example "configuration".

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as cause:
        raise ConfigError(f"the {what} {os.fspath(path)} cannot be read: {cause.strerror}.") from cause
    except UnicodeDecodeError as cause:
        raise ConfigError(f"the {what} {os.fspath(path)} is damaged: {sentence(cause)}") from cause


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The values of a TOML text.

    Args:
        text: the TOML.
        where: the source, for error messages.

    Raises:
        ConfigError: it is not TOML.
    """
    import tomllib  # when it is used: a help text takes long enough to import

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise ConfigError(f"{where} is not valid TOML: {sentence(cause)}") from cause


def build(kind: type[Options], values: Mapping[str, Any], where: str, prefix: str = "") -> Options:
    """Build a dataclass from a table, checking each value against its field's type.

    Args:
        kind: the dataclass; its fields may be dataclasses.
        values: a TOML table, or an object of JSON. Fields that it lacks have their defaults.
        where: the source, for error messages.
        prefix: the path of the table in its source, with a dot at the end.

    Raises:
        ConfigError: a field is unknown (the message suggests the nearest name), has a value of another type, or is
            missing and has no default.
    """
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise unknown_name(f"field of {where}", f"{prefix}{name}", [f"{prefix}{hint}" for hint in hints])
    converted = {name: _convert(hints[name], value, where, f"{prefix}{name}") for name, value in values.items()}
    unset = (dataclasses.MISSING, dataclasses.MISSING)
    # `kind` is a dataclass; its type says so nowhere
    required = [field.name for field in dataclasses.fields(kind) if (field.default, field.default_factory) == unset]  # type: ignore[arg-type]
    if missing := [f"{prefix}{name}" for name in required if name not in values]:
        raise ConfigError(f"{where} has no {', '.join(missing)}.")
    return kind(**converted)


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    """Convert `value` to its field's type: int to float, list to tuple; any other value must match exactly."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {name} must be a table, got {value!r}.")
        return build(hint, value, where, f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise unknown_name(f"{name} in {where}", value, map(str, arguments))
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return _convert(next(argument for argument in arguments if argument is not types.NoneType), value, where, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where, name) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: {name} must be of type {getattr(hint, '__name__', hint)}, got {value!r}.")
    return value
