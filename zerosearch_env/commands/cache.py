"""`zerosearch cache [stats | clear] [FILE]`: show or clear the cached search indexes, or a file of cached searches."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..engines.cache import ResultCache
from ..engines.indexes.cache import CachedIndex, cache_folder, cached_indexes, clear_indexes
from ..engines.indexes.folder import MANIFEST_FILE
from ..errors import CacheError
from .dispatch import Subcommand, group_help, run_command


@dataclass(frozen=True)
class StatsConfig:
    """Show the search indexes in the cache folder, or describe a file of cached searches."""

    file: tyro.conf.Positional[Path | None] = None
    """The cache file, as given in an engine's option `cache`. None: the cache folder."""


@dataclass(frozen=True)
class ClearConfig:
    """Delete the search indexes in the cache folder, or all entries of a file of cached searches."""

    file: tyro.conf.Positional[Path | None] = None
    """The cache file, as given in an engine's option `cache`. None: the cache folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch cache`; without arguments it shows the cache folder.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code 0.

    Raises:
        CacheError: the file is missing or cannot be used.
        OSError: an index cannot be deleted.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command("command of `zerosearch cache`", COMMANDS, help_text, argv or ["stats"])


def help_text() -> str:
    """The text of `zerosearch cache --help`."""
    return group_help("zerosearch cache", "COMMAND", COMMANDS)


def stats(config: StatsConfig) -> int:
    """Run `zerosearch cache stats`.

    Raises:
        CacheError: the file is missing or cannot be used.
    """
    if config.file is None:
        indexes = cached_indexes()
        total = sum(index.bytes for index in indexes)
        print(f"{cache_folder()}: {_counted(indexes)}, {total / 1e6:,.1f} MB")
        for index in indexes:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(index.used))
            print(
                f"  {index.folder.name[:12]}  {index.bytes / 1e6:,.1f} MB, {_passages(index.folder)}, last used {used}"
            )
        return 0
    with _open(config.file) as cache:
        contents = cache.describe()
        print(f"{contents.entries} entries, {contents.bytes:,} bytes" + (", read-only" if cache.read_only else ""))
        for engine, count in contents.by_engine.items():
            print(f"  {engine}: {count}")
    return 0


def _counted(indexes: Sequence[CachedIndex]) -> str:
    return f"{len(indexes)} search index{'' if len(indexes) == 1 else 'es'}"


def _passages(entry: Path) -> str:
    try:
        return f"{json.loads((entry / 'index' / MANIFEST_FILE).read_text('utf-8'))['passages']:,} passages"
    except (OSError, ValueError, KeyError, TypeError):
        return "unfinished"


def clear(config: ClearConfig) -> int:
    """Run `zerosearch cache clear`.

    Raises:
        CacheError: the file is missing or cannot be used.
        OSError: an index cannot be deleted.
    """
    if config.file is None:
        removed, busy = clear_indexes()
        print(f"{_counted(removed)} deleted, {sum(index.bytes for index in removed) / 1e6:,.1f} MB")
        if busy:
            print(f"{len(busy)} stay, because another process is building them")
        return 0
    with _open(config.file) as cache:
        print(f"{cache.clear()} entries deleted")
    return 0


def _open(file: Path) -> ResultCache:
    if not file.expanduser().is_file():
        raise CacheError(f"there is no cache at {file}")
    return ResultCache(file)


COMMANDS = {
    "stats": Subcommand("zerosearch cache", StatsConfig, stats),
    "clear": Subcommand("zerosearch cache", ClearConfig, clear),
}
"""The commands of `zerosearch cache`."""
