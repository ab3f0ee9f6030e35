"""`CachedEngine`: base class of the engines that ask a model or a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..types import Document
from .base import BatchedEngine
from .cache import ResultCache
from .stats import Counters, Stats

Argument = TypeVar("Argument")
Value = TypeVar("Value")


class CachedEngine(BatchedEngine):
    """Counts what an engine does, and stores documents if it has a cache.

    Args:
        name: name of the engine in results and in the cache.
        cache: a path, or an open cache; None turns caching off.

    Raises:
        CacheError: the cache cannot be opened.
    """

    def __init__(self, name: str, cache: ResultCache | str | None) -> None:
        super().__init__()
        self._name = name
        self._cache = ResultCache(cache) if isinstance(cache, str) else cache
        self._counters = Counters()

    def close(self) -> None:
        """Close the cache. Calling it twice is fine."""
        super().close()
        if self._cache is not None:
            self._cache.close()

    def _snapshot(self, kind: type[Stats]) -> Stats:
        return self._counters.snapshot(kind, cache_errors=0 if self._cache is None else self._cache.errors)

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Document, ...]]:
        """The stored documents by key; keys without documents are left out."""
        hits = self._stored(keys)
        if self._cache is not None:
            self._counters.add(cache_hits=len(hits), cache_misses=len(keys) - len(hits))
        return hits

    def _stored(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Document, ...]]:
        """`_look_up` without counting."""
        return {} if self._cache is None else self._cache.get_many(keys, self._name)

    def _store(self, entries: Mapping[bytes, Sequence[Document]]) -> None:
        if self._cache is not None:
            self._cache.put_many(self._name, entries)

    async def _off_loop(self, function: Callable[[Argument], Value], argument: Argument) -> Value:
        """Call a function that uses the cache, in a thread if there is one: reading the file would block the loop."""
        return function(argument) if self._cache is None else await asyncio.to_thread(function, argument)
