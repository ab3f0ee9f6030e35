"""The messages of failed search tools."""

from __future__ import annotations

from collections.abc import Sequence

from ...game.answers import contains_answer
from ...randomness import mix

MESSAGES = (
    "Error: the search request timed out after 30 seconds. Please try again later.",
    "HTTP 403 Forbidden: access to this resource is denied.",
    "HTTP 429 Too Many Requests: rate limit exceeded. Retry after 20 seconds.",
    "HTTP 503 Service Unavailable: the server is temporarily unable to handle the request.",
    "HTTP 502 Bad Gateway: invalid response from upstream server.",
    "HTTP 504 Gateway Timeout: the upstream server failed to respond in time.",
    "HTTP 500 Internal Server Error: an unexpected error occurred while processing the query.",
    '{"error": {"code": 429, "message": "Quota exceeded for quota metric \'Queries\' of service \'search\'.", '
    '"status": "RESOURCE_EXHAUSTED"}}',
    '{"status": "error", "code": "backend_unavailable", "detail": "Search backend is not reachable.", "results": null}',
    "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='search-api', port=443): Read timed out. "
    "(read timeout=10)",
    "ConnectionError: [Errno 111] Connection refused",
    "Search failed: connection reset by peer. The tool returned an empty response.",
    "ToolError: web_search is currently unavailable (circuit breaker open). Try again in a few moments.",
    "SSLError: certificate verify failed: unable to get local issuer certificate",
)
"""Messages of tools, libraries and servers."""

PAGE_MESSAGES = (
    "Failed to load this page: 403 Forbidden.",
    "Failed to load this page: the request timed out.",
    "Failed to load this page: 404 Not Found.",
    "Failed to load this page: 503 Service Unavailable.",
    "Failed to load this page: the connection was reset.",
    "Access denied. Please enable JavaScript and cookies to continue.",
    "Checking your browser before accessing the site. This process is automatic.",
    "Attention required! Verify that you are human by completing the action below.",
)
"""What is shown instead of a page that could not be loaded."""


def failure_message(messages: Sequence[str], golds: Sequence[str], seed: int) -> str:
    """One of the messages, by seed, that states no gold answer."""
    start = mix(seed, 40) % len(messages)
    for message in (*messages[start:], *messages[:start]):
        if not contains_answer(message, golds):
            return message
    return "..."
