"""Commands in two processes, as torchrun starts them; the test is one of them, and torch is loaded once for the other.

The second process of every call is forked.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from forks import FORKS

from zerosearch_env.cli import COMMANDS, main


def second(variables: dict[str, str], output: str, errors: str, arguments: tuple[str, ...]) -> None:
    """What the second process does: the command, with its streams in two files."""
    for descriptor, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    os.environ.update(variables)
    sys.exit(main(list(arguments)))


def run_in_two(*arguments: str) -> str:
    """Run `zerosearch ARGUMENTS` in this process and one more; return what both print."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    printed = io.StringIO()
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **group, "RANK": "1", "LOCAL_RANK": "1"}
        child = FORKS.Process(target=second, args=(variables, output.name, errors.name, arguments), daemon=True)
        child.start()
        try:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
                for name, value in {**group, "RANK": "0", "LOCAL_RANK": "0"}.items():
                    patch.setenv(name, value)
                command, *options = arguments  # under torchrun `cli.main` would end the process
                assert COMMANDS[command].load(command)(options) == 0
            child.join(300)
        finally:
            child.kill()
        assert child.exitcode == 0, Path(errors.name).read_text()
        return printed.getvalue() + Path(output.name).read_text()
