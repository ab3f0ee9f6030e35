"""A lock on an output folder, so that two processes never write the same run.

The lock is the operating system's (`flock`) on the file `.lock` in the folder: it ends with the process that holds it,
even by `kill -9`, so the lock of a dead process needs no clean-up. The file also says who holds it, for the message.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: outputs are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"

_HELD: Counter[Path] = Counter()
"""Folders locked by this process, with the number of blocks that hold them."""
_FILES: dict[Path, int] = {}
"""The descriptor of the lock file of each of these folders."""
_HELD_LOCK = threading.Lock()


_PAUSE_S = 0.2
"""Seconds between two attempts to get a lock."""


@contextlib.contextmanager
def locked(folder: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock on a folder, which is created if missing. A process may enter again what it holds already.

    Args:
        folder: the folder.
        waiting: called once before waiting for another process that holds the lock. None: an error is raised instead.

    Raises:
        ConfigError: another process holds it; the message names it.
        OSError: the lock file cannot be written.
    """
    folder = folder.expanduser().resolve()
    if not _enter(folder, wait=waiting is not None):
        if waiting is not None:
            waiting()
        while not _enter(folder, wait=True):
            time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        with _HELD_LOCK:
            _HELD[folder] -= 1
            if not _HELD[folder]:
                os.close(_FILES.pop(folder))


def _enter(folder: Path, *, wait: bool) -> bool:
    """Take the lock, or count one more block that holds it. False if another process holds it and `wait` is set."""
    with _HELD_LOCK:
        if not _HELD[folder]:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                _FILES[folder] = _take(folder)
            except ConfigError:
                if not wait:
                    raise
                return False
        _HELD[folder] += 1
        return True


def _take(folder: Path) -> int:
    """Open and lock the file; returns the descriptor, whose end releases the lock."""
    file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        owner = os.pread(file, 200, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(file)
        raise ConfigError(
            f"{folder} is in use by {owner}: wait until it ends, stop it, or choose another --output"
        ) from cause
    except OSError:  # a file system without locks
        return file
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    return file
