"""Keeping keys out of sight in messages that quote a server or a library."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

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


_NAME = r"(?:[\w-]*[_-])?(?:apikey|key|token|secret|password|passwd|authorization|signature)"
_HEADER = r"(?:[\w-]*-)?(?:authorization|api-?key|secret|password)"
_IN_ADDRESS = re.compile(r"(:/{1,2})[^/?#\s'\"@]+@")  # one slash is what a path makes of two
_PARAMETER = re.compile(
    rf"(?i)\b({_NAME}\s*=\s*[\"']?|{_HEADER}:\s*|{_NAME}[\"']\s*:\s*[\"'])(?!\*\*\*|bearer |basic )([^\s&,;'\"}})]+)"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_KNOWN = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[opsru]_\w{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{10,})"
)
_SECRET_VARIABLE = re.compile(rf"(?i){_NAME}")
_SHORTEST = 8
"""Values of environment variables below this length are no keys, and would be found everywhere."""


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text without what looks like a credential: for configurations, logs and error messages.

    Left out are the user part of addresses (`https://user:password@host`), values of parameters and headers that are
    named like a key (`api_key=...`, `Authorization: ...`), keys of well-known forms (`sk-...`), and every value of an
    environment variable that is named like a key. An option that names such a variable (`key_env=NAME`) stays.

    Args:
        text: what is about to be shown.
        environment: variables whose values are looked for.
    """
    held = [value for name, value in environment.items() if _SECRET_VARIABLE.fullmatch(name)]
    text = hide(text, [value for value in held if len(value) >= _SHORTEST and value in text])
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)


def _forms(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character  # nobody escapes these; the pattern stays fast
    percent = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "replace"))
    escaped = f"u{ord(character):04x}"
    return rf"(?:\\?{re.escape(character)}|(?i:{percent})|\\(?i:{escaped}))"
