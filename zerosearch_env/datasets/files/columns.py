"""Find the columns of a row: spellings of a name, columns that a caller names, and the nearest name for an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from ...checks import is_whole_number
from ...errors import ConfigError, unknown_name
from ...types import Json
from .packed import unpack
from .rows import Row, RowError

Column = str | int
"""A column by name; by number, from 0, in a CSV or TSV file without a header."""
Columns = Mapping[str, Column | Sequence[Column]]
"""Field -> its column, or a list of columns, for example `{"question": "Frage"}`; a dot leads into a nested
dict."""
Fields = Mapping[str, tuple[str, tuple[str, ...]]]
"""Field that a caller may map to a column -> the name that every reader knows, and all names that it replaces."""


def missing(value: Json) -> bool:
    """Whether a cell is empty: None, or what pandas puts in its place (NaN, NA, NaT)."""
    if isinstance(value, float):
        return value != value
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def find_column(row: Row, names: tuple[str, ...]) -> str | None:
    """The first column with one of these names, or None. Case, blanks and underscores are ignored if need be."""
    return next(iter(matches(tuple(row), names)), None)


def first_of(row: Row, names: tuple[str, ...]) -> str | None:
    """The first column with one of these names (see `find_column`) whose cell is not empty, or None."""
    for name in matches(tuple(row), names):
        value = row[name]
        if type(value) is str or not missing(value):  # nearly all cells are texts
            return name
    return None


@lru_cache(maxsize=1024)
def matches(columns: tuple[object, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns with these names, in the order of the names; a column spelled exactly like a name comes first."""
    texts = [column for column in columns if isinstance(column, str)]
    matches: list[str] = []
    for name in names:
        matches += [column for column in texts if column == name]
        matches += [column for column in texts if column != name and _fold(column) == _fold(name)]
    return tuple(dict.fromkeys(matches))


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def no_column(
    row: Row, names: Sequence[str], field: str, what: str, *, within: str = "", mappable: bool = True
) -> RowError:
    """The error for a row without a column, with the nearest one that it has.

    Args:
        row: the row, or the dict in a row that should hold the field.
        names: names that the column may have.
        field: the field, as `columns` names it.
        what: the content of the field, for example "a question".
        within: path of the dict in the row, with a dot at the end.
        mappable: whether `columns` can name another column.
    """
    columns = [str(name) for name in row]
    scores = [
        (difflib.SequenceMatcher(None, _fold(column), _fold(name)).ratio(), column)
        for column in columns
        for name in names
    ]
    score, nearest = max(scores, default=(0.0, ""))
    hint = ""
    if score >= 0.6:
        would = f', columns={{"{field}": "{within}{nearest}"}} would read it' if mappable else ""
        hint = f"; the nearest is {nearest!r}{would}"
    elif mappable:
        hint = f'; columns={{"{field}": ...}} can name it, or number it (from 0) in a table without a header'
    shown = ", ".join(map(repr, columns[:12])) + (", ..." if len(columns) > 12 else "")
    some = f"the column {names[0]!r}" if len(names) == 1 else f"a column such as {', '.join(map(repr, names[:3]))}"
    got = f"the columns {shown}{hint}" if columns else "an empty row"
    return RowError(field, f"{what} in {some}", got, words=True)


def required(row: Row, name: str, field: str | None = None) -> Json:
    """The value of a field that has only one name.

    Args:
        row: the row, or a dict in it.
        name: the name of the field.
        field: the field in messages, if the dict is part of a row.

    Raises:
        RowError: there is no such field; the message names the nearest one.
    """
    if name not in row:
        raise no_column(row, [name], field or name, f"the {name}", mappable=False)
    return row[name]


def check_columns(columns: Columns | None, fields: Iterable[str]) -> None:
    """Check a mapping of columns.

    Raises:
        ConfigError: it is not a mapping from these fields to names of columns.
    """
    if columns is None:
        return
    if not isinstance(columns, Mapping):
        raise ConfigError(f'columns must be a mapping such as {{"question": "Frage"}}, got {columns!r}')
    for field, column in columns.items():
        if field not in fields:
            raise unknown_name("field in columns", field, fields)
        names = _listed(column)
        if not names or not all(
            name >= 0 if is_whole_number(name) else name and isinstance(name, str) for name in names
        ):
            raise ConfigError(
                f"columns[{field!r}] must be the name of a column, its number from 0, or a list, got {column!r}"
            )
    if len({isinstance(name, str) for column in columns.values() for name in _listed(column)}) > 1:
        raise ConfigError(f"columns must have names, or numbers in a table without a header; got both: {columns!r}")


def has_header(columns: Columns | None) -> bool:
    """Whether a table has a header, as far as the columns tell: they have numbers only if it has none."""
    return not any(is_whole_number(name) for column in (columns or {}).values() for name in _listed(column))


def _listed(column: Column | Sequence[Column]) -> Sequence[Column]:
    return column if isinstance(column, (list, tuple)) else [column]  # type: ignore[list-item]  # no other sequence


def parse_columns(pairs: Sequence[str]) -> dict[str, Column]:
    """The mapping in `FIELD=COLUMN` pairs, the form that commands take.

    Raises:
        ConfigError: a pair has no "=".
    """
    columns: dict[str, Column] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals:
            raise ConfigError(f"columns: expected FIELD=COLUMN, for example question=Frage, got {pair!r}")
        columns[field] = int(column) if column.isdecimal() else column
    return columns


def renamed(row: Row, columns: Columns, fields: Fields) -> Row:
    """The row with the caller's columns under the names that the readers know, in place of any others of that kind.

    Several columns become a list of their cells, without the empty ones.

    Raises:
        RowError: there is no such column.
    """
    given: dict[str, Json] = {}
    for field, column in columns.items():
        cells = [_cell(row, name, field) for name in _listed(column)]
        given[fields[field][0]] = (
            [c for c in cells if not missing(c)] if isinstance(column, (list, tuple)) else cells[0]
        )
    replaced = {name for column in columns.values() for name in _listed(column)}
    kept = {name: value for name, value in row.items() if name not in replaced}
    for field in columns:
        while (old := find_column(kept, fields[field][1])) is not None:
            del kept[old]
    return kept | given


def as_named(problem: RowError, columns: Columns, fields: Fields) -> RowError:
    """The error with the name of the caller's column in place of the one that the readers know."""
    if problem.words:  # it is about columns, and names them
        return problem
    for field, column in columns.items():
        name = fields[field][0]
        if problem.field == name or problem.field.startswith(f"{name}."):
            named = ", ".join(map(str, _listed(column))) + problem.field.removeprefix(name)
            return RowError(named, problem.expected, problem.got, words=problem.words)
    return problem


def _cell(row: Row, path: Column, field: str) -> Json:
    """The cell in a column that a caller named; a dot leads into a nested dict.

    Raises:
        RowError: there is no such column.
    """
    if path in row:
        return row[path]
    value: Json = row
    path, within = str(path), ""
    for name in path.split("."):
        value = unpack(value, path) if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            raise RowError(field, f"a dict in the column {within.rstrip('.')!r}", value)
        if name not in value:
            raise no_column(value, [within + name], field, f"the {field}", within=within)
        value, within = value[name], f"{within}{name}."
    return value
