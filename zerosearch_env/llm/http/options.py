"""The bounds of an HTTP client, and the addresses that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from ...errors import ConfigError, unknown_name


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Bounds of a `JsonClient`. All times are in seconds."""

    concurrency: int = 64
    """Requests on their way at once; further ones wait."""
    attempts: int = 6
    """Most attempts of a request, the first one included."""
    connect_s: float = 5.0
    """Longest wait for a connection."""
    read_s: float = 60.0
    """Longest silence of a server while its answer is awaited."""
    total_s: float = 120.0
    """Longest time of a request with all its attempts and waits; waiting in the queue counts while nobody answers."""
    backoff_s: float = 0.5
    """Longest wait after the first failed attempt; it doubles with each further one."""
    backoff_cap_s: float = 20.0
    """Longest wait between attempts."""
    max_body_bytes: int = 8 * 2**20
    """Longest accepted answer."""
    breaker_failures: int = 5
    """Failures in a row after which a replica is left alone."""
    breaker_cooldown_s: float = 5.0
    """For how long it is left alone before one request tries it again."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: when one is out of its range.
        """
        for field in fields(self):
            value, whole = getattr(self, field.name), field.type == "int"
            number = isinstance(value, (int,) if whole else (int, float)) and not isinstance(value, bool)
            least_ok = number and (value >= 1 if whole else value > 0 or (value == 0 and field.name == "backoff_s"))
            if not least_ok:
                wanted = "a whole number of at least 1" if whole else "a number of seconds above 0"
                raise ConfigError(f"{field.name} must be {wanted}, got {value!r}")

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any] | None) -> HttpOptions:
        """The options of an engine's description, for example `{"concurrency": 256}`; None gives the defaults.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        for name in given or {}:
            if name not in cls.__dataclass_fields__:
                raise unknown_name("option of http", name, cls.__dataclass_fields__)
        return cls(**(given or {}))


def check_url(url: str) -> str:
    """An address without a slash at its end.

    Raises:
        ConfigError: it is no http(s) address.
    """
    text = url.strip() if isinstance(url, str) else ""
    try:
        parsed = urlsplit(text)
        usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        usable = False
    if not usable:
        raise ConfigError(f"expected an address such as http://127.0.0.1:8000/v1, got {url!r}")
    return text.rstrip("/")
