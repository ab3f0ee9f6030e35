"""An agent in its own process, which the gold answers never enter.

The process is a new Python interpreter, not a fork: it starts with the agent's description, and then receives what a
policy would see (`public_info`) and returns texts. Both sides speak JSON, since reading a pickle would let the agent
run code in the evaluator.

    evaluator                                        the agent's process
        |  <-- {"stateful": ..., "source": ...} ------------  |   loaded
        |  --- {"start": true} ---------------------------->  |   an instance for the next episode
        |  --- {"observation": ..., "info": ...} ---------->  |   one turn
        |  <-- {"text": ...} or {"error": ...} -------------  |

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
from collections.abc import Iterator, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.loading import load_callable
from zerosearch_env.types import Document

from .calls import LocalAgent, TakeTurn, describe_error

_LONGEST_REPLY = 64 * 1024 * 1024
"""Bytes; a longer reply is a failure."""
_JOIN_S = 1.0


class IsolatedAgent:
    """An agent in its own process; see the module docstring.

    Args:
        spec: `"module:callable"` or `"file.py:callable"`.
        turn_timeout_s: limit of each call, in seconds; None: no limit. Loading the agent is not limited.

    Raises:
        ConfigError: the spec does not lead to a callable.
        AgentError: the process ended while it loaded the agent.
    """

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
            if process is not None and process.alive:
                self._idle.append(process)

    def _process(self) -> _Process:
        """An idle process, or a new one."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        process = _Process(self._spec)
        self._processes.append(process)
        return process


class _Process:
    """The evaluator's side of one process of an agent."""

    def __init__(self, spec: str) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), spec]
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
                self._popen.kill()
                self.end()
                raise AgentError(f"no reply within {timeout_s:g} s (the time limit of a turn); its process was killed")
            reply = json.loads(self._connection.recv_bytes(_LONGEST_REPLY))
        except (EOFError, OSError, ValueError) as cause:
            self.end()
            raise AgentError(f"its process ended (exit status {self._popen.returncode})") from cause
        except BaseException:  # Ctrl-C: a late reply must not be taken for that of the next request
            self._popen.kill()
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


def serve(connection: Connection, spec: str) -> None:
    """The loop of the agent's process, until the evaluator closes the connection."""

    def send(reply: Mapping[str, Any]) -> None:
        connection.send_bytes(json.dumps(reply).encode())

    try:
        agent = LocalAgent(load_callable(spec, "agent"), spec)
    except ConfigError as error:
        send({"config": str(error)})
        return
    send({"stateful": agent.stateful, "source": None if agent.source is None else str(agent.source.resolve())})
    take_turn: TakeTurn | None = None
    with contextlib.ExitStack() as instance:
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except (EOFError, OSError):
                return
            try:
                if "start" in request:
                    instance.close()
                    take_turn = instance.enter_context(agent.start())
                    send({})
                    continue
                assert take_turn is not None
                text = take_turn(request["observation"], _info(request["info"]))
                if isinstance(text, str):
                    send({"text": text})
                else:
                    kind = type(text).__name__
                    send({"error": f"expected the text of one turn (str), got {kind}: {text!r:.100}"})
            except BrokenPipeError:
                return
            except ConfigError as error:
                send({"config" if take_turn is None or "start" in request else "error": str(error)})
            except (Exception, SystemExit) as error:
                send({"error": describe_error(error)})


if __name__ == "__main__":
    # Ctrl-C and a job scheduler's SIGTERM also reach the evaluator, which ends this process. A function is set, since
    # processes that the agent starts would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    serve(Connection(int(sys.argv[1])), sys.argv[2])
