"""Conversations with agents that own their loop: such an agent searches when it likes and answers in the end.

The agent runs in its own thread, or as a coroutine in an event loop. The player takes its searches one by one:

    the player's thread                                   the agent
    query = next(conversation)          <-----  search("a query")
    query = conversation.send(documents) ---->  ... returns the documents
                                        <-----  search("another query")
    ...
    StopIteration, with the answer      <-----  return answer

So only the player's thread touches the episode. Searches that the agent starts at the same time, from threads or with
`asyncio.gather`, are answered one after another, in the order in which they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, wait
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from zerosearch_env.errors import AgentError, EngineError, EpisodeError
from zerosearch_env.integrations.tool_texts import SEARCH

from .calls import LocalAgent, in_thread, outcome_of, overdue

Reply = str | EpisodeError | EngineError
"""The documents of a search as text, or an error to raise in the agent."""
Conversation = Generator[str, Reply | None, str]
"""Yields the agent's queries, is sent the reply to each, and returns its answer."""
Converse = Callable[[str], Conversation]
"""Asks an agent a question."""

_GRACE_S = 1.0
"""How long an agent may take to end when its episode is over without it."""
_OVER = "This question is finished: nothing more counts for it. Stop here."


class LocalToolAgent(LocalAgent):
    """An agent `(question, search) -> answer` in this process; `IsolatedToolAgent` has the same interface.

    See `LocalAgent` for the arguments, for classes and for coroutines. The time limit is that of a turn: from the
    start, or from the reply to a search, to the next search or the answer.
    """

    @contextlib.contextmanager
    def prepare(self) -> Iterator[Converse]:
        """Begin an episode: make the instance that plays it. What still runs of it at the end is left behind.

        Yields:
            A function that asks the question. Its conversation raises what the agent raises; an `EpisodeError` is a
            refused search that the agent did not handle.

        Raises:
            ConfigError: the agent cannot be called with a question and a search function.
            BaseException: whatever the agent's constructor raises.
        """
        agent = self._instance("question", "search")
        with contextlib.ExitStack() as running:
            yield lambda question: running.enter_context(contextlib.closing(self._conversation(agent, question)))

    def _conversation(self, agent: Callable[..., Any], question: str) -> Conversation:
        searches = _Searches()
        call: Future[Any]
        if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(type(agent).__call__):
            call = self._loop.submit(outcome_of(agent(question, searches.awaited())))
        else:
            call = in_thread(partial(_outcome, agent, question, searches.blocking()))
        call.add_done_callback(lambda _: searches.end())
        self._pending.add(call)
        left_behind = True
        try:
            while (search := searches.next(self._timeout_s)) is not None:
                query, result = search
                if not result.set_running_or_notify_cancel():
                    continue  # the agent has stopped waiting for it
                try:
                    reply = yield query
                except GeneratorExit:
                    searches.close(abandoned=True)
                    result.set_exception(EpisodeError(_OVER))
                    wait([call], _GRACE_S)
                    raise
                if isinstance(reply, str):
                    result.set_result(reply)
                else:
                    result.set_exception(reply or EpisodeError(_OVER))
            left_behind = False
        finally:
            searches.close(abandoned=left_behind)
            call.cancel()
            self._pending.discard(call)
        answer, error = call.result()
        if error is not None:
            raise error
        if inspect.iscoroutine(answer):
            answer.close()
            raise AgentError("it returned a coroutine: an agent that awaits searches is declared with `async def`")
        if not isinstance(answer, str):
            raise AgentError(f"expected the answer (str), got {type(answer).__name__}: {answer!r:.100}")
        return answer


class _Searches:
    """The searches of one agent, from any thread or event loop, in the order in which they came."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[str, Future[str]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = self._abandoned = False

    def blocking(self) -> Callable[[str], str]:
        """The function `search` of a sync agent."""

        def search(query: str) -> str:
            if self._abandoned:
                raise SystemExit(_OVER)  # ends the thread, also if the agent catches every exception
            return self._submit(query).result()

        search.__doc__ = SEARCH.docstring
        return search

    def awaited(self) -> Callable[[str], Coroutine[Any, Any, str]]:
        """The function `search` of an async agent."""

        async def search(query: str) -> str:
            if self._abandoned:
                raise asyncio.CancelledError(_OVER)  # ends the task in the same way
            return await asyncio.wrap_future(self._submit(query))

        search.__doc__ = SEARCH.docstring
        return search

    def next(self, limit_s: float | None) -> tuple[str, Future[str]] | None:
        """Wait for the next search; None when the agent has ended.

        Raises:
            TimeoutError: neither happened within the limit.
        """
        try:
            return self._queue.get(timeout=limit_s)
        except Empty:
            raise overdue(limit_s) from None

    def end(self) -> None:
        """Note that the agent has ended."""
        self._queue.put(None)

    def close(self, *, abandoned: bool) -> None:
        """Refuse waiting and later searches.

        Args:
            abandoned: the agent still runs, and should end.
        """
        with self._lock:
            self._closed, self._abandoned = True, abandoned
        with contextlib.suppress(Empty):
            while True:
                search = self._queue.get_nowait()
                if search is not None and search[1].set_running_or_notify_cancel():
                    search[1].set_exception(EpisodeError(_OVER))

    def _submit(self, query: str) -> Future[str]:
        if not isinstance(query, str):
            raise TypeError(f"the query must be a string, got {type(query).__name__}: {query!r:.100}")
        with self._lock:
            if self._closed:
                raise EpisodeError(_OVER)
            result: Future[str] = Future()
            self._queue.put((query, result))
        return result


def _outcome(function: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error
