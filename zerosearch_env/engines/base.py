"""What every search engine is: the protocol, the base class that batches concurrent callers, and the registry.

An engine answers a batch of requests in order. Whoever implements `search` gets `asearch` from `BatchedEngine`.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigError, EngineError
from ..types import SearchRequest, SearchResult

_Waiting = list[tuple[SearchRequest, "asyncio.Future[SearchResult]"]]


@runtime_checkable
class SearchEngine(Protocol):
    """Anything that answers searches. Results never depend on what else is in the batch."""

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order."""
        ...

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request; concurrent callers are batched."""
        ...

    def close(self) -> None:
        """Release what the engine holds. Calling it twice is fine; searching afterwards is an error."""
        ...


class BatchedEngine(ABC):
    """Base of the engines: `search` is theirs, `asearch` and `close` come from here.

    Callers that await `asearch` in the same few milliseconds of an event loop share one `search` call, which runs in
    a worker thread so that the loop stays free.

    Args:
        max_wait_s: how long the first caller of a batch waits for company, in seconds. 0 gathers what is ready in the
            same turn of the event loop.
        max_batch: a batch is sent at once when it holds this many requests.

    Attributes:
        waits: whether a search waits for another process or machine. Rollouts then go on meanwhile; a search that
            computes in this process is answered at once, so that what is computed together never depends on timing.
    """

    waits = False

    def __init__(self, *, max_wait_s: float = 0.002, max_batch: int = 1024) -> None:
        if not max_wait_s >= 0:
            raise ConfigError(f"max_wait_s must be at least 0 seconds, got {max_wait_s!r}")
        if max_batch < 1:
            raise ConfigError(f"max_batch must be at least 1, got {max_batch!r}")
        self._max_wait_s = max_wait_s
        self._max_batch = max_batch
        self._waiting: dict[asyncio.AbstractEventLoop, _Waiting] = {}
        self._lock = threading.Lock()
        self._closed = False

    @abstractmethod
    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order.

        Raises:
            EngineError: when the engine is closed.
        """

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request together with those of other callers that wait in the same event loop.

        An exception that `search` raises reaches every caller of the batch.
        """
        self._check_open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SearchResult] = loop.create_future()
        with self._lock:
            for ended in [other for other in self._waiting if other.is_closed()]:
                del self._waiting[ended]
            waiting = self._waiting.setdefault(loop, [])
            waiting.append((request, future))
            size = len(waiting)
        if size >= self._max_batch:
            self._send(loop, waiting)
        elif size == 1:
            loop.call_later(self._max_wait_s, self._send, loop, waiting)
        return await future

    def close(self) -> None:
        """Release what the engine holds. Calling it twice is fine; searching afterwards raises EngineError."""
        self._closed = True

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock and the callers that wait: an engine is sent to worker processes as it is described."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_waiting")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy has a lock of its own, and nobody waits for it."""
        self.__dict__ |= state
        self._waiting = {}
        self._lock = threading.Lock()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"{type(self).__name__} is closed; build a new one to search again", attempts=0)

    def _send(self, loop: asyncio.AbstractEventLoop, waiting: _Waiting) -> None:
        """Search for all who wait in `waiting`, unless a full batch has already been sent."""
        with self._lock:
            if self._waiting.get(loop) is not waiting:
                return
            del self._waiting[loop]
        live = [(request, future) for request, future in waiting if not future.done()]
        if live:
            task = loop.run_in_executor(None, self.search, [request for request, _ in live])
            task.add_done_callback(lambda done: _deliver(done, [future for _, future in live]))


def _deliver(done: asyncio.Future[list[SearchResult]], futures: Sequence[asyncio.Future[SearchResult]]) -> None:
    """Hand each caller its result, or the batch's exception."""
    error = EngineError("the search was cancelled") if done.cancelled() else done.exception()
    for position, future in enumerate(futures):
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result()[position])


def check_size(passages: int, top_k: int, *, noise: bool) -> None:
    """Check that there are enough passages for a result, and with noise for one beside it that shares none.

    Raises:
        ConfigError: there are not; the message names both numbers.
    """
    needed = 2 * top_k if noise else top_k
    if passages < needed:
        why = f"{top_k} useful ones and as many noisy ones" if noise else "the documents of one result"
        raise ConfigError(
            f"the corpus has {passages} passages and top_k={top_k} needs at least {needed} ({why}). "
            "Give a larger corpus or a smaller top_k."
        )


def check_mask(request: SearchRequest) -> None:
    """Check that a request asks for documents, and that a noise mask has one flag for each.

    Raises:
        ConfigError: `top_k` is below 1, or the mask has another length.
    """
    if request.top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {request.top_k}")
    if not isinstance(request.noisy, bool) and len(request.noisy) != request.top_k:
        raise ConfigError(f"a noise mask has {len(request.noisy)} flags for top_k={request.top_k} documents")
