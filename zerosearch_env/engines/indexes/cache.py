"""The cache folder of this package: search indexes that were built for an environment, kept for the next one.

The folder is `ZEROSEARCH_CACHE`, else that of the platform (`~/.cache/zerosearch-env` on Linux). Each index has a
folder in `indexes/`, named after a hash of the passages and options that it was built from:

    indexes/5f2c.../.lock      held by the process that builds or removes the index
    indexes/5f2c.../index/     the index

When the indexes together exceed `MOST_BYTES`, those that were not used for the longest time are removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, DataError
from ...locks import locked

MOST_BYTES = 20_000_000_000
"""Size that the indexes in the cache folder may have together; the newest one is kept in any case."""
_IN_USE_S = 3600.0
"""An index that was opened less than this ago is not removed to save space: another process may be opening it."""

_BUILDING = threading.Lock()
"""Held by the thread that builds an index: the lock on a folder does not keep threads of one process apart."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedIndex:
    """An entry of the cache folder."""

    folder: Path
    bytes: int
    used: float
    """When it was last opened, in seconds since the epoch."""


def cache_folder() -> Path:
    """The cache folder; it need not exist."""
    named = os.environ.get("ZEROSEARCH_CACHE")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("zerosearch-env", appauthor=False))


def cached_index(key: str, check: Callable[[Path], object], build: Callable[[Path], object]) -> Path | None:
    """The folder of an index in the cache, which is built first if it is not there.

    If another process is building the same index, this one waits for it.

    Args:
        key: a name for what the index is built from, such as a hash.
        check: called with the folder; raises `DataError` if it holds no index or a damaged one.
        build: called with the folder; writes the index.

    Returns:
        The folder; None, after a warning, if the cache folder cannot be written.
    """
    entry = cache_folder() / "indexes" / key
    folder = entry / "index"
    try:
        if not _is_good(folder, check):
            with _BUILDING, locked(entry, waiting=_waiting):
                if not _is_good(folder, check):
                    shutil.rmtree(folder, ignore_errors=True)
                    build(folder)
            _remove_oldest(entry)
    except OSError as cause:
        _logger.warning("the index is built again in every process: %s cannot be written (%s)", entry.parent, cause)
        return None
    with contextlib.suppress(OSError):
        os.utime(entry)
    return folder


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show on standard error what is being built, and how far it is: yields `progress(stage, done, total)`."""
    from rich.console import Console

    from ...progress import stage_bars

    console = Console(stderr=True)
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    with stage_bars(console) as progress:
        yield progress


def _waiting() -> None:
    with show_progress("waiting for another process that is building the same search index"):
        pass


def _is_good(folder: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(folder)
    except DataError:
        return False
    return True


def cached_indexes() -> list[CachedIndex]:
    """The indexes in the cache folder, the one used last first."""
    root = cache_folder() / "indexes"
    entries = []
    for entry in root.iterdir() if root.is_dir() else ():
        with contextlib.suppress(OSError):  # removed by another process in the meantime
            size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            entries.append(CachedIndex(entry, size, entry.stat().st_mtime))
    return sorted(entries, key=lambda entry: entry.used, reverse=True)


def clear_indexes() -> tuple[list[CachedIndex], list[CachedIndex]]:
    """Remove all indexes from the cache folder; programs that have one open can go on using it.

    Returns:
        The indexes that were removed, and those that are being built and therefore stay.

    Raises:
        OSError: an index cannot be removed.
    """
    removed: list[CachedIndex] = []
    busy: list[CachedIndex] = []
    for entry in cached_indexes():
        (removed if _remove(entry.folder) else busy).append(entry)
    return removed, busy


def _remove(entry: Path) -> bool:
    try:
        with locked(entry):
            shutil.rmtree(entry)
    except ConfigError:  # another process holds it
        return False
    return True


def _remove_oldest(newest: Path) -> None:
    total, now = 0, time.time()
    for entry in cached_indexes():
        total += entry.bytes
        if total > MOST_BYTES and entry.folder != newest and now - entry.used > _IN_USE_S:
            with contextlib.suppress(OSError):
                total -= entry.bytes * _remove(entry.folder)
