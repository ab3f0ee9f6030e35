"""Keys of remote engines: read from the environment, and shown nowhere."""

from __future__ import annotations

import os

from ..errors import ConfigError


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
        raise ConfigError(f"the environment variable {variable} with {what} is not set: export {variable}=...")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"the environment variable {variable} holds characters that no key has; is it the right text?"
        )
    return key
