"""The definitions in this folder, and those of users: TOML files in which missing fields have the values of v1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zerosearch_agents.config.definition import Definition, definition_differences
from zerosearch_agents.config.tables import parse_toml, read_toml
from zerosearch_env.errors import ConfigError, unknown_name

BASE = "v1"
"""The definition that completes all others."""
_FOLDER = Path(__file__).parent


def definition_names() -> list[str]:
    """The names of the definitions that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_definition(name: str) -> Definition:
    """Load a definition that comes with the package, or one of your own.

    Args:
        name: one of `definition_names()`, or the path of a TOML file.

    Raises:
        ConfigError: there is no such name (the message suggests the nearest) or file, or the file has an unknown field
            or an invalid value.
    """
    if name in definition_names():
        return parse_definition(read_toml(_FOLDER / f"{name}.toml", "definition"), name, f"the definition {name}")
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        raise ConfigError(f"{unknown_name('definition', name, definition_names())} Or pass a file of your own: my.toml")
    definition = parse_definition(read_toml(path, "definition"), path.stem, name)
    if definition.name in definition_names():
        shipped = load_definition(definition.name)
        if differences := definition_differences(shipped.values, definition.values):
            raise ConfigError(
                f"{name} calls itself {definition.name!r}, the name of a definition that comes with the package, and "
                f'differs from it ({"; ".join(differences)}). Give it another name: name = "my-{definition.name}"'
            )
    return definition


def parse_definition(text: str, name: str, where: str) -> Definition:
    """Parse a definition; what it leaves out is as in v1.

    Args:
        text: the TOML.
        name: the name of the definition if the text has none.
        where: the source, for error messages.

    Raises:
        ConfigError: it is not TOML, has an unknown field, or a value is invalid.
    """
    base = parse_toml(read_toml(_FOLDER / f"{BASE}.toml", "definition"), BASE)
    values = parse_toml(text, where)
    if isinstance(values.get("world"), Mapping):
        values["world"] = {**base["world"], **values["world"]}
    return Definition.from_values({**base, "name": name, **values}, where)
