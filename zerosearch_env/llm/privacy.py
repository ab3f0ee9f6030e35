"""Keeping keys out of sight in messages that quote a server or a library."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

HIDDEN = "***"
"""Stands where a key stood."""


def hide(text: str, secrets: Sequence[str]) -> str:
    """A text without the secrets, as they are or as they stand in an address."""
    for secret in secrets:
        for form in (secret, quote(secret, safe="")):
            text = text.replace(form, HIDDEN)
    return text
