"""Keeping keys out of sight in messages that quote a server or a library."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"
"""Stands where a key stood."""


def hide(text: str, secrets: Sequence[str]) -> str:
    """A text without the secrets, as they are or as they stand in an address (%2F) or in JSON (behind backslashes).

    Which characters are escaped differs from library to library, so each one is found in all its forms.
    """
    for secret in secrets:
        if secret:
            text = re.sub("".join(map(_forms, secret)), HIDDEN, text)
    return text


def _forms(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character  # nobody escapes these; the pattern stays fast
    percent = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "replace"))
    escaped = f"u{ord(character):04x}"
    return rf"(?:\\?{re.escape(character)}|(?i:{percent})|\\(?i:{escaped}))"
