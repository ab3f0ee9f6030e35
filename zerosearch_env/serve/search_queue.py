"""The searches of a server: a batcher with a limited queue, the counts of its calls, and the health of its engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence

from ..checks import check_whole_number
from ..engines.base import SearchEngine
from ..engines.batching import Batcher
from ..engines.run import Outcome
from ..errors import EngineError
from ..retrieve_api.codec import RequestError
from ..types import SearchRequest, SearchResult
from .metrics import Metrics


class SearchQueue:
    """Batches the searches of concurrent requests (see `engines/batching.py`), and refuses those that are too many.

    Args:
        engine: the search engine; closed by `close`.
        metrics: counts the calls.
        max_batch: maximum number of searches per engine call.
        max_wait_s: how long a search waits for those that the last batch makes probable, in seconds.
        max_calls: maximum number of concurrent engine calls. More than 1 needs a thread-safe engine, and helps if a
            call waits for another machine.
        max_waiting: maximum number of waiting searches, and of searches per request; more are rejected.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        engine: SearchEngine,
        metrics: Metrics,
        *,
        max_batch: int = 256,
        max_wait_s: float = 0.003,
        max_calls: int = 1,
        max_waiting: int = 20_000,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_waiting = check_whole_number("max_waiting", max_waiting)
        self._failed: tuple[float, str] | None = None
        self._batcher = Batcher(
            engine, max_batch=max_batch, max_wait_s=max_wait_s, max_calls=max_calls, on_call=self._record
        )
        metrics.waiting = lambda: self._batcher.waiting

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer the searches of one request, batched with those of others.

        Raises:
            RequestError: the request has too many searches (status 413), or too many are already waiting (503).
            EngineError: the engine failed.
            ZeroSearchError: the engine rejected one of these requests.
        """
        if len(requests) > self._max_waiting:
            raise RequestError(
                f"a request may hold at most {self._max_waiting} queries, got {len(requests)}; split it",
                413,
                "too_large",
            )
        waiting = self._batcher.waiting
        if waiting + len(requests) > self._max_waiting:
            raise RequestError(
                f"overloaded: {waiting} searches wait for the engine; try again later", 503, "overloaded"
            )
        return await self._batcher.asearch(requests)

    def stuck_s(self, limit_s: float) -> float:
        """Seconds since the latest engine call began, if no other can start and it exceeds `limit_s`; else 0."""
        began = self._batcher.busy_since
        latest = 0.0 if began is None else time.monotonic() - began
        return latest if latest > limit_s else 0.0

    def failure(self, within_s: float) -> str | None:
        """The error of the latest engine call, if all its searches failed and it was within the last `within_s`."""
        failed = self._failed
        return None if failed is None or time.monotonic() - failed[0] > within_s else failed[1]

    async def close(self, timeout_s: float) -> str | None:
        """Close the engine and end its threads.

        Args:
            timeout_s: maximum time for the engine's `close`, in seconds.

        Returns:
            Why the engine could not be closed; None if it is closed.
        """
        self._batcher.close()
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[str | None] = loop.create_future()

        def run() -> None:
            problem = None
            try:
                self._engine.close()
            except BaseException as cause:  # native code may raise BaseException
                problem = f"{type(cause).__name__}: {cause}"
            with contextlib.suppress(RuntimeError):  # the server has stopped: no one is left to notify
                loop.call_soon_threadsafe(closed.set_result, problem)

        # Not in one of the engine's threads, which may hang.
        threading.Thread(target=run, name="engine-close", daemon=True).start()
        await asyncio.wait([closed], timeout=timeout_s)
        return closed.result() if closed.done() else f"it took longer than {timeout_s:g} s"

    def _record(self, searches: int, seconds: float, outcomes: Sequence[Outcome]) -> None:
        """Count an engine call."""
        self._metrics.engine_call(searches, seconds)
        failures = [_failure(outcome) for outcome in outcomes]
        self._failed = None if None in failures else (time.monotonic(), str(failures[0]))


def _failure(outcome: Outcome) -> str | None:
    """Why the engine failed; None for a result, and for a request that the engine rejected."""
    if isinstance(outcome, SearchResult):
        return outcome.failure
    return str(outcome) if isinstance(outcome, EngineError) else None
