"""`ResultCache`: documents in a SQLite file that many processes can share and that survives a killed process.

The file is in WAL mode: readers do not wait for the writer, and after a crash the file holds everything up to the last
commit. Opening an unusable file raises `CacheError`. Later failures (a lock that is held too long, an unreadable page)
never fail a search: a failed look-up is a miss, a failed write is skipped, and both are counted. A file without write
permission is opened read-only.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import CacheError, sentence
from ..identity import package_version, text_hash
from ..types import Document, Json

_log = logging.getLogger(__name__)
_SCHEMA_VERSION = 1
_APPLICATION = 0x5A53_4331  # "ZSC1", in the file's header
_CHUNK = 500
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, engine TEXT NOT NULL, documents TEXT NOT NULL) "
    "WITHOUT ROWID"
)


def cache_key(*parts: Json) -> bytes:
    """A key for JSON values, which may contain lone surrogates, and this package's version.

    The version takes part because the code of this package has made the documents: it parsed a server's answer, or
    wrote a model's prompt and checked what came back. The answers themselves are not stored.
    """
    return bytes.fromhex(text_hash(json.dumps([package_version(), *parts], separators=(",", ":"))))


@dataclass(frozen=True, slots=True)
class CacheFile:
    """The report of `zerosearch cache stats` on a file."""

    entries: int
    bytes: int
    by_engine: Mapping[str, int]


class ResultCache:
    """Lists of documents by key.

    Args:
        path: the file; it and its folder are created if missing.
        timeout_s: how long a look-up or a write waits for a lock, in seconds.

    Raises:
        CacheError: the file is not a cache, is broken, is locked for longer than `timeout_s`, or cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float = 5.0) -> None:
        self.path = Path(path).expanduser()
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = -1
        self._closed = False
        self.read_only = False
        self.errors = 0
        """Look-ups and writes that failed since this object was created."""
        with self._lock:
            self._connect()

    def get_many(self, keys: Sequence[bytes], source: str = "") -> dict[bytes, tuple[Document, ...]]:
        """Look up keys; the result holds only those found. Documents stored without a source get `source`."""
        rows: list[tuple[bytes, str]] = []
        if self._closed:
            return {}
        try:
            with self._lock:
                connection = self._connect()
                for start in range(0, len(keys), _CHUNK):
                    chunk = keys[start : start + _CHUNK]
                    marks = ",".join("?" * len(chunk))
                    rows += connection.execute(f"SELECT key, documents FROM results WHERE key IN ({marks})", chunk)
            return {key: tuple(_document(row, source) for row in json.loads(stored)) for key, stored in rows}
        except (sqlite3.Error, CacheError, ValueError, TypeError) as cause:
            self._failed("read", cause)
            return {}

    def put_many(self, engine: str, entries: Mapping[bytes, Sequence[Document]]) -> None:
        """Store documents in one transaction. Existing entries are not changed.

        A source equal to the engine's name is not stored. A read-only or closed cache stores nothing.
        """
        if self.read_only or self._closed or not entries:
            return
        rows = [
            (key, engine, json.dumps([_row(document, engine) for document in documents]))
            for key, documents in entries.items()
        ]
        try:
            with self._lock, self._connect() as connection:
                connection.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", rows)
        except (sqlite3.Error, CacheError) as cause:
            self._failed("write", cause)

    def describe(self) -> CacheFile:
        """Count the entries per engine and measure the size of the file.

        Raises:
            CacheError: the file cannot be read.
        """
        try:
            with self._lock:
                counted = self._connect().execute("SELECT engine, COUNT(*) FROM results GROUP BY engine").fetchall()
        except sqlite3.Error as cause:
            raise self._unusable(cause) from cause
        files = [self.path, *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))]
        size = sum(file.stat().st_size for file in files if file.exists())
        return CacheFile(sum(count for _, count in counted), size, dict(sorted(counted)))

    def clear(self) -> int:
        """Delete all entries and release the disk space.

        Returns:
            The number of deleted entries.

        Raises:
            CacheError: the file cannot be written.
        """
        if self.read_only:
            raise CacheError(f"the cache {self.path} cannot be written: it is read-only")
        try:
            with self._lock:
                connection = self._connect()
                with connection:
                    count = connection.execute("DELETE FROM results").rowcount
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as cause:
            raise self._unusable(cause) from cause
        return count

    def close(self) -> None:
        """Close the file. Calling it twice is fine; later look-ups find nothing."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock and the connection: a copy opens the file again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_connection")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the lock; the copy opens its own connection when it is first used."""
        self.__dict__ |= state
        self._lock = threading.Lock()
        self._connection, self._pid, self.errors = None, -1, 0

    def _connect(self) -> sqlite3.Connection:
        """The connection of this process; SQLite forbids the use of a connection inherited through a fork."""
        if self._closed:
            raise CacheError(f"the cache {self.path} is closed")
        if self._connection is None or self._pid != os.getpid():
            try:
                self._connection = self._open()
            except (sqlite3.Error, OSError) as cause:
                raise self._unusable(cause) from cause
            self._pid = os.getpid()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        exists = self.path.exists() and self.path.stat().st_size > 0
        self.read_only = exists and not os.access(self.path, os.W_OK)
        if not exists:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite creates files next to a WAL database. If the folder is read-only, open the file as immutable.
        frozen = self.read_only and not os.access(self.path.parent, os.W_OK)
        mode = ("mode=ro&immutable=1" if frozen else "mode=ro") if self.read_only else "mode=rwc"
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=self._timeout_s, check_same_thread=False)
        try:
            if not self.read_only:
                self._prepare(connection, exists)
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if (application, version) != (_APPLICATION, _SCHEMA_VERSION):
                raise sqlite3.DatabaseError("it is a database of something else, or of another version of this package")
            connection.execute("SELECT key, engine, documents FROM results LIMIT 1").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, exists: bool) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            fresh = not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            if fresh:
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA application_id={_APPLICATION}")
                connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        if fresh or not exists:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()

    def _failed(self, what: str, cause: Exception) -> None:
        self.errors += 1
        if self.errors in (1, 10, 100, 1000):
            _log.warning("the cache %s could not %s (failure %d): %s", self.path, what, self.errors, cause)

    def _unusable(self, cause: Exception) -> CacheError:
        return CacheError(
            f"the cache {self.path} cannot be used: {sentence(cause)} Give another path, wait for the process "
            "that holds it, or delete the file if it is broken."
        )


def _row(document: Document, engine: str) -> list[Any]:
    """`[title, text]` for a document written by a model, `[title, text, source, score]` for a retrieved document."""
    short = [document.title, document.text]
    plain = document.source == engine and document.score is None
    return short if plain else [*short, document.source, document.score]


def _document(row: Sequence[Any], source: str) -> Document:
    title, text, *details = row
    return Document(title, text, *(details or (source,)))
