"""What PostgreSQL needs that SQLite does not: a pool of connections, and a lock that is not a file.

A study on a cluster is read by people on other machines and survives the loss of the one that runs
it, so its database is a server's.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, create_engine, event, text

from moeash.errors import StorageError, StudyLockedError
from moeash.study.storage.lock import this_process

SCHEMA_KEY = 0x6D6F65617368  # "moeash": held while the schema is created or upgraded
CONNECT_TIMEOUT_S = 10
UNKNOWN = "another process"


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
            pool_size=2,  # one study is written by one thread; a second connection holds its lock
            pool_pre_ping=True,  # the server may restart during a study of days
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
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


@contextmanager
def advisory_lock(engine: Engine, study: str) -> Iterator[None]:
    """Hold ``study`` on a connection of its own; the server drops the lock with the connection.

    Raises:
        StudyLockedError: another process, or another thread, holds it; says which.
    """
    key = _key(study)
    with engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar_one():
            owner = advisory_lock_holders(connection, [study])[study] or UNKNOWN
            raise StudyLockedError(
                f"study {study!r} is being worked on by {owner}; "
                "wait for it to end, or give this study another name"
            )
        try:
            yield
        finally:
            # The connection goes back to the pool, so the lock must not depend on its end. If the
            # server is gone so is the lock.
            if not connection.invalidated:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)


def advisory_lock_holders(connection: Connection, studies: Sequence[str]) -> dict[str, str | None]:
    """Return who holds each of ``studies``; None when nobody does."""
    found = connection.execute(
        text(
            "SELECT (l.classid::bigint << 32 | l.objid::bigint) AS key, a.application_name "
            "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
            "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )
    # Another user's name is not shown to everybody.
    owners = {row.key: row.application_name or UNKNOWN for row in found}
    return {study: owners.get(_key(study)["key"]) for study in studies}


def _key(study: str) -> dict[str, int]:
    digest = hashlib.blake2b(study.encode(), digest_size=8).digest()
    return {"key": int.from_bytes(digest, "big", signed=True)}
