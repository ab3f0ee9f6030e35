"""Processes that are forked from one server, which has loaded torch and lives as long as the tests do.

The processes that the package starts load torch each; the tests fork them instead (`fork_workers`). Where it can, the
server is itself a fork of the tests' process before the first test (`start_server`): then it has nothing to load.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, arbitrary_address
from multiprocessing.context import ForkServerProcess
from types import SimpleNamespace
from typing import IO, Any, NoReturn

import pytest

FORKS = multiprocessing.get_context("forkserver")
LOADED = [
    "pytest",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "transformers.models.qwen3.modeling_qwen3",
    "zerosearch_agents.training.trainer",
]
FORKS.set_forkserver_preload(LOADED)


def start_server() -> None:
    """Fork the server from this process, whose imports it keeps.

    Not where a thread of this process could matter (anything but Linux), nor where lines are counted (a tracer).
    Without a call of this function the first process that is forked starts the server, as `multiprocessing` does.
    """
    server = forkserver._forkserver
    if sys.platform != "linux" or sys.version_info >= (3, 14) or sys.gettrace() or server._forkserver_pid is not None:
        return
    with socket.socket(socket.AF_UNIX) as listener, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: that of xdist does nothing but wait
        address = arbitrary_address("AF_UNIX")
        listener.bind(address)
        listener.listen()
        alive, ours = os.pipe()
        pid = os.fork()
        if pid == 0:
            _serve(listener.fileno(), alive)
        os.close(alive)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, ours, pid


def _serve(listener: int, alive: int) -> NoReturn:
    """What a fork server does, in a process that was forked from that of the tests and keeps nothing of it open."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor not in (listener, alive):
                os.dup2(null, descriptor)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        for handler in (reference() for reference in logging._handlerList):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setStream(sys.stderr)  # torch's, for one, writes to the stream of when it was loaded
        logging.getLogger().handlers.clear()
        logging.getLogger().setLevel(logging.WARNING)
        forkserver.main(listener, alive, LOADED)
    finally:
        os._exit(0)


class Fork(ForkServerProcess):
    """A forked process with the variables of this one, as a spawned one has."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._variables = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._variables)
        super().run()


def _main_of(command: Sequence[str], variables: dict[str, str], streams: Sequence[Connection]) -> None:
    """What `python -m` does, in a process that was forked; its own children come from the same server."""
    forkserver._forkserver.ensure_running = lambda: None
    for descriptor, stream in enumerate(streams):
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = list(command)
    os.environ.clear()
    os.environ.update(variables)
    importlib.import_module(command[0]).main()


class ForkedPopen:
    """What `subprocess.Popen([sys.executable, "-m", MODULE, ...], ...)` starts, as a fork that calls its `main`."""

    def __init__(self, command: Sequence[str], *, stdin: int, stdout: IO[bytes], stderr: IO[bytes], env: dict) -> None:
        assert (*command[:2], stdin) == (sys.executable, "-m", subprocess.PIPE)
        reader, writer = os.pipe()
        self.stdin = os.fdopen(writer, "wb")
        # a connection is a descriptor that can be sent to another process
        streams = [Connection(descriptor) for descriptor in (reader, os.dup(stdout.fileno()), os.dup(stderr.fileno()))]
        self._process = FORKS.Process(target=_main_of, args=(command[2:], env, streams))
        self._process.start()
        for stream in streams:
            stream.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()


def fork_workers(patch: pytest.MonkeyPatch) -> None:
    """Have the package fork the processes that it otherwise starts, of training and of players."""
    forked = SimpleNamespace(Popen=ForkedPopen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    patch.setattr("zerosearch_agents.processes.workers.subprocess", forked)
    contexts = SimpleNamespace(
        get_context=lambda method: {"spawn": SimpleNamespace(Pipe=FORKS.Pipe, Process=Fork)}[method]
    )
    patch.setattr("zerosearch_agents.processes.pool.multiprocessing", contexts)
