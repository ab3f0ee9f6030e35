"""What commands share: their options, read into a dataclass with `tyro`, and the signals that end them."""

from __future__ import annotations

import ast
import contextlib
import inspect
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tyro.constructors import StructConstructorSpec, StructTypeInfo

Options = TypeVar("Options")


@contextlib.contextmanager
def signals_handled(handler: Callable[[], object]) -> Iterator[None]:
    """Call a function on SIGINT and SIGTERM. Only in the main thread."""

    def handled(number: int, frame: FrameType | None) -> None:
        handler()

    before = {number: signal.signal(number, handled) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def read_options(
    options: type[Options],
    argv: Sequence[str] | None,
    command: str,
    *,
    description: str | None = None,
    default: Options | None = None,
) -> Options:
    """Read the options of a command; after `--help` or an error, print text and exit.

    The help shows the options that a dataclass adds before those that it shares with other commands.

    Args:
        options: the dataclass of the options; the docstrings of its fields are their help.
        argv: the arguments after the command's name; None: the arguments of the process.
        command: the command as it is typed, for example `"zerosearch view"`.
        description: text above the options; None: the docstring of `options`.
        default: the values of options that are not given; None: those of the dataclass.

    Raises:
        SystemExit: the help was asked for, or an option is wrong or missing.
    """
    arguments = sys.argv[1:] if argv is None else argv
    with _without_typeguard() if {"-h", "--help"} & {*arguments} else contextlib.nullcontext():
        return _read_options(options, arguments, command, description=description, default=default)


@contextlib.contextmanager
def _without_typeguard() -> Iterator[None]:
    """A stand-in for `typeguard`, with which tyro compares the default of each option with its type.

    Importing it takes a tenth of the time of a help text, and nothing depends on the outcome there.
    """
    stand_in = ModuleType("typeguard")
    vars(stand_in).update(check_type=lambda value, kind: value, TypeCheckError=TypeError)
    ours = sys.modules.setdefault("typeguard", stand_in) is stand_in
    try:
        yield
    finally:
        if ours:
            del sys.modules["typeguard"]


def _read_options(
    options: type[Options],
    argv: Sequence[str],
    command: str,
    *,
    description: str | None,
    default: Options | None,
) -> Options:
    import tyro
    from tyro.constructors import MISSING_NONPROP, ConstructorRegistry

    registry = ConstructorRegistry()
    registry.struct_rule(_options_rule)
    start = MISSING_NONPROP if default is None else default
    return tyro.cli(options, args=argv, prog=command, description=description, default=start, registry=registry)


def _options_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """How tyro reads a dataclass: its own fields come first, then those of its bases; their help has no line breaks."""
    from tyro.constructors import MISSING_NONPROP, StructConstructorSpec, StructFieldSpec

    if not is_dataclass(info.type):
        return None
    types, texts = typing.get_type_hints(info.type, include_extras=True), _help_texts(info.type)
    # Field -> how far away the class is that it comes from.
    distance = {
        name: number
        for number, base in enumerate(info.type.__mro__)
        for name in getattr(base, "__dataclass_fields__", ())
    }
    specs = []
    for field in sorted(fields(info.type), key=lambda field: distance[field.name]):
        if is_dataclass(info.default):
            default = getattr(info.default, field.name)
        elif field.default_factory is not MISSING:
            default = field.default_factory()
        else:
            default = MISSING_NONPROP if field.default is MISSING else field.default
        specs.append(StructFieldSpec(field.name, types[field.name], default, texts.get(field.name)))
    return StructConstructorSpec(info.type, tuple(specs))


def _help_texts(options: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, each in one line: tyro keeps the breaks before indented lines."""
    bases = reversed(options.__mro__[:-1])
    return {
        field: text for base in bases for field, text in _documented(base.__module__).get(base.__name__, {}).items()
    }


@cache
def _documented(module: str) -> dict[str, dict[str, str]]:
    """The docstrings of fields: class at the top of the module -> field -> text.

    A module is parsed once for all its classes; `docstring_parser` parses it once for each, which takes half of the
    time of `zerosearch train --help`.
    """
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # installed without its source
        return {}
    return {
        statement.name: dict(_field_texts(statement)) for statement in tree.body if isinstance(statement, ast.ClassDef)
    }


def _field_texts(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for pair in pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                yield field, " ".join(text.split())
