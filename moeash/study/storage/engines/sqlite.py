"""What SQLite needs that PostgreSQL does not."""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from moeash.core.plain import json_text
from moeash.errors import StorageError
from moeash.study.storage.engines.urls import without_password

T = TypeVar("T")

LONGEST_ENDING = "-01234567.lock"
"""Longest ending of a file that lies beside a database and is named like it."""

RACES = 5
"""How often a reader who may not write begins anew when a writer came in between."""


def path_of(url: URL, written: str) -> Path:
    """Return the SQLite file of a URL, as :func:`database_at` does.

    Args:
        url: as it was understood.
        written: as it was given.

    Raises:
        StorageError: it is another kind of database, or has options.
    """
    shown = without_password(written)
    if url.get_backend_name() != "sqlite":
        raise StorageError(
            f"storage {shown!r} is not supported; "
            "use a path to an SQLite file, sqlite:///PATH or postgresql+psycopg://"
        )
    if "?" in written:  # also where what follows is no option and would be left out
        raise StorageError(
            f"storage {shown!r} has options, which an SQLite file takes none of; where the ? "
            "belongs to the file's name, give its path instead of a URL"
        )
    return database_at(url.database or "")


def database_at(path: str) -> Path:
    """Return an SQLite file's path: absolute and without links, so that a lock is one lock.

    Raises:
        StorageError: it is in memory, no path, or in a folder that is not there.
    """
    if not path or path == ":memory:":
        raise StorageError("storage in memory would forget the study; name a file")
    try:
        resolved = Path(path).resolve()
        is_there = resolved.parent.is_dir()
        is_other = resolved.exists() and not resolved.is_file()
        # Names beside it are longer; one that is too long is refused here.
        _beside(resolved, LONGEST_ENDING).exists()
    except (OSError, ValueError, RuntimeError) as error:  # a null character, a loop of links
        raise StorageError(
            f"{path!r} cannot be a database: {error}; check the path and the permissions of its "
            "folders"
        ) from error
    if is_other:
        raise StorageError(
            f"{path!r} cannot be a database: it is a folder, a device or a pipe; choose the name "
            "of a file"
        )
    if not is_there:
        raise StorageError(
            f"the folder {resolved.parent} of the database does not exist; create it first"
        )
    return resolved


def may_be_written(database: Path) -> bool:
    """Tell whether this process may write a database that exists, and files beside it."""
    return os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)


def sqlite_engine(database: Path, busy_timeout_s: float) -> Engine:
    """Return an engine for an SQLite file in WAL mode; every commit reaches the disk.

    Where the file or its folder may not be written, it is opened for reading: then SQLite cannot
    make the log and its index that every reader of a WAL database needs.
    """
    was_there = False

    def connect() -> sqlite3.Connection:
        nonlocal was_there
        is_there = database.exists()
        if was_there and not is_there:  # else SQLite would make another, which is empty
            raise StorageError(
                f"database {database} is gone: it was deleted or moved while it was in use; put it "
                f"back, with {database.name}-wal if there is one, and run again"
            )
        was_there = True
        if not is_there or may_be_written(database):
            connection = sqlite3.connect(database, timeout=busy_timeout_s, isolation_level=None)
            _configure(connection, busy_timeout_s)
            return connection
        return _open_to_read(database, busy_timeout_s)

    # One short connection a transaction: safe across threads and forks, and cheap on SQLite.
    engine = create_engine(
        "sqlite://", creator=connect, poolclass=NullPool, json_serializer=json_text
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get("moeash_durable", True):
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")  # of this connection alone
        # A read lock becomes a write lock only with luck; who will write says so at once.
        writes = options.get("moeash_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _configure(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    cursor = connection.cursor()
    _use_wal(cursor, busy_timeout_s)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _open_to_read(database: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open a database that may not be written.

    While somebody writes, or was killed writing, the log and its index lie beside the file, and
    SQLite reads both without writing. Where there is no log, the file is all there is, and is
    opened as one that never changes: nothing is locked, and nothing made beside it. A writer who
    begins in that very moment could change it under a reader, so whoever reads looks again
    afterwards; see :func:`undisturbed`.
    """
    log, index = _beside(database, "-wal"), _beside(database, "-shm")
    mode = "mode=ro"
    if not _has_log(database):
        mode = "mode=ro&immutable=1"
    elif not index.exists():
        raise StorageError(
            f"database {database}: its log {log.name} cannot be read where nothing may be written; "
            "copy the two to a folder of your own and open it there"
        )
    return sqlite3.connect(
        f"{database.as_uri()}?{mode}", uri=True, timeout=busy_timeout_s, isolation_level=None
    )


def has_no_bytes(database: Path) -> bool:
    """Tell whether nothing was ever stored: what is new lies in the log beside the file first."""
    return database.is_file() and database.stat().st_size == 0 and not _has_log(database)


def undisturbed(database: Path, read: Callable[[], T]) -> T:
    """Return what ``read`` returns, calling it again where a writer began meanwhile."""
    for _ in range(RACES):
        before = _snapshot(database)
        try:
            result = read()
        except SQLAlchemyError:
            if before == _snapshot(database):
                raise
        else:
            if before == _snapshot(database):
                return result
    return read()


def _snapshot(database: Path) -> tuple[int, ...] | None:
    """Return what tells states of a database apart; None where SQLite itself keeps them apart."""
    if not database.exists() or may_be_written(database) or _has_log(database):
        return None
    found = database.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _has_log(database: Path) -> bool:
    # An empty log is left where a log was folded into the database.
    log = _beside(database, "-wal")
    return log.exists() and log.stat().st_size > 0


def _beside(database: Path, ending: str) -> Path:
    return database.with_name(f"{database.name}{ending}")


def _use_wal(cursor: sqlite3.Cursor, busy_timeout_s: float) -> None:
    """Switch to WAL; who does it first needs the database alone, and SQLite does not wait for it.

    Raises:
        sqlite3.OperationalError: somebody else held the database all the time.
    """
    end = time.monotonic() + busy_timeout_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
