"""The ASGI application: routes, limits, the token, and errors as JSON with a status that names the cause.

400 and most other 4xx: the request; 401: the token; 502: the engine; 503 and 504: overload. A failed search is never
sent as an empty result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..errors import ConfigError, EngineError, ZeroSearchError, require
from ..llm.http.codecs import JSON, Codec
from ..privacy import redact
from ..retrieve_api.bodies import parse
from ..retrieve_api.codec import RequestError, codec_of, decode, shown
from ..retrieve_api.dialects import PATHS, Dialect, choose_dialect, get_dialect, render
from ..types import Document, SearchRequest
from .access import is_local, is_token
from .metrics import Metrics
from .questions import HEADER
from .search_queue import SearchQueue
from .searches import RequestDefaults, guarded_documents

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger(__name__)

CUT_OFF = "cut_off"
"""Error kind of a request that did not finish within the grace period of a stopping server."""

_RECENT_S = 60.0
"""`/health` reports a failed engine call for this long, in seconds. A load balancer that sends nothing meanwhile then
tries again."""

_DRAINED = 4
"""A body that is too large is read and discarded up to this multiple of the limit: a client that is still sending gets
the response, and no client can send forever."""


@dataclass(frozen=True)
class Limits:
    """Limits per request."""

    max_body_bytes: int = 8 * 1024 * 1024
    """Maximum size of a body, in bytes."""
    max_connections: int = 4096
    """Maximum number of open connections; fewer if the process may open fewer files."""
    head_timeout_s: float = 10.0
    """Maximum time for a request's head to arrive, in seconds."""
    body_timeout_s: float = 30.0
    """Maximum time for a body to arrive, in seconds."""
    request_timeout_s: float = 300.0
    """Maximum time a request may wait for its results, in seconds."""
    close_timeout_s: float = 5.0
    """Maximum time for the engine to close, in seconds."""


@dataclass(frozen=True)
class Service:
    """Everything the application needs to answer requests."""

    queue: SearchQueue
    defaults: RequestDefaults
    metrics: Metrics
    limits: Limits = Limits()
    engine: str = ""
    """The engine's name, for `/health`."""
    dialect: str | None = None
    """The dialect of `/retrieve`; None detects it from the request."""
    token: str | None = field(default=None, repr=False)
    local: bool = False
    """Whether it listens on a loopback address, so that requests must name this machine in their `Host`."""

    async def search(self, requests: list[SearchRequest]) -> list[tuple[Document, ...]]:
        """Return the documents of each request, in order.

        The message of a failed tool (noise of the kind `outage`) is the text of a document: no dialect has another
        place that a client would show to its policy.

        Raises:
            RequestError: there are too many searches (413, 503), or there was no result in time (504).
            ZeroSearchError: the engine failed, or rejected a request, or returned nothing but a gold answer.
        """
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                results = await self.queue.search(requests)
        except TimeoutError:
            seconds = self.limits.request_timeout_s
            raise RequestError(f"the search engine gave no result in {seconds:g} s", 504, "timeout") from None
        for request, result in zip(requests, results, strict=True):
            if result.failure is not None:
                raise EngineError(f"the search for {request.query[:80]!r} failed: {result.failure}", result.attempts)
        noisy = [request for request in requests if any(request.noise_mask)]
        self.metrics.noisy += len(noisy)
        self.metrics.unguarded += sum(not any(map(str.strip, request.forbidden)) for request in noisy)
        return [
            guarded_documents(request, result) if result.message is None else (Document("", result.message),)
            for request, result in zip(requests, results, strict=True)
        ]

    @property
    def stuck_s(self) -> float:
        """Seconds for which the engine has not returned, once that is longer than a request may wait; else 0."""
        return self.queue.stuck_s(self.limits.request_timeout_s)

    @property
    def problem(self) -> str | None:
        """Why searches fail at present; None if they do not."""
        if seconds := self.stuck_s:
            return f"the search engine has not returned for {seconds:.0f} s"
        return self.queue.failure(_RECENT_S)


def make_app(service: Service) -> ASGIApp:
    """Create the ASGI application.

    Args:
        service: engine, limits and metrics; the engine is closed when the application shuts down.

    Raises:
        MissingExtraError: starlette, prometheus_client or msgpack is not installed.
    """
    for library in ("starlette", "prometheus_client", "msgpack"):
        require(library, "serve")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.routing import Route

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        if problem := await service.queue.close(service.limits.close_timeout_s):
            _log.error("the engine did not close: %s", redact(problem))

    handlers = _Handlers(service)
    routes = []
    for prefix in ("", "/{dialect}"):
        routes += [Route(prefix + path, handlers.retrieve, methods=["POST"]) for path in PATHS]
        routes += [Route(f"{prefix}/health", handlers.health), Route(f"{prefix}/stats", handlers.stats)]
    routes.append(Route("/metrics", handlers.prometheus))
    others = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: handlers.not_found, RequestError: handlers.refused},
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Nearly all requests are searches without a dialect in the path. They need neither Starlette's routes nor its
        # handlers of exceptions, which cost more than reading the request.
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS:
            request = Request(scope, receive)
            response = await handlers.retrieve(request)
            await response(scope, receive, send)
        else:
            await others(scope, receive, send)

    return app


