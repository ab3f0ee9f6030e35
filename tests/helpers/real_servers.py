"""Real servers in processes of their own, over the tiny simulation LLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A server process; its command must have `{port}` somewhere. What it prints goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait_s: float = 300.0) -> None:
        """Start it, and wait until it answers."""
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env={**os.environ, **quiet}, stdout=log, stderr=log)
        ends = time.monotonic() + wait_s
        while time.monotonic() < ends:
            status = self._process.poll()
            assert status is None, f"the server ended with {status}:\n{self._log.read_text('utf-8', 'replace')[-3000:]}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError(f"the server did not answer in {wait_s:g} s: {self._command}")

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it, as a crash would unless another signal is named."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


@contextmanager
def serving(command: Sequence[str], log: Path, *, end_with: int = signal.SIGKILL) -> Iterator[Server]:
    server = Server(command, log)
    try:
        server.start()
        yield server
    finally:
        server.stop(end_with)
