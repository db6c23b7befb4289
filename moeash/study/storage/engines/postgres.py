"""What PostgreSQL needs that SQLite does not: a pool of connections, and a lock that is not a file.

A study on a cluster is read by people on other machines and survives the loss of the one that runs
it, so its database is a server's.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from moeash.core.plain import json_text
from moeash.errors import StorageError, StudyLockedError
from moeash.study.storage.engines.fence import Fence
from moeash.study.storage.engines.lock import this_process

SCHEMA_KEY = 0x6D6F65617368  # "moeash": held while the schema is created or upgraded
LAUNCHES_KEY = SCHEMA_KEY + 1  # held while it is decided what starts
CONNECT_TIMEOUT_S = 10
GHOST_S = 10.0  # how long the server may take to end a connection of ours that was lost
UNKNOWN = "another process"

_SERVER_STOPS = {
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now: it is starting
    "53300",  # too_many_connections
}

_LETS_IN_LATER = ("starting up", "shutting down", "recovery", "too many", "connection slots")

_TAKEN_LATER = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available: of a lock_timeout
    "57014",  # query_canceled: of a statement_timeout, or by somebody who tidies up
    "25006",  # read_only_sql_transaction: a standby that is becoming the server
}

_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_OUR_PROCESS = text("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
_LOCKS = (
    "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_LOCK_KEY = "(l.classid::bigint << 32 | l.objid::bigint)"
_END_GHOST = text(
    f"SELECT pg_terminate_backend(l.pid) {_LOCKS} AND {_LOCK_KEY} = :key "
    "AND l.pid = :pid AND a.backend_start = :backend_start"
)


def postgres_engine(url: URL) -> Engine:
    """Return an engine for a PostgreSQL server.

    Raises:
        StorageError: psycopg is missing, or another driver is asked for.
    """
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername != "postgresql+psycopg":
        raise StorageError(
            f"storage driver {url.drivername!r} is not supported; use postgresql+psycopg://"
        )
    try:
        engine = create_engine(
            url,
            pool_size=2,  # one study is written by one thread, on a connection of its own
            json_serializer=json_text,
            pool_pre_ping=True,  # the server may restart during a study of days
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                # A peer that is gone without a word is noticed within a minute.
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "tcp_user_timeout": 60_000,
                # Shown to whoever finds the study locked.
                "application_name": this_process()[:63],
            },
        )
    except ModuleNotFoundError as error:
        raise StorageError(
            "PostgreSQL storage needs psycopg; install it with: pip install 'moeash[postgres]'"
        ) from error

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("moeash_durable", True):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return engine


def lock_schema(connection: Connection) -> None:
    """Let one process at a time change the schema, until its transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_KEY})


def lock_launches(connection: Connection) -> None:
    """Let one process at a time decide what is launched, until its transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LAUNCHES_KEY})


def lost_connection(error: DBAPIError) -> bool:
    """Tell whether an error says that the server is not there, for now."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    # psycopg reports what it notices itself, and every failure to connect, without a code.
    code = getattr(error.orig, "sqlstate", None)
    return code is None or code.startswith("08") or code in _SERVER_STOPS


def refused(error: DBAPIError) -> bool:
    """Tell whether a server that is there does not let this user in, and will not."""
    # Of a failure to connect psycopg has no code, only what the server said.
    said = str(error.orig)
    return "FATAL" in said and not any(words in said for words in _LETS_IN_LATER)


def rolled_back(error: DBAPIError) -> bool:
    """Tell whether the server undid a transaction that it may well take a little later."""
    return getattr(error.orig, "sqlstate", None) in _TAKEN_LATER


class SessionLock:
    """A study held for writing on one connection, which all its writes take as well.

    The server drops the lock with the connection. What is written on it is therefore written with
    the lock held; and when the lock can be taken again, no earlier write is on its way any more.

    Attributes:
        fence: what every write checks.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        """Take the study.

        Raises:
            StudyLockedError: another process, or another thread, holds it; says which.
        """
        self.fence = Fence(study)
        self._engine = engine
        self._study = study
        self._key = _key(study)
        self._ours: list[dict[str, Any]] = []  # the server's processes that may have our lock
        self._connection: Connection | None = self._locked(self.fence.take)
        self._alone = threading.RLock()

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Yield the connection, for one thread at a time."""
        with self._alone:
            if self._connection is None or self._connection.invalidated:
                self.drop()
                self._connection = self._locked(self.fence.retake)
            yield self._connection

    def drop(self) -> None:
        """Forget a connection that is lost, and the lock with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.invalidate()
            with suppress(SQLAlchemyError):
                connection.close()

    def release(self) -> None:
        """Let go of the study. Whatever the server says: closing the connection does so too."""
        connection = self._connection
        if connection is None or connection.invalidated:
            self.drop()
            return
        try:
            with connection.begin():
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), self._key)
            connection.close()
        except SQLAlchemyError:
            self.drop()
        self._connection = None

    def _locked(self, then: Callable[[Connection], None]) -> Connection:
        """Return a connection that has the lock, after doing something in the same transaction."""
        connection = self._engine.connect()
        try:
            deadline = time.monotonic() + GHOST_S
            while not self._try(connection, then):
                if time.monotonic() > deadline or not self._end_ghost(connection):
                    owner = self._owner(connection)
                    raise StudyLockedError(
                        f"study {self._study!r} is being worked on by {owner}; "
                        "wait for it to end, or give this study another name"
                    )
                time.sleep(0.05)
        except BaseException:
            # Not back into the pool: it may have the lock.
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _try(self, connection: Connection, then: Callable[[Connection], None]) -> bool:
        connection.execution_options(moeash_writes=True, moeash_durable=True)
        with connection.begin():
            process = dict(connection.execute(_OUR_PROCESS).one()._mapping)
            if process not in self._ours:
                self._ours.append(process)
            if not connection.execute(_TRY_LOCK, self._key).scalar_one():
                return False
            then(connection)
        self._ours = [process]
        return True

    def _end_ghost(self, connection: Connection) -> bool:
        """End our own lost connection, which the server may believe in for hours.

        Returns:
            Whether it had the lock.
        """
        with connection.begin():
            return any(
                connection.execute(_END_GHOST, self._key | process).first() is not None
                for process in self._ours
            )

    def _owner(self, connection: Connection) -> str:
        with connection.begin():
            return advisory_lock_holders(connection, [self._study])[self._study] or UNKNOWN


def advisory_lock_holders(connection: Connection, studies: Sequence[str]) -> dict[str, str | None]:
    """Return who holds each of ``studies``; None when nobody does."""
    query = text(f"SELECT {_LOCK_KEY} AS key, a.application_name {_LOCKS}")
    found = connection.execute(query)
    # Another user's name is not shown to everybody.
    owners = {row.key: row.application_name or UNKNOWN for row in found}
    return {study: owners.get(_key(study)["key"]) for study in studies}


def _key(study: str) -> dict[str, int]:
    digest = hashlib.blake2b(study.encode(), digest_size=8).digest()
    return {"key": int.from_bytes(digest, "big", signed=True)}
