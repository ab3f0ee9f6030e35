"""API keys of servers: read from the environment, never shown and never pickled."""

from __future__ import annotations

import os
import re
from typing import Any, NoReturn, Self

from ...errors import ConfigError
from ...privacy import HIDDEN


class Key(str):
    """A string with a key: its `repr` hides it, copies share it, and a pickle that would hold it is refused."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(HIDDEN)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "an API key is not pickled, because a pickle may be a file: export it as an environment variable and leave "
            "`api_key` out, then every process reads it there"
        )


def key_of(variable: str, what: str, *, needed: bool) -> Key:
    """Read a key from an environment variable; returns "" if it is not set and not needed.

    Args:
        variable: name of the environment variable.
        what: name of the key in error messages.
        needed: whether a missing key is an error.

    Raises:
        ConfigError: the key is missing, or it has characters that are not allowed in an HTTP header. The message does
            not show the key.
    """
    key = os.environ.get(variable, "").strip()
    if needed and not key:
        # A user may pass the key itself instead of the variable's name: do not show it.
        name = variable if re.fullmatch("[A-Z][A-Z0-9_]*", variable) else "that the option for the key names"
        raise ConfigError(f"the environment variable {name} with {what} is not set; export it before the start")
    return check_key(key, f"the environment variable {variable}")


def check_key(key: str, what: str) -> Key:
    """Return the key if it can be sent in an HTTP header.

    Raises:
        ConfigError: it has characters that are not allowed there. The message does not show the key.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{what} holds characters that no key has; is it the right value?")
    return Key(key)
