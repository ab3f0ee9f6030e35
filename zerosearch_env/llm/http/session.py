"""The connections of a `JsonClient` in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ...errors import require
from .options import LOOPBACK, HttpOptions
from .replicas import Replica, ReplicaSet

Cleanup = Callable[[], Awaitable[object]]

_KEEPALIVE_S = 30.0


@dataclass(eq=False)
class Session:
    """The state that belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    aiohttp: ModuleType
    make: Callable[[bool], Any]
    slots: asyncio.Semaphore
    replicas: ReplicaSet
    clients: dict[bool, Any] = field(default_factory=dict)
    progress: float = 0.0
    """When a server last answered, or a rate limit last let a request pass (`time.monotonic`)."""
    failure: Exception | None = None
    """The latest failed attempt, reported by requests that time out in the queue."""

    def client(self, url: str) -> Any:
        """Return the HTTP client for an address. Proxies from the environment are not used for this machine."""
        outside = urlsplit(url).hostname not in LOOPBACK
        if outside not in self.clients:
            self.clients[outside] = self.make(outside)
        return self.clients[outside]

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(http.close() for http in self.clients.values()))


def open_session(
    urls: Sequence[str],
    options: HttpOptions,
    headers: Mapping[str, str],
    on_connect: Callable[[Cleanup], object] | None,
) -> Session:
    """Create a session for the running event loop; connections are opened when needed.

    Args:
        urls: addresses of the replicas.
        options: the limits.
        headers: sent with every request.
        on_connect: called with a function that closes the connections.
    """
    aiohttp = require("aiohttp", "openai")

    def make(outside: bool) -> Any:
        http = aiohttp.ClientSession(
            # No compressed responses: their size is known only after unpacking.
            headers={"Accept-Encoding": "identity", **headers},
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect_s, sock_read=options.read_s),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=outside,
        )
        if on_connect is not None:
            on_connect(http.close)
        return http

    return Session(
        loop=asyncio.get_running_loop(),
        aiohttp=aiohttp,
        make=make,
        slots=asyncio.Semaphore(options.concurrency),
        replicas=ReplicaSet([Replica(url, options.breaker_failures, options.breaker_cooldown_s) for url in urls]),
    )
