"""Remove API keys and passwords from messages that quote a server or a library."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from .types import Json

HIDDEN = "***"
"""Replaces a secret."""


def hide(text: str, secrets: Sequence[str]) -> str:
    r"""Replace the given secrets in a string, also when they are percent-encoded (URLs) or backslash-escaped (JSON).

    Libraries differ in which characters they escape, so every character is matched in all its forms: for `/` these are
    `/`, `\/`, `%2f` and `\u002f`.
    """
    pattern = _pattern(tuple(secrets))
    return text if pattern is None else pattern.sub(HIDDEN, text)


def hide_all(value: Json, secrets: Sequence[str]) -> Json:
    """Replace the given secrets in every string of a value read from JSON, keys included (see `hide`)."""
    pattern = _pattern(tuple(secrets))
    return value if pattern is None else _replaced(value, pattern)


def _replaced(value: Json, pattern: re.Pattern[str]) -> Json:
    if isinstance(value, str):
        return pattern.sub(HIDDEN, value)
    if isinstance(value, list):
        return [_replaced(entry, pattern) for entry in value]
    if isinstance(value, dict):
        return {_replaced(name, pattern): _replaced(entry, pattern) for name, entry in value.items()}
    return value


@lru_cache(maxsize=64)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    longest_first = sorted(filter(None, secrets), key=len, reverse=True)
    return re.compile("|".join("".join(map(_forms, secret)) for secret in longest_first)) if longest_first else None


_NAME = r"(?:[\w-]*[_-])?(?:apikey|key|token|secret|password|passwd|authorization|signature)"
_HEADER = r"(?:[\w-]*-)?(?:authorization|api-?key|secret|password)"
_IN_ADDRESS = re.compile(r"(:/{1,2})[^/?#\s'\"@]+@")  # pathlib shortens "//" to "/"
_PARAMETER = re.compile(
    rf"(?i)\b({_NAME}\s*=\s*[\"']?|{_HEADER}:\s*|{_NAME}[\"']\s*:\s*[\"'])(?!\*\*\*|bearer |basic )([^\s&,;'\"}})]+)"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_KNOWN = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[opsru]_\w{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{10,})"
)
_SECRET_VARIABLE = re.compile(rf"(?i){_NAME}")
_SHORTEST = 8
"""Values of environment variables shorter than this are not treated as keys; they would match everywhere."""


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replace everything that looks like a credential, for configurations, logs and error messages.

    Replaced are: the user part of URLs (`https://user:password@host`); values of parameters and headers named like a
    key (`api_key=...`, `Authorization: ...`); keys of well-known forms (`sk-...`); and the values of all environment
    variables named like a key. An option that only names such a variable (`key_env=NAME`) is kept.

    Args:
        text: the string to be shown.
        environment: the environment variables to search for secrets.
    """
    held = [value for name, value in environment.items() if _SECRET_VARIABLE.fullmatch(name)]
    text = hide(text, [value for value in held if len(value) >= _SHORTEST and value in text])
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)


def _forms(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character  # no library escapes these; a plain character keeps the pattern fast
    percent = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "replace"))
    escaped = f"u{ord(character):04x}"
    return rf"(?:\\?{re.escape(character)}|(?i:{percent})|\\(?i:{escaped}))"
