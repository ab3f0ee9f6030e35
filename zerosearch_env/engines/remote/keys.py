"""Keys of remote engines: read from the environment, and shown nowhere."""

from __future__ import annotations

import os
import re

from ...errors import ConfigError


def key_of(variable: str, what: str, *, needed: bool) -> str:
    """The key in an environment variable; empty where it is not set and not needed.

    Args:
        variable: its name.
        what: how a message calls the key.
        needed: whether a missing one is an error.

    Raises:
        ConfigError: it is missing, or holds characters that no HTTP header can carry; the key is not shown.
    """
    key = os.environ.get(variable, "").strip()
    if needed and not key:
        # Who takes the option for the key itself must not find it in a log.
        name = variable if re.fullmatch("[A-Z][A-Z0-9_]*", variable) else "that key_env or token_env names"
        raise ConfigError(f"the environment variable {name} with {what} is not set; export it before the start")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"the environment variable {variable} holds characters that no key has; is it the right text?"
        )
    return key
