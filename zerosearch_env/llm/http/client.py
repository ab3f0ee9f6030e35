"""`JsonClient`: JSON over HTTP for engines on a network, with bounded retries, failover and typed errors.

A request goes to one of several replicas. Connect errors, time-outs, 408, 409, 425, 429 and 5xx are tried again: at
once on another replica where there is one, else after a random wait (full jitter) or the server's `Retry-After`.
Everything is bounded: requests at once, attempts, seconds, bytes of an answer. What cannot be mended ends in an
`EngineError` that names the attempts and has the last cause as its `__cause__`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError, EngineError
from ...privacy import hide
from ...randomness import mix
from .codecs import JSON, Codec
from .options import HttpOptions, check_url
from .replicas import Breaker, Replica
from .retries import backoff, is_retryable_status, parse_retry_after
from .session import Cleanup, Session, open_session

_EXCERPT = 200

asked_at: ContextVar[float | None] = ContextVar("asked_at", default=None)
"""When whoever makes many requests began (`time.monotonic`): it may hold some back until there is a place for them, and
their time runs all the same. None: each request's own beginning."""


@dataclass(frozen=True, slots=True)
class JsonReply:
    """A parsed answer."""

    data: Any
    attempts: int
    url: str
    """The replica that answered."""


class _RetryableError(Exception):
    """An attempt failed, and another one may succeed."""

    def __init__(self, message: str, *, healthy: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.healthy = healthy
        """The server works, and is only busy."""
        self.retry_after_s = retry_after_s


class StatusError(Exception):
    """A server refused a request for good; the cause of the `EngineError` that reports it."""

    def __init__(self, message: str, status: int, hopeless: bool = False) -> None:
        super().__init__(message, status, hopeless)
        self.status = status
        """HTTP status."""
        self.hopeless = hopeless
        """Whether the request's `hopeless` said that no later attempt can succeed."""

    def __str__(self) -> str:
        return str(self.args[0])


class JsonClient:
    """Sends JSON to replicas of a service. To be used from one event loop at a time.

    Args:
        urls: base addresses of the replicas; a request's path is put behind them.
        options: the bounds.
        headers: sent with every request; they appear in no message.
        seed: of the jitter; drawn from the system when None.
        hidden: texts that are blanked out where a message quotes the server, which may repeat a key.
        codec: of the bodies.
        gate: awaited right before every attempt is sent, retries included, and never for one that is not sent; it may
            wait (for a rate limit: that time is not counted in `total_s`), or raise an EngineError that ends the
            request.

    Raises:
        ConfigError: no address, or one that is no http(s) address.
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
    ) -> None:
        self.urls = tuple(check_url(url) for url in urls)
        if not self.urls:
            raise ConfigError("a network engine needs at least one address, such as http://127.0.0.1:8000/v1")
        self.options = HttpOptions() if options is None else options
        self._headers = dict(headers or {})
        self._seed = secrets.randbits(64) if seed is None else seed
        self._hidden = tuple(hidden)
        self._codec = codec
        self._gate = gate
        self._requests = 0
        self._session: Session | None = None
        self.on_connect: Callable[[Cleanup], object] | None = None
        """Told how to close the connections whenever some have been opened, by something that does not hold `self`."""

    def __getstate__(self) -> dict[str, Any]:
        """Without connections. A copy jitters differently: its seed is mixed with a fresh one."""
        fresh = {"_session": None, "on_connect": None, "_requests": 0, "_seed": mix(self._seed, secrets.randbits(64))}
        return self.__dict__ | fresh

    def breaker_states(self) -> dict[str, str]:
        """`"closed"`, `"open"` or `"half-open"` by address; all closed before the first request."""
        if self._session is None:
            return dict.fromkeys(self.urls, "closed")
        return {replica.url: replica.breaker.state for replica in self._session.replicas.replicas}

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        final: Collection[int] = (),
        hopeless: Callable[[int, bytes], bool] | None = None,
        prefer: str = "",
    ) -> JsonReply:
        """Send one request and parse the answer's JSON.

        Args:
            method: `"GET"` or `"POST"`.
            path: put behind a replica's address, for example `"/chat/completions"`.
            body: sent as JSON; None sends none.
            params: of the query string; they appear in no message, since keys may be among them.
            headers: for this request only.
            final: statuses that are not tried again though they could be.
            hopeless: (status, body) of an error to whether no later attempt can succeed, where the status alone does
                not tell: a used-up quota comes as 429 like a rate limit.
            prefer: address of the replica to ask first, for example because it has the prompt's beginning in its
                cache; the others take over when it fails. Empty: they take turns.

        Raises:
            EngineError: no attempt succeeded; the message has the last cause.
        """
        session = self._in_this_loop()
        self._requests += 1
        seed = mix(self._seed, self._requests)
        content = None if body is None else self._codec.encode(body)
        sent = {**(headers or {}), **({"Content-Type": self._codec.content_type} if content is not None else {})}
        call = _Call(session, self.options, method, path, final, hopeless, seed, self._codec, self._gate)
        call.content, call.params, call.headers, call.hidden = content, dict(params or {}), sent, self._hidden
        call.asked, call.prefer = asked_at.get() or time.monotonic(), prefer
        async with session.slots:
            return await call.run()

    async def aclose(self) -> None:
        """Close the connections; to be awaited in the loop that used them."""
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    def _in_this_loop(self) -> Session:
        if self._session is None or not self._session.is_current():
            headers = {"Accept": self._codec.content_type, **self._headers}
            self._session = open_session(self.urls, self.options, headers, self.on_connect)
        return self._session


@dataclass
class _Call:
    """One request with all its attempts."""

    session: Session
    options: HttpOptions
    method: str
    path: str
    final: Collection[int]
    hopeless: Callable[[int, bytes], bool] | None
    seed: int
    codec: Codec
    gate: Callable[[], Awaitable[object]] | None
    # Keys may be among these.
    content: bytes | None = field(default=None, repr=False)
    params: dict[str, str] = field(default_factory=dict, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    hidden: Sequence[str] = field(default=(), repr=False)
    prefer: str = ""
    asked: float = 0.0
    """When the request was made; it may have waited for its turn since."""

    async def run(self) -> JsonReply:
        options, replicas = self.options, self.session.replicas
        # Waiting behind others costs no time while the servers answer them. Behind a dead server it does: else each
        # batch of those that wait would find out about it by itself.
        deadline = max(self.asked, self.session.progress) + options.total_s
        last: Exception | None = None
        tried: set[str] = set()
        attempt = 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or attempt == options.attempts:
                last = last or self.session.failure
                raise self._give_up(attempt, last) from last
            picked = replicas.pick(avoid=tried, prefer=self.prefer)
            if picked is None:
                await replicas.wait(left)
                continue
            replica, probe = picked
            deadline += await self._pass_gate(replica, probe, attempt)
            attempt += 1
            try:
                return JsonReply(await self._attempt(replica, probe, left), attempt, replica.url)
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

    async def _pass_gate(self, replica: Replica, probe: bool, attempts: int) -> float:
        """Seconds that the gate took. It comes after the choice of a replica: what it lets through is really sent."""
        if self.gate is None:
            return 0.0
        began = time.monotonic()
        try:
            await self.gate()
        except BaseException as stop:
            replica.breaker.abandon(probe=probe)
            self.session.replicas.notify()
            if isinstance(stop, EngineError):
                stop.attempts = attempts
            raise
        self.session.progress = time.monotonic()
        return self.session.progress - began

    def _pause(self, attempt: int, failure: _RetryableError, tried: set[str]) -> float:
        """Seconds until the next attempt: none while another replica has not been tried in this round."""
        others = [r for r in self.session.replicas.replicas if r.url not in tried and r.breaker.admits()]
        if others:
            return 0.0
        wait = backoff(self.options.backoff_s, self.options.backoff_cap_s, attempt, seed=self.seed)
        if failure.retry_after_s is None:
            return wait
        # Never before the server's own time, and a little later at random: the others were told the same time.
        return failure.retry_after_s + min(wait, 0.1 * failure.retry_after_s + 0.05)

    def _give_up(self, attempts: int, last: Exception | None, pause: float = 0.0) -> EngineError:
        urls = ", ".join(replica.url for replica in self.session.replicas.replicas)
        cause = "no replica could be called" if last is None else str(last)
        why = f"; the next attempt would have to wait {pause:.1f} s" if pause else ""
        return EngineError(
            f"{self.method} {self.path} failed after {attempts} attempts (bounds: {self.options.attempts} attempts, "
            f"{self.options.total_s:g} s; servers: {urls}). Last cause: {cause}{why}",
            attempts=attempts,
        )

    async def _attempt(self, replica: Replica, probe: bool, left: float) -> Any:
        """One attempt: parsed JSON, `_RetryableError`, or an error that no retry mends. The breaker learns of it."""
        breaker = replica.breaker
        try:
            async with asyncio.timeout(left):
                data = await self._send(replica)
        except _RetryableError as failure:
            if failure.healthy:
                self._answered(breaker)
            else:
                breaker.fail(probe=probe)
            raise
        except TimeoutError as cause:
            breaker.fail(probe=probe)
            raise _RetryableError(f"{replica.url}: no complete answer within {self.options.total_s:g} s") from cause
        except (StatusError, ValueError):
            self._answered(breaker)
            raise
        except BaseException:
            breaker.abandon(probe=probe)
            raise
        else:
            self._answered(breaker)
            return data
        finally:
            self.session.replicas.notify()

    def _answered(self, breaker: Breaker) -> None:
        breaker.succeed()
        self.session.progress = time.monotonic()

    async def _send(self, replica: Replica) -> Any:
        aiohttp, url = self.session.aiohttp, replica.url + self.path
        http = self.session.client(replica.url)
        try:
            async with http.request(
                self.method,
                url,
                data=self.content,
                params=self.params or None,
                headers=self.headers,
                allow_redirects=False,
            ) as response:
                status, retry_after = response.status, response.headers.get("Retry-After")
                body = await self._read(response, url)
        except aiohttp.ServerTimeoutError as cause:
            raise _RetryableError(f"{url}: time-out ({type(cause).__name__})") from cause
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as cause:
            raise _RetryableError(self._told(url, cause)) from self._shown(cause)
        except aiohttp.ClientError as cause:
            raise ValueError(self._told(url, cause)) from self._shown(cause)
        if 200 <= status < 300:
            return self._parse(body, url)
        said = f"{url} answered {status}: {self._excerpt(body)}"
        hopeless = self.hopeless is not None and self.hopeless(status, body)
        if is_retryable_status(status) and not hopeless and status not in self.final:
            raise _RetryableError(said, healthy=status < 500, retry_after_s=parse_retry_after(retry_after))
        raise StatusError(said + _advice(status), status, hopeless)

    def _told(self, url: str, cause: Exception) -> str:
        return f"{url}: {type(cause).__name__}: {hide(str(cause), self.hidden)}"

    def _shown(self, cause: Exception) -> Exception | None:
        """The cause for a traceback; none where there are keys: it may quote the whole address, or the whole answer."""
        return None if self.hidden else cause

    async def _read(self, response: Any, url: str) -> bytes:
        """The body, as long as it stays within its bound."""
        limit, parts, size = self.options.max_body_bytes, [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > limit:
                response.close()
                raise ValueError(
                    f"{url} answered with more than {limit:,} bytes, which is not read; raise max_body_bytes if that "
                    "is right"
                )
            parts.append(part)
        return b"".join(parts)

    def _parse(self, body: bytes, url: str) -> Any:
        try:
            return self.codec.decode(body)
        except (ValueError, RecursionError) as cause:
            said, why = self._excerpt(body), hide(str(cause), self.hidden)
            told = f"{url} answered with something that is no {self.codec.name} ({why}): {said}"
            raise ValueError(told) from self._shown(cause)

    def _excerpt(self, body: bytes) -> str:
        # Keys go before the cut, which would leave a half of one.
        text = " ".join(hide(body[: 64 * _EXCERPT].decode("utf-8", "replace"), self.hidden).split())
        return (text[:_EXCERPT] + ("..." if len(text) > _EXCERPT else "")) or "(nothing)"


def _advice(status: int) -> str:
    if status in (401, 403):
        return " Is the key right? It is taken from `api_key`, or from the environment variable of the engine."
    if status == 404:
        return " Are the address (it usually ends in /v1) and the model's name right?"
    if 300 <= status < 400:
        return " Redirects are not followed: give the final address."
    return ""
