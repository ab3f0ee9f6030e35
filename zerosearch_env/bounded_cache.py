"""A thread-safe cache that keeps the most recently used entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")


Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """An LRU cache with at most `size` entries. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value stored under a key, or None."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: Key, value: Value) -> None:
        """Store a value. When the cache is full, the least recently used entry is dropped."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process starts empty."""
        return type(self), (self._size,)

    def __len__(self) -> int:
        return len(self._entries)
