"""The lock on an output folder: one process at a time, and a dead owner leaves no lock."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from zerosearch_env.errors import ConfigError
from zerosearch_env.locks import locked


def hold(folder: Path, connection: Connection) -> None:
    with locked(folder):
        connection.send("held")
        connection.recv()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[multiprocessing.Process]:
    """Another process that holds the lock on `tmp_path / "run"`."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "run", theirs), daemon=True)
    process.start()
    assert ours.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_another_process_is_refused_until_the_owner_is_dead(tmp_path: Path, owner: multiprocessing.Process) -> None:
    with pytest.raises(ConfigError, match=rf"run is in use by process {owner.pid} on .*choose another --output"):
        locked(tmp_path / "run").__enter__()
    with locked(tmp_path / "other"):
        pass
    os.kill(owner.pid or 0, signal.SIGKILL)
    owner.join()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_waiting_ends_when_the_owner_is_dead(tmp_path: Path, owner: multiprocessing.Process) -> None:
    threading.Timer(0.05, os.kill, (owner.pid, signal.SIGKILL)).start()
    waits: list[bool] = []
    with locked(tmp_path / "run", waiting=lambda: waits.append(True)):
        assert waits == [True]
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_process_may_enter_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path), locked(tmp_path / "x" / ".."):
            assert (tmp_path / ".lock").is_file()
