"""`zerosearch cache`: describe a file of cached searches, or empty it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engines.cache import ResultCache
from ..errors import CacheError


def main(argv: list[str] | None = None) -> int:
    """Run `zerosearch cache stats FILE` or `zerosearch cache clear FILE`.

    Raises:
        CacheError: the file is missing or cannot be used.
    """
    parser = argparse.ArgumentParser(prog="zerosearch cache", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=["stats", "clear"], help="describe the file, or delete all its entries")
    parser.add_argument("file", type=Path, help="the cache file, as given in an engine's option `cache`")
    arguments = parser.parse_args(argv)
    if not arguments.file.expanduser().is_file():
        raise CacheError(f"there is no cache at {arguments.file}")
    with ResultCache(arguments.file) as cache:
        if arguments.action == "clear":
            print(f"{cache.clear()} entries deleted")
            return 0
        contents = cache.describe()
        print(f"{contents.entries} entries, {contents.bytes:,} bytes" + (", read-only" if cache.read_only else ""))
        for engine, count in contents.by_engine.items():
            print(f"  {engine}: {count}")
        return 0