class _Handlers:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        from starlette.responses import Response

        self._service = service
        self._response = Response

    async def retrieve(self, request: Request) -> Response:
        """Answer a POST of a search, in any dialect."""
        metrics, began, named = self._service.metrics, time.perf_counter(), _Named()
        metrics.in_flight += 1
        try:
            response = await self._retrieve(request, named)
        except ZeroSearchError as error:
            response = self._failed(error, named.codec)
        except Exception as error:  # a bug: reported to the caller and logged with a traceback
            _log.error("a request failed:\n%s", redact(traceback.format_exc()))
            response = self._failed(error, named.codec)
        except asyncio.CancelledError:
            # A stopping server cancels pending requests; send the caller an error instead of dropping the connection.
            stopping = RequestError("the server is stopping and did not get a result in time", 503, CUT_OFF)
            response = self._failed(stopping, named.codec)
        finally:
            metrics.in_flight -= 1
        metrics.finish(named.dialect, response.status_code, time.perf_counter() - began)
        return response

    async def _retrieve(self, request: Request, named: _Named) -> Response:
        service = self._service
        self._authorize(request)
        forced = self._prefix(request)
        body = await self._body(request)
        codec = codec_of(request.headers.get("content-type"), body)
        fields = decode(body, codec)
        named.codec = codec
        path: str = request.scope["path"]
        path = path.removeprefix(f"/{forced.name}") if forced else path
        dialect = forced or choose_dialect(path, fields, codec, service.dialect)
        named.dialect = dialect.name
        parsed = parse(fields, single=False if path == "/batch_search" else None)
        question = request.headers.get(HEADER)
        searches = service.defaults.make(parsed, None if question is None else unquote(question))
        documents = await service.search(searches) if searches else []
        return self._encoded(render(dialect, parsed, documents), codec)

    async def health(self, request: Request) -> Response:
        """Answer GET: whether searches succeed; 503 while they fail. Needs no token."""
        self._check_host(request)
        service, problem = self._service, self._service.problem
        facts: dict[str, Any] = {"engine": service.engine, "dialect": service.dialect}
        if problem is None:
            return self._encoded({"status": "ok", **facts})
        return self._encoded(
            {"status": "stuck" if service.stuck_s else "failing", **facts, "error": problem}, status=503
        )

    async def stats(self, request: Request) -> Response:
        """Answer GET: the counters as JSON."""
        self._authorize(request)
        level = self._service.defaults.noise_level
        return self._encoded({**self._service.metrics.summary(), "noise_level": level, "engine": self._service.engine})

    async def prometheus(self, request: Request) -> Response:
        """Answer GET: the counters in the Prometheus text format."""
        self._authorize(request)
        from prometheus_client import CONTENT_TYPE_LATEST

        return self._response(self._service.metrics.prometheus(), media_type=CONTENT_TYPE_LATEST)

    async def refused(self, request: Request, error: Any) -> Response:
        """Answer a request that must not have the counters."""
        return self._failed(error)

    async def not_found(self, request: Request, error: Any) -> Response:
        """Answer a request with an unknown path or the wrong method."""
        message = (
            f"{request.method} {request.url.path}: {error.detail}. Expected POST to {', '.join(PATHS)}, or GET of "
            "/health, /stats, /metrics"
        )
        response = self._failed(RequestError(message, error.status_code, "not_found"))
        response.headers.update(error.headers or {})
        return response

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if self._service.local and not is_local(host):
            raise RequestError(
                f"this server listens on a loopback address and was called as {shown(host, 80)}; call it as localhost, "
                "or start it with another --host and a token",
                421,
                "wrong_host",
            )

    def _authorize(self, request: Request) -> None:
        self._check_host(request)
        token = self._service.token
        if token is not None and not is_token(request.headers.get("authorization", ""), token):
            raise RequestError("send a token in the header 'Authorization: Bearer TOKEN'", 401, "unauthorized")

    def _prefix(self, request: Request) -> Dialect | None:
        name = request.path_params.get("dialect")
        try:
            return None if name is None else get_dialect(name)
        except ConfigError as error:
            raise RequestError(str(error), 404, "not_found") from None

    async def _body(self, request: Request) -> bytes:
        from starlette.requests import ClientDisconnect

        bound = self._service.limits.max_body_bytes
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._service.limits.body_timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size <= bound:
                        parts.append(part)
                    elif size > _DRAINED * bound:
                        break
        except TimeoutError:
            seconds = self._service.limits.body_timeout_s
            raise RequestError(f"the body did not arrive in {seconds:g} s", 408, "slow_body") from None
        except ClientDisconnect:
            # No one reads this response; it is only counted.
            raise RequestError("the client left before its request was complete", 400, "disconnected") from None
        if size > bound:
            raise RequestError(f"a body may have at most {bound} bytes, got {size} or more", 413, "too_large")
        return b"".join(parts)

    def _encoded(self, value: Any, codec: Codec = JSON, status: int = 200) -> Response:
        return self._response(codec.encode(value), status, media_type=codec.content_type)

    def _failed(self, error: Exception, codec: Codec = JSON) -> Response:
        status, kind = _status_of(error)
        self._service.metrics.errors[kind] += 1
        response = self._encoded({"error": redact(str(error)) or type(error).__name__, "kind": kind}, codec, status)
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if status == 503:
            response.headers["Retry-After"] = "1"
        if status in (401, 404, 405, 408, 413, 421):
            # Do not wait for the rest of the body.
            response.headers["Connection"] = "close"
        return response


@dataclass
class _Named:
    """What is known about a request so far; decides how its failure is counted and encoded."""

    dialect: str = "unknown"
    codec: Codec = JSON


def _status_of(error: Exception) -> tuple[int, str]:
    """Return (HTTP status, error kind for the metrics)."""
    if isinstance(error, RequestError):
        return error.status, error.kind
    if isinstance(error, EngineError):
        return 502, "engine"
    if isinstance(error, ConfigError):
        return 400, "refused_by_engine"
    return 500, "internal"
