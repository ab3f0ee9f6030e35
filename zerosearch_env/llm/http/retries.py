"""When to retry and how long to wait: pure functions of the server's response and a seed."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ...randomness import uniform

RETRYABLE_STATUS = frozenset({408, 409, 425, 429})


def is_retryable_status(status: int) -> bool:
    """Whether the same request may succeed later: 408, 409, 425, 429 and every 5xx."""
    return status in RETRYABLE_STATUS or 500 <= status <= 599


def backoff(base_s: float, cap_s: float, attempt: int, *, seed: int) -> float:
    """Return the seconds to wait after a failed attempt: full jitter, uniform in [0, min(cap, base * 2^(attempt - 1))).

    Brooker, "Exponential backoff and jitter", 2015.

    Args:
        base_s: maximum wait after the first attempt, in seconds.
        cap_s: maximum wait after any attempt, in seconds.
        attempt: number of the failed attempt, 1-based.
        seed: different for each request, so that clients do not all retry at the same time.
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 60))
    return ceiling * uniform(seed, attempt)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110: a number of seconds, or a date); None if unreadable.

    Args:
        value: the header, or None if absent.
        now: the time to count from; None uses the current time.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - (datetime.now(UTC) if now is None else now)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
