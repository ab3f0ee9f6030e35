"""Calls into an agent's code in this process: sync or async, one instance per episode, each call within a time limit.

Whatever the code raises, `SystemExit` included, reaches the caller as it is; `CallablePlayer` turns it into a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.identity import source_file
from zerosearch_env.llm.http.loop import LoopThread

Value = TypeVar("Value")
TakeTurn = Callable[[str, Mapping[str, Any]], Any]
"""(observation, info) -> the text of a turn, if the agent is right; its type is checked by the caller."""


class LocalAgent:
    """An agent in this process; `IsolatedAgent` has the same interface.

    A class gets one instance per episode; a function or an object plays all of them. Coroutines run in one event loop,
    in a thread that lives as long as this object, so an async client may be shared by all episodes.

    A sync call that exceeds the time limit continues in its thread, since Python cannot end a thread. Nothing waits
    for it any more.

    Args:
        agent: the function, the object or the class.
        name: its name in error messages.
        turn_timeout_s: limit of each call, in seconds; None: no limit.

    Attributes:
        stateful: whether every episode has its own instance. An instance that failed in a turn is not asked again.
        source: the source file of the agent; None if it has none.
    """

    def __init__(self, agent: Callable[..., Any], name: str, turn_timeout_s: float | None = None) -> None:
        self._agent = agent
        self._name = name
        self._timeout_s = turn_timeout_s
        self._loop = LoopThread("zerosearch-agent")
        self._pending: set[Future[Any]] = set()
        self._checked = False
        self.stateful = inspect.isclass(agent)
        self.source = source_file(agent)
        # An async client made in a constructor expects a running loop.
        self._made_in_loop = inspect.isclass(agent) and inspect.iscoroutinefunction(
            inspect.getattr_static(agent, "__call__")
        )

    @contextlib.contextmanager
    def start(self) -> Iterator[TakeTurn]:
        """Begin an episode: make the instance that plays it, until the context ends.

        Raises:
            ConfigError: the agent cannot be called with an observation and an info.
            BaseException: whatever the agent's constructor raises.
        """
        yield partial(self._call, self._instance("observation", "info"))

    def _instance(self, *parameters: str) -> Callable[..., Any]:
        """The function or object that plays an episode; of a class, a new instance.

        Args:
            parameters: what it will be called with, in words.

        Raises:
            ConfigError: it cannot be called with that many arguments.
            BaseException: whatever the agent's constructor raises.
        """
        agent = self._agent
        if self.stateful:
            agent = self._await(_make(agent)) if self._made_in_loop else self._call(agent)
        if not callable(agent):
            raise ConfigError(f"agent {self._name!r}: an instance of the class is not callable; define __call__")
        if self._checked:  # a signature takes longer to read than the rest of a short episode's set-up
            return agent
        self._checked = True
        try:
            inspect.signature(agent).bind(*parameters)
        except TypeError as cause:
            raise ConfigError(f"agent {self._name!r} must take ({', '.join(parameters)}): {cause}") from cause
        except ValueError:
            pass  # a builtin without a signature: a wrong one fails at the first call
        return agent

    def interrupt(self) -> None:
        """Stop waiting for calls in other threads; each of them fails."""
        for call in tuple(self._pending):
            call.cancel()

    def close(self) -> None:
        """End the event loop, if there is one."""
        self._loop.close()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._timeout_s is None or inspect.iscoroutinefunction(function):
            result = function(*arguments)
        else:
            result = self._within_the_limit(in_thread(partial(function, *arguments)))
        return self._await(result) if inspect.isawaitable(result) else result

    def _await(self, awaitable: Awaitable[Any]) -> Any:
        result, error = self._within_the_limit(self._loop.submit(outcome_of(awaitable)))
        if error is not None:
            raise error
        return result

    def _within_the_limit(self, future: Future[Any]) -> Any:
        self._pending.add(future)
        try:
            return future.result(self._timeout_s)
        except TimeoutError as cause:
            if future.done():
                raise  # the agent's own
            raise overdue(self._timeout_s) from cause
        finally:
            future.cancel()  # after the limit, and after Ctrl-C
            self._pending.discard(future)


def overdue(limit_s: float | None) -> TimeoutError:
    """The error of an agent that takes longer than the limit of a turn, in seconds."""
    return TimeoutError(f"no reply within {limit_s:g} s (the time limit of a turn)")


async def _make(agent: Callable[[], Any]) -> Any:
    return agent()


async def outcome_of(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Await in the loop. What is raised is returned: `SystemExit` would end the loop's thread."""
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


def in_thread(call: Callable[[], Value]) -> Future[Value]:
    """Call in a daemon thread: one that hangs does not keep the process alive."""
    future: Future[Value] = Future()

    def work() -> None:
        try:
            result = call()
        except BaseException as error:
            outcome = partial(future.set_exception, error)
        else:
            outcome = partial(future.set_result, result)
        if future.set_running_or_notify_cancel():
            outcome()

    threading.Thread(target=work, daemon=True, name="zerosearch-agent").start()
    return future


def describe_error(error: BaseException) -> str:
    """One line with the error and the place in the agent's code that raised it."""
    if isinstance(error, AgentError):
        return str(error)  # described where the agent runs
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent
    theirs = [frame for frame in frames if Path(frame.filename).parent != ours]
    place = f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {error}{place}"
