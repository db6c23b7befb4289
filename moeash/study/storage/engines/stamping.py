"""Whether anything was stored in an SQLite file since, told in microseconds."""

import os
import sqlite3
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Generic, TypeVar

from moeash.study.storage.engines.sqlite import may_be_written

Stamp = tuple[int, int, int, int]
"""The connection that looked, the file that it has open, and the version of its contents."""


V = TypeVar("V")


class Recent(Generic[V]):
    """What was read from a database, known until something is stored. Threads may share it.

    Args:
        most: values that are known at a time; the oldest go first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[Hashable, tuple[Stamp, V]] = {}

    def get(self, key: Hashable, stamp: Stamp | None) -> V | None:
        """Return what was kept under a key, if the database is as it was then."""
        known = self._known.get(key)
        return known[1] if known is not None and known[0] == stamp else None

    def keep(self, key: Hashable, stamp: Stamp | None, value: V) -> None:
        """Keep what was read after a stamp was taken; nothing where nobody can tell."""
        if stamp is not None:
            self._known[key] = stamp, value
        for other in list(self._known)[: -self._most]:
            self._known.pop(other, None)


class Watch:
    """Keeps one connection open, which never writes. Threads may share it; forks may not.

    SQLite counts for a connection what others commit, and so sees every commit here.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._alone = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._owner = (0, 0, 0)

    def stamp(self) -> Stamp | None:
        """Return a value that is another one after every commit; None where nobody can tell.

        Versions of two connections say nothing to one another, so each has a number of its own.
        """
        with self._alone:
            try:
                found = self._database.stat()
                owner = (os.getpid(), found.st_dev, found.st_ino)
                if self._connection is None or owner != self._owner:
                    if not may_be_written(self._database):  # how it is read depends on who writes
                        return None
                    self._connection = sqlite3.connect(
                        self._database, check_same_thread=False, isolation_level=None
                    )
                    self._opened, self._owner = self._opened + 1, owner
                (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            except (OSError, sqlite3.Error):
                self._connection = None
                return None
            return self._opened, owner[1], owner[2], int(version)

    def close(self) -> None:
        """Let go of the file."""
        with self._alone:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
