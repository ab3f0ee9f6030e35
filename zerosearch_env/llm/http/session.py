"""The connections of a `JsonClient` in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ...errors import require
from .loop import LoopThread
from .options import HttpOptions, is_loopback
from .replicas import Replica, ReplicaSet

_KEEPALIVE_S = 30.0


class Session:
    """The state that belongs to one event loop, the running one; connections are opened when needed.

    Args:
        urls: addresses of the replicas.
        options: the limits.
        headers: sent with every request.
        loop: closes the connections when it ends.
        extra: the extra that installs aiohttp.
    """

    def __init__(
        self,
        urls: Sequence[str],
        options: HttpOptions,
        headers: Mapping[str, str],
        loop: LoopThread | None,
        extra: str,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.aiohttp = require("aiohttp", extra)
        self.slots = asyncio.Semaphore(options.concurrency)
        self.replicas = ReplicaSet([Replica(url, options.breaker_failures, options.breaker_cooldown_s) for url in urls])
        self.progress = 0.0
        """When a server last answered, or a rate limit last let a request pass (`time.monotonic`)."""
        self.failure: Exception | None = None
        """The latest failed attempt, reported by requests that time out in the queue."""
        self._options, self._headers, self._loop_thread = options, headers, loop
        self._clients: dict[bool, Any] = {}

    # Any: aiohttp is not imported before the first request
    def client(self, url: str) -> Any:
        """Return the HTTP client for an address. Proxies from the environment are not used for this machine."""
        outside = not is_loopback(urlsplit(url).hostname or "")
        if outside not in self._clients:
            self._clients[outside] = self._open(outside)
        return self._clients[outside]

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(http.close() for http in self._clients.values()))

    def _open(self, outside: bool) -> Any:
        aiohttp, options = self.aiohttp, self._options
        http = aiohttp.ClientSession(
            # No compressed responses: their size is known only after unpacking.
            headers={"Accept-Encoding": "identity", **self._headers},
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect_s, sock_read=options.read_s),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=outside,
        )
        if self._loop_thread is not None:
            self._loop_thread.on_close(http.close)
        return http
