"""Connections: a limit on their number, limits on request heads, and a shutdown that resets no request.

Connections are accepted here and not by asyncio, which accepts as many as there are file handles. When the limit is
reached, a new connection takes the place of the one that has waited longest for a request:

    no head for 0.25 s, oldest first  ->  idle after a response, longest first  ->  none: wait for one of them

A stopping server first accepts every connection that the system has already completed, whose clients may have sent
their requests, and then waits a moment for the heads of requests that are on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .app import Limits

_log = logging.getLogger(__name__)

_SPARE_HANDLES = 64
"""File handles left for everything except connections."""
_FRESH_S = 0.25
"""How long a new connection keeps its place while its request is on its way, in seconds."""
_LINGER_S = 1.0
"""How long a stopping server keeps a connection open that waits for a request, in seconds."""
_MAX_HEAD_BYTES = 64 * 1024
"""A request head that goes on after so many bytes is refused: uvicorn's parser would keep all of it in memory."""
_LOG_PERIOD_S = 10.0
_LOGGERS = (__name__, "uvicorn.error", "asyncio")


class WholeResponses:
    """A transport that sends a response in one piece.

    uvicorn writes head and body separately, and each part that is sent wakes up the client.

    Args:
        transport: the transport.
        answering: whether a response is being written; its parts are kept until `flush` or `close`.
    """

    def __init__(self, transport: asyncio.Transport, answering: Callable[[], bool]) -> None:
        self._transport, self._answering = transport, answering
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, or keep it if it is a part of a response."""
        self._parts.append(data)
        if not self._answering():
            self.flush()

    def flush(self) -> None:
        """Send what was kept."""
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def close(self) -> None:
        """Send what was kept, and close the connection."""
        self.flush()
        self._transport.close()


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """A connection of uvicorn that must complete its request heads in time."""

    # Any: uvicorn passes its own objects
    def __init__(self, *args: Any, head_timeout_s: float, on_change: Callable[[], object], **more: Any) -> None:
        super().__init__(*args, **more)
        self._head_timeout_s, self._on_change = head_timeout_s, on_change
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._stopping = False
        self.served = False
        """Whether it has received a complete request head."""
        self.waiting_since: float | None = None
        """When it began to wait for a request head (`time.monotonic`); None while a request is answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit of the first head."""
        super().connection_made(WholeResponses(cast("asyncio.Transport", transport), self._responding))
        self.waiting_since = time.monotonic()
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; a complete head ends the time limit, the first byte of the next one starts it."""
        cycle = self.cycle  # one object per request
        in_body = self._answering() and cycle.more_body
        super().data_received(data)
        if self.cycle is not cycle:
            self._head_bytes = 0
        elif not in_body:
            self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse("431 Request Header Fields Too Large", "%d bytes", _MAX_HEAD_BYTES)
        elif not self._answering():
            self._start_timer()
        else:
            self.served, self.waiting_since = True, None
            self._stop_timer()
            if self._stopping:
                self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """Send the response, and wait for the next request."""
        self.transport.flush()
        super().on_response_complete()
        if not self._answering():
            self.waiting_since = time.monotonic()
            self._on_change()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another connection."""
        super().connection_lost(exc)
        self._stop_timer()
        self._on_change()

    def shutdown(self) -> None:
        """Close the connection after the response under way, or if no request arrives within a moment."""
        self._stopping = True
        if self._answering():
            super().shutdown()
        else:
            self.loop.call_later(_LINGER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._answering() and not self.transport.is_closing():
            super().shutdown()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _responding(self) -> bool:
        return self._answering() and self.cycle.response_started

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._head_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse("408 Request Timeout", "%g s", self._head_timeout_s)

    def _refuse(self, status: str, unit: str, limit: float) -> None:
        if self._head_bytes and not self._answering():
            self.transport.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        _log.warning(f"closed a connection without a complete request head in {unit}", limit)
        self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn server that accepts connections itself.

    Args:
        config: options of uvicorn.
        limits: number of connections, and the time limit of request heads.
    """

    def __init__(self, config: uvicorn.Config, limits: Limits) -> None:
        super().__init__(config)
        self._limits = limits
        self._max_connections = min(limits.max_connections, max(8, _handles() - _SPARE_HANDLES))
        self._acceptors: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()  # a connection to accept, or the end
        self._room = asyncio.Event()  # a connection has closed, or waits for a request
        self._stopped = False
        self._filters = [(logging.getLogger(name), RateLimit(_LOG_PERIOD_S)) for name in _LOGGERS]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections on all sockets."""
        for logger, rate in self._filters:
            logger.addFilter(rate)
        await super().startup(sockets=[])
        for listener in sockets or ():
            listener.setblocking(False)
            self._acceptors.append(asyncio.create_task(self._accept(listener)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that are complete, answer all requests, and stop."""
        began, grace_s = time.monotonic(), float(self.config.timeout_graceful_shutdown or 0)
        self._stopped = True
        self._changed.set()
        if self._acceptors:
            _, late = await asyncio.wait(self._acceptors, timeout=grace_s)
            for acceptor in late:
                acceptor.cancel()
        # uvicorn declares an int and passes it on to asyncio, which takes a float.
        self.config.timeout_graceful_shutdown = max(0.0, grace_s - (time.monotonic() - began))  # type: ignore[assignment]
        await super().shutdown(sockets=sockets)
        for logger, rate in self._filters:
            logger.removeFilter(rate)

    async def _accept(self, listener: socket.socket) -> None:
        """Accept connections; once the server stops, only those that wait already."""
        loop = asyncio.get_running_loop()
        while True:
            await self._make_room()
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                if self._stopped:
                    return
                await self._readable(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # out of file handles or memory
                _log.warning("cannot accept a connection: %s", error)
                self._evict()
                await asyncio.sleep(0.1)
            else:
                accepted.setblocking(False)
                try:
                    await loop.connect_accepted_socket(self._connection, accepted)
                except OSError:  # the client has left
                    accepted.close()

    async def _readable(self, listener: socket.socket) -> None:
        """Wait until there is a connection to accept, or the server stops."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(listener, self._changed.set)
        except NotImplementedError:  # Windows
            await asyncio.sleep(0.02)
            return
        try:
            self._changed.clear()
            await self._changed.wait()
        finally:
            loop.remove_reader(listener)

    async def _make_room(self) -> None:
        while len(self.server_state.connections) >= self._max_connections:
            self._evict()
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FRESH_S):
                    await self._room.wait()

    def _evict(self) -> None:
        """Close the connection that has waited longest for a request, if any; first those that never sent one."""
        now = time.monotonic()
        waiting = [
            (connection.served, connection.waiting_since, connection)
            for connection in self.server_state.connections
            if isinstance(connection, Connection)
            and connection.waiting_since is not None
            and (connection.served or now - connection.waiting_since > _FRESH_S)
            and not connection.transport.is_closing()
        ]
        if waiting:
            served, _, connection = min(waiting, key=lambda entry: entry[:2])
            if not served:
                _log.warning("closed the oldest connection without a request: %d are open", self._max_connections)
            connection.transport.close()

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = Connection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            head_timeout_s=self._limits.head_timeout_s,
            on_change=self._room.set,
        )
        return made


class RateLimit(logging.Filter):
    """Lets one record of each message through per period; the next one says how many there were.

    Args:
        period_s: the period, in seconds.
        clock: the time, in seconds.
    """

    def __init__(self, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._period_s, self._clock = period_s, clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is let through."""
        message, now = str(record.msg)[:200], self._clock()
        since, held_back = self._seen.get(message, (-self._period_s, 0))
        if now - since < self._period_s:
            self._seen[message] = since, held_back + 1
            return False
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[message] = now, 0
        if held_back:
            record.msg, record.args = f"{record.getMessage()} ({held_back} more since the last line)", ()
        return True


def _handles() -> int:
    """Number of files that this process may open."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such module on Windows
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return soft if soft != resource.RLIM_INFINITY else 2**20
    return 512
