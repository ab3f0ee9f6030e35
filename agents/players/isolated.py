"""An agent in its own process, which the gold answers never enter.

The process is a new Python interpreter, not a fork: it starts with the agent's description, and then receives what a
policy would see (`public_info`) and returns texts. Both sides speak JSON, since reading a pickle would let the agent
run code in the evaluator.

    evaluator                                        the agent's process
        |  <-- {"stateful": ..., "source": ...} ------------  |   loaded
        |  --- {"start": true} ---------------------------->  |   an instance for the next episode
        |  --- {"observation": ..., "info": ...} ---------->  |   one turn
        |  <-- {"text": ...} or {"error": ...} -------------  |

An agent that owns its loop is asked a question instead, and searches until it answers (`conversations.py`):

        |  --- {"question": ...} -------------------------->  |
        |  <-- {"query": ...} ------------------------------  |
        |  --- {"documents": ...} or {"refused": ...} ----->  |   and so on
        |  <-- {"answer": ...} or {"error": ...} -----------  |

A process plays one episode at a time, so as many are started as episodes are played concurrently. One that ends, or
that exceeds the time limit and is killed, fails its turn, and the next turn or episode gets a new one.

It is a wall against reading the evaluator's memory, by accident or on purpose. It is not a sandbox: the agent may still
read files.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from zerosearch_env.errors import AgentError, ConfigError, EpisodeError
from zerosearch_env.loading import load_callable
from zerosearch_env.types import Document

from .calls import LocalAgent, TakeTurn, describe_error
from .conversations import Conversation, Converse, LocalToolAgent, Reply

_LONGEST_REPLY = 64 * 1024 * 1024
"""Bytes; a longer reply is a failure."""
_JOIN_S = 1.0


class IsolatedAgent:
    """An agent that takes turns, in its own process; see the module docstring.

    Args:
        spec: `"module:callable"` or `"file.py:callable"`.
        turn_timeout_s: limit of each call, in seconds; None: no limit. Loading the agent is not limited.

    Raises:
        ConfigError: the spec does not lead to a callable.
        AgentError: the process ended while it loaded the agent.
    """

    _role: ClassVar[str] = "turns"

    def __init__(self, spec: str, turn_timeout_s: float | None = None) -> None:
        self._spec = spec
        self._timeout_s = turn_timeout_s
        self._processes: list[_Process] = []
        self._idle: list[_Process] = []
        self.close = weakref.finalize(self, _end, self._processes)
        process = self._process()
        self.stateful = bool(process.about["stateful"])
        source = process.about["source"]
        self.source = None if source is None else Path(source)
        self._idle.append(process)

    @contextlib.contextmanager
    def start(self) -> Iterator[TakeTurn]:
        """Begin an episode; see `LocalAgent.start`."""
        process: _Process | None = None

        def started() -> _Process:
            nonlocal process
            if process is None or not process.alive:
                process = self._process()
                process.ask({"start": True}, self._timeout_s)
            return process

        def take_turn(observation: str, info: Mapping[str, Any]) -> str:
            request = {"observation": observation, "info": info}
            return str(started().ask(request, self._timeout_s)["text"])

        try:
            started()
            yield take_turn
        finally:
            if process is not None:
                self._release(process)

    def interrupt(self) -> None:
        """End the processes that play; each of their turns fails."""
        for process in self._processes:
            if process not in self._idle:
                process.kill()

    def _release(self, process: _Process) -> None:
        if process.alive:
            self._idle.append(process)

    def _process(self) -> _Process:
        """An idle process, or a new one."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        process = _Process(self._spec, self._role)
        self._processes.append(process)
        return process


class IsolatedToolAgent(IsolatedAgent):
    """An agent that owns its loop, in its own process; see the module docstring."""

    _role = "tools"

    @contextlib.contextmanager
    def prepare(self) -> Iterator[Converse]:
        """Begin an episode; see `LocalToolAgent.prepare`. A process that still plays when the context ends is ended."""
        process = self._process()
        with contextlib.ExitStack() as running:
            running.callback(self._release, process)
            process.ask({"start": True}, self._timeout_s)
            yield lambda question: running.enter_context(contextlib.closing(self._conversation(process, question)))

    def _conversation(self, process: _Process, question: str) -> Conversation:
        try:
            event = process.ask({"question": question}, self._timeout_s)
            while "query" in event:
                reply = yield event["query"]
                message = {"documents" if isinstance(reply, str) else "refused": str(reply)}
                event = process.ask(message, self._timeout_s)
        except GeneratorExit:
            process.end()
            raise
        if "refused" in event:
            raise EpisodeError(event["refused"])
        return str(event["answer"])


