"""The connections of a `JsonClient` in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ..errors import require
from .options import HttpOptions
from .replicas import Breaker, Replica, ReplicaSet

_CONNECTIONS = 8

Cleanup = Callable[[], Awaitable[object]]


@dataclass
class Session:
    """What belongs to one event loop.

    The library's pool looks through all of its connections several times a request, so the connections are spread over
    clients of a few each; the slot that was given back last is taken first, for its connection is open.
    """

    loop: asyncio.AbstractEventLoop
    httpx: ModuleType
    make: Callable[[], Any]
    slots: asyncio.Semaphore
    free: list[int]
    replicas: ReplicaSet
    clients: dict[int, Any] = field(default_factory=dict)

    def client(self, slot: int) -> Any:
        """The HTTP client that serves a slot."""
        group = slot // _CONNECTIONS
        if group not in self.clients:
            self.clients[group] = self.make()
        return self.clients[group]

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(http.aclose() for http in self.clients.values()))


def open_session(
    urls: Sequence[str],
    options: HttpOptions,
    headers: Mapping[str, str],
    on_connect: Callable[[Cleanup], object] | None,
) -> Session:
    """A session for the running event loop; connections are opened when they are needed.

    Args:
        urls: addresses of the replicas.
        options: the bounds.
        headers: sent with every request.
        on_connect: told how to close each group of connections.
    """
    httpx = _httpx()
    context = _ssl_context(httpx, urls)

    def make() -> Any:
        http = _new_http(httpx, options, headers, context)
        if on_connect is not None:
            on_connect(http.aclose)
        return http

    breakers = [Breaker(options.breaker_failures, options.breaker_cooldown_s) for _ in urls]
    return Session(
        loop=asyncio.get_running_loop(),
        httpx=httpx,
        make=make,
        slots=asyncio.Semaphore(options.concurrency),
        free=list(range(options.concurrency))[::-1],
        replicas=ReplicaSet([Replica(url, breaker) for url, breaker in zip(urls, breakers, strict=True)]),
    )


def _httpx() -> ModuleType:
    """httpx2, or httpx, whose API it keeps, where only that one is installed."""
    if find_spec("httpx2") is None and find_spec("httpx") is not None:
        return require("httpx", "openai")
    return require("httpx2", "openai")


def _ssl_context(httpx: ModuleType, urls: Sequence[str]) -> Any:
    """Certificates for all clients of a session; reading them takes a while, so only where they are needed."""
    return httpx.create_ssl_context() if any(url.startswith("https:") for url in urls) else False


def _new_http(httpx: ModuleType, options: HttpOptions, headers: Mapping[str, str], context: Any) -> Any:
    # Proxies of the environment are for the way out, never for this machine.
    direct = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
    return httpx.AsyncClient(
        # Compressed answers are not asked for: their size is known only after unpacking.
        headers={"Accept": "application/json", "Accept-Encoding": "identity", **headers},
        timeout=httpx.Timeout(options.read_s, connect=options.connect_s),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=2 * _CONNECTIONS, keepalive_expiry=30),
        mounts=direct,
        verify=context,
    )
