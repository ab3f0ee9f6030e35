"""Limits of the HTTP client, and the check of its addresses."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from urllib.parse import urlsplit

from ...checks import check_number, check_options, check_whole_number, make_options
from ...errors import ConfigError
from ...types import Options

_CUT_OFF = re.compile(r"(:/{1,2}[^/:]*:)[^/\d][^/]*")
"""What is not a port may be the first half of a password with a comma, which separates addresses."""


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


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(url: str, key: str = "an environment variable") -> str:
    """Check an address and return it without trailing slashes.

    Addresses appear in messages, caches and saved configurations, so they must not hold a secret.

    Args:
        url: the address.
        key: where a key belongs instead, for the error message.

    Raises:
        ConfigError: it is not an http(s) address, or it has a user name, a password, a query or a fragment. The message
            does not show these.
    """
    text = url.strip() if isinstance(url, str) else ""
    try:
        parsed = urlsplit(text)
        usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except ValueError:  # a port that is not a number, or unclosed brackets
        usable = False
    if "@" in text or "?" in text or "#" in text:
        raise ConfigError(f"an address must not hold a password, '?' or '#': put the key into {key}")
    if not usable:
        shown = _CUT_OFF.sub(r"\1***", str(url))
        raise ConfigError(f"expected an address such as http://127.0.0.1:8000/v1, got {shown!r}")
    return text.rstrip("/")
