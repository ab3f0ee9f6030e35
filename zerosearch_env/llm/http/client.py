"""`JsonClient`: JSON over HTTP for engines on a network, with bounded retries, failover and typed errors.

A request goes to one of several replicas. Connection errors, time-outs, 408, 409, 425, 429 and 5xx are retried:
immediately on another replica if there is one, else after a random wait (full jitter) or the server's `Retry-After`.
Everything is bounded: concurrent requests, attempts, seconds, response bytes. A final failure is an `EngineError` that
gives the number of attempts and has the last cause as its `__cause__`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError, EngineError
from ...privacy import hide, hide_all
from ...randomness import mix
from ...types import Json
from .codecs import JSON, Codec
from .keys import Key
from .loop import LoopThread
from .options import HttpOptions, check_url
from .replicas import Replica
from .retries import backoff, is_retryable_status, parse_retry_after
from .session import Session

_EXCERPT = 200
_SHORTEST = 6

queued_since: ContextVar[float | None] = ContextVar("queued_since", default=None)
"""Start time (`time.monotonic`) of the caller of many requests. Deadlines count from it, even for requests that the
caller holds back until there is room. None: each request counts from its own start."""


@dataclass(frozen=True, slots=True)
class JsonReply:
    """A parsed response."""

    data: Json
    attempts: int
    url: str
    """Address of the replica that responded."""


class _RetryableError(Exception):
    """An attempt failed; another one may succeed."""

    def __init__(self, message: str, *, healthy: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.healthy = healthy
        """Whether the server works and is only busy."""
        self.retry_after_s = retry_after_s


class StatusError(Exception):
    """A server rejected a request permanently; the cause of the resulting `EngineError`."""

    def __init__(self, message: str, status: int, hopeless: bool = False) -> None:
        super().__init__(message, status, hopeless)
        self.status = status
        """HTTP status."""
        self.hopeless = hopeless
        """Whether the request's `hopeless` function said that no later attempt can succeed."""

    def __str__(self) -> str:
        return str(self.args[0])


class JsonClient:
    """Sends JSON to replicas of a service. Use it from one event loop at a time.

    Args:
        urls: base addresses of the replicas; a request's path is appended to them.
        options: the limits.
        headers: sent with every request; never shown in messages.
        seed: seed of the jitter; None takes one from the system.
        hidden: secrets besides those in `headers`. A server may repeat a key: it is masked in messages, and in the data
            if it has at least 6 characters (a shorter one stands for "no key" and may be an ordinary word).
        codec: encoding of the bodies.
        gate: awaited just before each attempt is sent, retries included. It may wait (for a rate limit; that time
            does not count against `total_s`), or raise an EngineError, which ends the request.
        loop: the event loop that the client is used in; it closes the connections when it ends.
        extra: the extra that installs aiohttp for the client's user, named in the error if it is missing.

    Raises:
        ConfigError: there is no address, or one is not an http(s) address.
    """

    def __init__(
        self,
        urls: Sequence[str],
        options: HttpOptions | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        seed: int | None = None,
        hidden: Sequence[str] = (),
        codec: Codec = JSON,
        gate: Callable[[], Awaitable[object]] | None = None,
        loop: LoopThread | None = None,
        extra: str = "openai",
    ) -> None:
        self.urls = tuple(check_url(url) for url in urls)
        if not self.urls:
            raise ConfigError("a network engine needs at least one address, such as http://127.0.0.1:8000/v1")
        self.options = HttpOptions() if options is None else options
        # Of "Bearer KEY" only the last word is a secret.
        known = (*hidden, *(value.split(" ")[-1] for value in (headers or {}).values()))
        self.hidden = tuple(Key(secret) for secret in known if secret)
        self.codec = codec
        self.gate = gate
        self._headers = {name: Key(value) for name, value in (headers or {}).items()}
        self._seed = secrets.randbits(64) if seed is None else seed
        self._requests = 0
        self._session: Session | None = None
        self._loop = loop
        self._extra = extra

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        params: Mapping[str, str] | None = None,
        final: Collection[int] = (),
        hopeless: Callable[[int, bytes], bool] | None = None,
        prefer: str = "",
    ) -> JsonReply:
        """Send one request and parse the response body.

        Args:
            method: `"GET"` or `"POST"`.
            path: appended to a replica's address, for example `"/chat/completions"`.
            body: the request body, encoded by the codec; None sends no body.
            params: query-string parameters; never shown in messages, because they may contain keys.
            final: retryable statuses that are not retried for this request.
            hopeless: function (status, body) -> whether no later attempt can succeed, for errors that the status alone
                does not decide: an exhausted quota returns 429, like a rate limit.
            prefer: address of the replica to try first, for example because it has cached the prompt's prefix; the
                others are used if it fails. Empty: round robin.

        Raises:
            EngineError: no attempt succeeded; the message gives the last cause.
        """
        session = self._session
        if session is None or session.loop is not asyncio.get_running_loop():
            headers = {"Accept": self.codec.content_type, **self._headers}
            session = self._session = Session(self.urls, self.options, headers, self._loop, self._extra)
        self._requests += 1
        seed = mix(self._seed, self._requests)
        content = None if body is None else self.codec.encode(body)
        since = queued_since.get() or time.monotonic()
        call = _Call(self, session, method, path, content, params, final, hopeless, prefer, seed, since)
        async with session.slots:
            return await call.run()

    async def aclose(self) -> None:
        """Close the connections. Await it in the loop that used them."""
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()


