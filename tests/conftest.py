"""Shared by all tests: one thread, no network, steady hypothesis, and the folder of real data."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# What is imported stays: the collector need not look through it, neither now nor (`freeze`) while tests run.
gc.disable()

for _variable, _value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_variable, _value)

# A shell has its background jobs ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CI draws the same examples every time: a red run can be repeated. No deadline: the cores are shared.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests of real servers out unless `-m` asks for them.

    An `-m` in pyproject.toml would do the same, but a second `-m` on the command line would replace it.
    """
    if "servers" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("servers")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("servers")]


def pytest_collection_finish() -> None:
    """Collect garbage again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Start the server of processes before the first test, if a test needs it."""
    if "forks" in sys.modules:
        sys.modules["forks"].start_server()


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """A test that leaves this machine fails; loopback and Unix sockets stay open."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests run offline, and this one connects to {address!r}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes that tests build are not kept in the cache folder of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZEROSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real questions and passages; tests that need it are skipped where it is absent."""
    folder = os.environ.get("ZEROSEARCH_SHARED_DATA")
    if not folder:
        pytest.skip("real data is not at hand: set ZEROSEARCH_SHARED_DATA to its folder")
    if not Path(folder).is_dir():
        pytest.fail(f"ZEROSEARCH_SHARED_DATA names {folder}, which is not a folder")
    return Path(folder)
