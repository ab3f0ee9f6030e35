"""`zerosearch cache stats | clear`: describe a file of cached searches, or empty it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..engines.cache import ResultCache
from ..errors import CacheError
from .dispatch import Subcommand, group_help, run_command


@dataclass(frozen=True)
class StatsConfig:
    """Describe a file of cached searches."""

    file: tyro.conf.Positional[Path]
    """The cache file, as given in an engine's option `cache`."""


@dataclass(frozen=True)
class ClearConfig:
    """Delete all entries of a file of cached searches."""

    file: tyro.conf.Positional[Path]
    """The cache file, as given in an engine's option `cache`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch cache`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code 0.

    Raises:
        CacheError: the file is missing or cannot be used.
    """
    return run_command("command of `zerosearch cache`", COMMANDS, help_text, sys.argv[1:] if argv is None else argv)


def help_text() -> str:
    """The text of `zerosearch cache --help`."""
    return group_help("zerosearch cache", "COMMAND", COMMANDS)


def stats(config: StatsConfig) -> int:
    """Run `zerosearch cache stats`.

    Raises:
        CacheError: the file is missing or cannot be used.
    """
    with _open(config.file) as cache:
        contents = cache.describe()
        print(f"{contents.entries} entries, {contents.bytes:,} bytes" + (", read-only" if cache.read_only else ""))
        for engine, count in contents.by_engine.items():
            print(f"  {engine}: {count}")
    return 0


def clear(config: ClearConfig) -> int:
    """Run `zerosearch cache clear`.

    Raises:
        CacheError: the file is missing or cannot be used.
    """
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
