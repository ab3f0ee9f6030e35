"""API keys of servers: read from the environment and never shown."""

from __future__ import annotations

import os
import re

from ...errors import ConfigError


def key_of(variable: str, what: str, *, needed: bool) -> str:
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


def check_key(key: str, what: str) -> str:
    """Return the key if it can be sent in an HTTP header.

    Raises:
        ConfigError: it has characters that are not allowed there. The message does not show the key.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{what} holds characters that no key has; is it the right value?")
    return key
