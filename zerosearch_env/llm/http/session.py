"""The connections of a `JsonClient` in one event loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ...errors import require
from .options import HttpOptions
from .replicas import Breaker, Replica, ReplicaSet

Cleanup = Callable[[], Awaitable[object]]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEEPALIVE_S = 30.0


@dataclass(eq=False)
class Session:
    """The state that belongs to one event loop of one process."""

    loop: asyncio.AbstractEventLoop
    aiohttp: ModuleType
    make: Callable[[bool], Any]
    slots: asyncio.Semaphore
    replicas: ReplicaSet
    clients: dict[bool, Any] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)
    progress: float = 0.0
    """When a server last answered, or a rate limit last let a request pass (`time.monotonic`)."""
    failure: Exception | None = None
    """The latest failed attempt, reported by requests that time out in the queue."""

    def client(self, url: str) -> Any:
        """Return the HTTP client for an address. Proxies from the environment are not used for this machine."""
        outside = urlsplit(url).hostname not in _LOOPBACK
        if outside not in self.clients:
            self.clients[outside] = self.make(outside)
        return self.clients[outside]

    def __post_init__(self) -> None:
        _sessions.add(self)

    def is_current(self) -> bool:
        """Whether the connections belong to this process and to the running loop."""
        return self.pid == os.getpid() and self.loop is asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Close all connections, unless they belong to a parent process."""
        if self.pid == os.getpid():
            await asyncio.gather(*(http.close() for http in self.clients.values()))


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """Prevent a forked process from finalizing the clients it inherited.

    A fork shares the event loop's list of sockets (epoll) with its parent. A client that is garbage-collected closes
    its sockets, which removes them from that list, and the parent would wait for responses forever. An object with
    one extra reference is never finalized.
    """
    for session in _sessions:
        for http in session.clients.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(http))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


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

    breakers = [Breaker(options.breaker_failures, options.breaker_cooldown_s) for _ in urls]
    return Session(
        loop=asyncio.get_running_loop(),
        aiohttp=aiohttp,
        make=make,
        slots=asyncio.Semaphore(options.concurrency),
        replicas=ReplicaSet([Replica(url, breaker) for url, breaker in zip(urls, breakers, strict=True)]),
    )
