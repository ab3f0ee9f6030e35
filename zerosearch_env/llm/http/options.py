"""Limits of the HTTP client, and the check of its addresses."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

from ...checks import check_number, check_options, check_whole_number, make_options
from ...errors import ConfigError
from ...types import Options

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Host names of this machine."""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Limits of a `JsonClient`. All times are in seconds."""

    concurrency: int = 64
    """Maximum number of concurrent requests; further ones wait."""
    attempts: int = 6
    """Maximum number of attempts per request, including the first."""
    connect_s: float = 5.0
    """Maximum time to open a connection."""
    read_s: float = 60.0
    """Maximum time without data from the server while waiting for its response."""
    total_s: float = 120.0
    """Maximum time per request, with all attempts and waits. Time in the queue counts only while no server responds."""
    backoff_s: float = 0.5
    """Maximum wait after the first failed attempt; it doubles with each further attempt."""
    backoff_cap_s: float = 20.0
    """Maximum wait between attempts."""
    max_body_bytes: int = 8 * 2**20
    """Maximum size of a response, in bytes."""
    breaker_failures: int = 5
    """Consecutive failures after which a replica is no longer called."""
    breaker_cooldown_s: float = 5.0
    """Time until a single request tries that replica again."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is out of range.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                check_whole_number(field.name, value)
            elif field.name == "backoff_s":
                check_number(field.name, value, least=0)
            else:
                check_number(field.name, value, above=0, most=math.inf)

    @classmethod
    def from_mapping(cls, given: Options | None) -> HttpOptions:
        """Build the options from a mapping such as `{"concurrency": 256}`; None gives the defaults.

        Raises:
            ConfigError: it is not a mapping, a name is unknown, or a value is out of range.
        """
        if given is None:
            return cls()
        return make_options(cls, "option of http", **check_options("http", given, '{"concurrency": 256}'))


def check_url(url: str) -> str:
    """Check an address and return it without trailing slashes.

    Raises:
        ConfigError: it is not an http(s) address.
    """
    text = url.strip() if isinstance(url, str) else ""
    try:
        parsed = urlsplit(text)
        usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except ValueError:  # a port that is not a number, or unclosed brackets
        usable = False
    if not usable:
        raise ConfigError(f"expected an address such as http://127.0.0.1:8000/v1, got {url!r}")
    return text.rstrip("/")