@dataclass(repr=False)  # its fields may contain keys
class _Call:
    """One request and all its attempts."""

    client: JsonClient
    session: Session
    method: str
    path: str
    content: bytes | None
    params: Mapping[str, str] | None
    final: Collection[int]
    hopeless: Callable[[int, bytes], bool] | None
    prefer: str
    seed: int
    queued_since: float
    """When the request was made, before any time in the queue."""

    async def run(self) -> JsonReply:
        options, replicas = self.client.options, self.session.replicas
        # Queueing counts against the deadline only while no server responds. Otherwise, with a dead server, each batch
        # of queued requests would run through its own full deadline before failing.
        deadline = max(self.queued_since, self.session.progress) + options.total_s
        last: Exception | None = None
        tried: set[str] = set()
        attempt = 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or attempt == options.attempts:
                last = last or self.session.failure
                raise self._give_up(attempt, last) from last
            replica = replicas.pick(avoid=tried, prefer=self.prefer)
            if replica is None:
                await replicas.wait(left)
                continue
            deadline += await self._pass_gate(attempt)
            attempt += 1
            try:
                return JsonReply(await self._attempt(replica, left), attempt, replica.url)
            except _RetryableError as failure:
                last, tried = failure, tried | {replica.url}
                self.session.failure = failure
            except (StatusError, ValueError) as refusal:
                raise EngineError(str(refusal), attempts=attempt) from refusal
            if attempt == options.attempts:
                continue
            pause = self._pause(attempt, last, tried)
            if time.monotonic() + pause >= deadline:
                raise self._give_up(attempt, last, pause) from last
            if pause:
                tried = set()
                await asyncio.sleep(pause)

    async def _pass_gate(self, attempts: int) -> float:
        """Wait for the gate; return the seconds it took. A replica is already chosen, so a pass is a real attempt."""
        if self.client.gate is None:
            return 0.0
        began = time.monotonic()
        try:
            await self.client.gate()
        except EngineError as stop:
            stop.attempts = attempts
            raise
        self.session.progress = time.monotonic()
        return self.session.progress - began

    def _pause(self, attempt: int, failure: _RetryableError, tried: set[str]) -> float:
        """Return seconds until the next attempt; 0 while some replica has not been tried in this round."""
        others = [r for r in self.session.replicas.replicas if r.url not in tried and r.admits()]
        if others:
            return 0.0
        wait = backoff(self.client.options.backoff_s, self.client.options.backoff_cap_s, attempt, seed=self.seed)
        if failure.retry_after_s is None:
            return wait
        # Never earlier than `Retry-After`, plus a random delay: other clients were given the same time.
        return failure.retry_after_s + min(wait, 0.1 * failure.retry_after_s + 0.05)

    def _give_up(self, attempts: int, last: Exception | None, pause: float = 0.0) -> EngineError:
        urls, options = ", ".join(self.client.urls), self.client.options
        cause = "no replica was available" if last is None else str(last)
        why = f"; the next attempt would have to wait {pause:.1f} s" if pause else ""
        return EngineError(
            f"{self.method} {self.path} failed after {attempts} attempts (limits: {options.attempts} attempts, "
            f"{options.total_s:g} s; servers: {urls}){why}. Last cause: {cause}",
            attempts=attempts,
        )

    async def _attempt(self, replica: Replica, left: float) -> Any:
        """Make one attempt and update the breaker; raises `_RetryableError`, or an error that is permanent."""
        try:
            async with asyncio.timeout(left):
                data = await self._send(replica)
        except _RetryableError as failure:
            if failure.healthy:
                self._answered(replica)
            else:
                replica.fail()
            raise
        except TimeoutError as cause:
            replica.fail()
            limit = self.client.options.total_s
            raise _RetryableError(f"{replica.url}: no complete response within {limit:g} s") from cause
        except (StatusError, ValueError):
            self._answered(replica)
            raise
        else:
            self._answered(replica)
            return data
        finally:
            self.session.replicas.notify()

    def _answered(self, replica: Replica) -> None:
        replica.succeed()
        self.session.progress = time.monotonic()

    async def _send(self, replica: Replica) -> Any:
        aiohttp, url = self.session.aiohttp, replica.url + self.path
        http = self.session.client(replica.url)
        try:
            async with http.request(
                self.method,
                url,
                data=self.content,
                params=self.params,
                headers=None if self.content is None else {"Content-Type": self.client.codec.content_type},
                allow_redirects=False,
            ) as response:
                status, retry_after = response.status, response.headers.get("Retry-After")
                body = await self._read(response, url)
        except aiohttp.ServerTimeoutError as cause:
            raise _RetryableError(f"{url}: time-out ({type(cause).__name__})") from cause
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as cause:
            raise _RetryableError(self._described(url, cause)) from self._shown(cause)
        except aiohttp.ClientError as cause:
            raise ValueError(self._described(url, cause)) from self._shown(cause)
        if 200 <= status < 300:
            return self._parse(body, url)
        message = f"{url} answered {status}: {self._excerpt(body)}"
        hopeless = self.hopeless is not None and self.hopeless(status, body)
        if is_retryable_status(status) and not hopeless and status not in self.final:
            raise _RetryableError(message, healthy=status < 500, retry_after_s=parse_retry_after(retry_after))
        raise StatusError(message + _advice(status), status, hopeless)

    def _described(self, url: str, cause: Exception) -> str:
        return f"{url}: {type(cause).__name__}: {hide(str(cause), self.client.hidden)}"

    def _shown(self, cause: Exception) -> Exception | None:
        """Return the cause to show in a traceback; None if there are keys, which the cause may quote."""
        return None if self.client.hidden else cause

    async def _read(self, response: Any, url: str) -> bytes:
        """Read the body, up to the size limit."""
        limit, parts, size = self.client.options.max_body_bytes, [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > limit:
                response.close()
                raise ValueError(
                    f"{url} answered with more than {limit:,} bytes, which were not read; raise max_body_bytes if that "
                    "is expected"
                )
            parts.append(part)
        return b"".join(parts)

    def _parse(self, body: bytes, url: str) -> Any:
        try:
            secrets = [secret for secret in self.client.hidden if len(secret) >= _SHORTEST]
            return hide_all(self.client.codec.decode(body), secrets)
        except (ValueError, RecursionError) as cause:
            excerpt, why = self._excerpt(body), hide(str(cause), self.client.hidden)
            message = f"{url} answered with something that is not {self.client.codec.name} ({why}): {excerpt}"
            raise ValueError(message) from self._shown(cause)

    def _excerpt(self, body: bytes) -> str:
        # Mask keys before truncating, which could leave half of one.
        text = " ".join(hide(body[: 64 * _EXCERPT].decode("utf-8", "replace"), self.client.hidden).split())
        return (text[:_EXCERPT] + ("..." if len(text) > _EXCERPT else "")) or "(nothing)"


def _advice(status: int) -> str:
    if status in (401, 403):
        return " Is the key right? It comes from `api_key`, or from the engine's environment variable."
    if status == 404:
        return " Are the address (it usually ends in /v1) and the model's name right?"
    if 300 <= status < 400:
        return " Redirects are not followed: give the final address."
    return ""
