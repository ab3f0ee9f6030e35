"""The boundary between the package and an engine: every misbehaviour of an engine becomes a failure of its searches.

An engine may raise any exception, return something other than a list, too few results, or results of the wrong types.
Everything that searches goes through this module, so that none of this ends other episodes, kills a thread or is taken
for documents.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..checks import is_number
from ..errors import ConfigError, EngineError, QuotaError, ZeroSearchError
from ..privacy import redact
from ..types import Document, SearchRequest, SearchResult, Step

if TYPE_CHECKING:
    from ..game.episode import Episode

Outcome = SearchResult | ZeroSearchError

_log = logging.getLogger(__name__)
_reported: set[tuple[str, str, int]] = set()
"""Engine, exception and line of the tracebacks that were logged: each is logged once."""


class Engine(Protocol):
    """What is needed of an engine to search with it."""

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """See `SearchEngine.search`."""
        ...

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """See `SearchEngine.asearch`."""
        ...


def is_quick(engine: object, requests: Sequence[SearchRequest]) -> bool:
    """Whether the engine says that it answers these requests at once (`EngineParts.is_quick`).

    One that raises is asked to answer all the same: whose request it was about shows then.
    """
    quick = getattr(engine, "is_quick", None)
    if callable(quick):
        with contextlib.suppress(Exception):
            return bool(quick(requests))
    return False


def run_searches(engine: Engine, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Call the engine once for all requests; whatever it does wrong becomes a failed result (see `search_each`).

    Without requests the engine is not called.
    """
    return [as_result(engine, outcome) for outcome in search_each(engine, requests)]


async def run_search(engine: Engine, request: SearchRequest) -> SearchResult:
    """Await one search; whatever the engine does wrong becomes a failed result."""
    import asyncio  # when it is used: it takes a tenth of the time of a command's help

    name = type(engine).__name__
    try:
        return as_result(engine, _checked(name, await engine.asearch(request)))
    except BaseException as cause:  # native code may raise BaseException
        task = asyncio.current_task()
        if _ends_program(cause) or (
            isinstance(cause, asyncio.CancelledError) and task is not None and task.cancelling()
        ):
            raise
        return as_result(engine, _as_error(name, cause))


def observe_searches(engine: Engine, episodes: Sequence[Episode]) -> list[Step]:
    """Run the pending searches of episodes in one call of the engine, and give each episode its results.

    Args:
        engine: the search engine.
        episodes: episodes with pending searches.

    Returns:
        The step of each episode, in order.
    """
    results = iter(run_searches(engine, [request for episode in episodes for request in episode.requests]))
    return [episode.observe([next(results) for _ in episode.requests]) for episode in episodes]


def search_each(engine: Engine, requests: Sequence[SearchRequest]) -> list[Outcome]:
    """Search a batch such that a request on which the engine raises does not fail the others.

    An `EngineError` applies to all requests: the engine as a whole failed. After any other exception the two halves of
    the batch are searched separately, and so on, until the request that causes it is isolated.

    Returns:
        One result or error per request, in order. A `ConfigError` rejects its request; any other exception and
        results of the wrong types become an `EngineError` that names the engine.
    """
    if not requests:
        return []
    name = type(engine).__name__
    results, error = _try(engine, requests)
    if error is None:
        return check_results(name, results, len(requests))
    if len(requests) == 1 or isinstance(error, EngineError):
        return [_as_error(name, error)] * len(requests)
    half = len(requests) // 2
    return [*search_each(engine, requests[:half]), *search_each(engine, requests[half:])]


def _try(engine: Engine, requests: Sequence[SearchRequest]) -> tuple[object, BaseException | None]:
    """What the engine returned, or the exception that it raised."""
    try:
        return engine.search(requests), None
    except BaseException as cause:  # native code may raise BaseException
        if _ends_program(cause):
            raise
        return None, cause


def check_results(name: str, results: object, count: int) -> list[Outcome]:
    """What an engine returned for a batch, with an error in the place of everything that is not a valid result.

    Args:
        name: the engine's class, for messages.
        results: what its `search` returned.
        count: number of requests.
    """
    if isinstance(results, (list, tuple)) and len(results) == count:
        return [_checked(name, result) for result in results]
    got = f"{len(results)} results for {count} requests" if isinstance(results, (list, tuple)) else _kind(results)
    message = f"{name}.search returned {got}; it must return a list with one SearchResult per request, in order"
    return [EngineError(message)] * count


def _ends_program(cause: BaseException) -> bool:
    """Whether an exception is Ctrl-C or the exit of a signal handler, which only the main thread gets.

    An engine's own `sys.exit` is a failure like any other; that of the user's handler for SIGTERM is not.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if not isinstance(cause, SystemExit):
        return isinstance(cause, KeyboardInterrupt)
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(cause.__traceback__))


def _as_error(name: str, cause: BaseException) -> ZeroSearchError:
    """The error of a search, without secrets."""
    message = redact(_text(cause))
    if isinstance(cause, EngineError):
        return (QuotaError if isinstance(cause, QuotaError) else EngineError)(message, cause.attempts)
    if isinstance(cause, ConfigError):
        return ConfigError(f"{name}: {message}")
    _report(name, cause)
    return EngineError(f"{name} raised {type(cause).__name__}: {message}")


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # the engine's own `__str__`
        return f"a {type(value).__name__} that cannot be shown"


def _report(name: str, cause: BaseException) -> None:
    """Log a traceback, once per line that raises: an engine that always fails must not fill the log."""
    frames = traceback.extract_tb(cause.__traceback__)
    place = name, type(cause).__name__, (frames[-1].lineno or 0) if frames else 0
    if place not in _reported:
        _reported.add(place)
        _log.error("%s raised:\n%s", name, redact("".join(traceback.format_exception(cause))))


def as_result(engine: object, outcome: Outcome) -> SearchResult:
    """The result; for an error, a failed result that names the engine's class."""
    if isinstance(outcome, SearchResult):
        return outcome
    attempts = outcome.attempts if isinstance(outcome, EngineError) else 1
    return SearchResult((), engine=type(engine).__name__, attempts=attempts, failure=str(outcome))


def _checked(name: str, result: object) -> Outcome:
    """The result if its fields have the right types, else the error to report."""
    if not isinstance(result, SearchResult):
        return EngineError(f"{name} returned {_kind(result)} for a search; expected a SearchResult")
    failure, documents = result.failure, result.documents
    if failure is not None:
        return result if isinstance(failure, str) else EngineError(f"{name} failed: {redact(_text(failure))}")
    if not isinstance(documents, (tuple, list)):
        return EngineError(f"{name} returned {_kind(documents)} as documents; expected a tuple of Document")
    for document in documents:
        if not isinstance(document, Document):
            return EngineError(f"{name} returned {_kind(document)} as a document; expected a Document")
        title, text, source, score = document.title, document.text, document.source, document.score
        if type(title) is type(text) is type(source) is str and (score is None or type(score) is float):
            continue  # the usual case, in a third of the time
        if not (isinstance(title, str) and isinstance(text, str) and isinstance(source, str)):
            wrong = next(key for key in ("title", "text", "source") if not isinstance(getattr(document, key), str))
            got = _kind(getattr(document, wrong))
            return EngineError(f"{name} returned a document whose {wrong} is {got}; expected a string")
        if score is not None and not is_number(score):
            return EngineError(f"{name} returned a document whose score is {_kind(score)}; expected a number or None")
    return result


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