class _Process:
    """The evaluator's side of one process of an agent."""

    def __init__(self, spec: str, role: str) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), role, spec]
        self._popen = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        try:
            self.about = self._reply(None)
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        """False once the process has ended or was killed."""
        return not self._connection.closed

    def ask(self, request: Mapping[str, Any], timeout_s: float | None) -> Mapping[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            AgentError: the agent failed, its process ended, or it took too long and was killed.
            ConfigError: the agent cannot be called with an observation and an info.
        """
        with contextlib.suppress(OSError):  # it has ended; the reply says so
            self._connection.send_bytes(json.dumps(request, default=_plain).encode())
        return self._reply(timeout_s)

    def kill(self) -> None:
        """Kill the process, from any thread; whoever waits for its reply gets an `AgentError`."""
        self._popen.kill()

    def end(self) -> None:
        """End the process: it leaves when its connection is closed, and is killed if it does not."""
        self._connection.close()
        try:
            self._popen.wait(_JOIN_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _reply(self, timeout_s: float | None) -> Mapping[str, Any]:
        try:
            if not self._connection.poll(timeout_s):
                self.kill()
                self.end()
                raise AgentError(f"no reply within {timeout_s:g} s (the time limit of a turn); its process was killed")
            reply = json.loads(self._connection.recv_bytes(_LONGEST_REPLY))
        except (EOFError, OSError, ValueError) as cause:
            self.end()
            raise AgentError(f"its process ended (exit status {self._popen.returncode})") from cause
        except BaseException:  # Ctrl-C: a late reply must not be taken for that of the next request
            self.kill()
            self.end()
            raise
        if "config" in reply:
            raise ConfigError(reply["config"])
        if "error" in reply:
            raise AgentError(reply["error"])
        return reply  # type: ignore[no-any-return]


def _end(processes: list[_Process]) -> None:
    for process in processes:
        if process.alive:
            process.end()


def _plain(value: Any) -> Any:
    """The documents of an info as JSON."""
    if isinstance(value, Document):
        return {"title": value.title, "text": value.text}
    raise TypeError(f"not JSON: {value!r:.100}")


def _info(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_plain`: the same info as an agent in the evaluator's process would get."""
    tuples = {"stop_strings": tuple(values["stop_strings"])}
    if "documents" in values:
        tuples["queries"] = tuple(values["queries"])
        tuples["documents"] = tuple(Document(**document) for document in values["documents"])
    return {**values, **tuples}


def serve(connection: Connection, role: str, spec: str) -> None:
    """The loop of the agent's process, until the evaluator closes the connection.

    Args:
        connection: leads to the evaluator.
        role: "turns" for an agent that takes turns, "tools" for one that owns its loop.
        spec: `"module:callable"` or `"file.py:callable"`.
    """
    try:
        function = load_callable(spec, "agent")
    except ConfigError as error:
        _send(connection, {"config": str(error)})
        return
    agent = LocalAgent(function, spec) if role == "turns" else LocalToolAgent(function, spec)
    about = {"stateful": agent.stateful, "source": None if agent.source is None else str(agent.source.resolve())}
    with contextlib.suppress(EOFError, OSError), contextlib.ExitStack() as instance:  # until the connection is closed
        _send(connection, about)
        play: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
        while True:
            request = json.loads(connection.recv_bytes())
            starts = "start" in request
            try:
                if starts:
                    instance.close()
                    if isinstance(agent, LocalToolAgent):
                        play = partial(_talk, connection, instance.enter_context(agent.prepare()))
                    else:
                        play = partial(_take_turn, instance.enter_context(agent.start()))
                    reply: Mapping[str, Any] = {}
                else:
                    assert play is not None
                    reply = play(request)
            except ConfigError as error:
                reply = {"config" if starts else "error": str(error)}
            except (Exception, SystemExit) as error:
                reply = {"error": describe_error(error)}
            _send(connection, reply)


def _take_turn(take_turn: TakeTurn, request: Mapping[str, Any]) -> dict[str, str]:
    """One turn of an agent that takes turns."""
    text = take_turn(request["observation"], _info(request["info"]))
    if isinstance(text, str):
        return {"text": text}
    return {"error": f"expected the text of one turn (str), got {type(text).__name__}: {text!r:.100}"}


def _talk(connection: Connection, converse: Converse, request: Mapping[str, Any]) -> dict[str, str]:
    """The whole conversation with an agent that owns its loop."""
    conversation = converse(request["question"])
    reply: Reply | None = None
    try:
        while True:
            _send(connection, {"query": conversation.send(reply)})
            message = json.loads(connection.recv_bytes())
            reply = message["documents"] if "documents" in message else EpisodeError(message["refused"])
    except StopIteration as end:
        return {"answer": end.value}
    except EpisodeError as error:
        return {"refused": str(error)}


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    # Ctrl-C and a job scheduler's SIGTERM also reach the evaluator, which ends this process. A function is set, since
    # processes that the agent starts would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    serve(Connection(int(sys.argv[1])), *sys.argv[2:])
