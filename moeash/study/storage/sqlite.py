"""What SQLite needs that PostgreSQL does not."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from moeash.errors import StorageError


def database_of(url: URL) -> Path:
    """Return the SQLite file of a URL: absolute and without links, so that a lock is one lock.

    Raises:
        StorageError: it is another kind of database, in memory, or in a folder that is not there.
    """
    if url.get_backend_name() != "sqlite":
        raise StorageError(
            f"storage {url.render_as_string(hide_password=True)!r} is not supported; "
            "use a path to an SQLite file, sqlite:///PATH or postgresql+psycopg://"
        )
    if not url.database or url.database == ":memory:":
        raise StorageError("storage in memory would forget the study; name a file")
    path = Path(url.database).resolve()
    if not path.parent.is_dir():
        raise StorageError(
            f"the folder {path.parent} of the database does not exist; create it first"
        )
    return path


def sqlite_engine(database: Path, busy_timeout_s: float) -> Engine:
    """Return an engine for an SQLite file in WAL mode; every commit reaches the disk."""
    url = URL.create("sqlite", database=str(database))
    # One short connection a transaction: safe across threads and forks, and cheap on SQLite.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": busy_timeout_s})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves
        cursor = connection.cursor()
        _use_wal(cursor, busy_timeout_s)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get("moeash_durable", True):
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")  # of this connection alone
        # A read lock becomes a write lock only with luck; who will write says so at once.
        writes = options.get("moeash_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


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
