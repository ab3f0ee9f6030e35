"""Commands in two processes, as torchrun starts them; the test is one of them, so torch is loaded only once more."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys

import pytest

from zerosearch_env.cli import COMMANDS


def run_in_two(*arguments: str) -> str:
    """Run `zerosearch ARGUMENTS` in this process and one more; return what both print."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    child = subprocess.Popen(
        [sys.executable, "-m", "zerosearch_env.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **group, "RANK": "1", "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    printed = io.StringIO()
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            for name, value in {**group, "RANK": "0", "LOCAL_RANK": "0"}.items():
                patch.setenv(name, value)
            command, *options = arguments  # under torchrun `cli.main` would end the process
            assert COMMANDS[command].load(command)(options) == 0
        out, err = child.communicate(timeout=300)
    finally:
        child.kill()
    assert child.returncode == 0, err
    return printed.getvalue() + out
