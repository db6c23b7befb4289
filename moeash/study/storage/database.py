"""The database below storage: transactions, locks, and errors in words. SQLite or PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from moeash.errors import StorageError, StudyNotFoundError
from moeash.study.storage.lock import file_lock, file_lock_holder
from moeash.study.storage.postgres import (
    advisory_lock,
    advisory_lock_holders,
    lock_schema,
    postgres_engine,
)
from moeash.study.storage.schema import is_current, upgrade
from moeash.study.storage.sqlite import database_of, sqlite_engine


class Database:
    """A database with moeash's schema.

    Attributes:
        url: without its password.
        path: of an SQLite file; None on PostgreSQL.
        engine: SQLAlchemy's.
    """

    def __init__(self, url: str, *, create: bool, busy_timeout_s: float) -> None:
        """Open a database, creating or upgrading its schema; arguments as for SqlStorage."""
        self.url = url if "://" in url else f"sqlite:///{url}"
        self._busy_timeout_s = busy_timeout_s
        with self.border():
            parsed = make_url(self.url)
            self.url = parsed.render_as_string(hide_password=True)
            self.path: Path | None = None
            if parsed.get_backend_name() == "postgresql":
                self.engine = postgres_engine(parsed)
            else:
                self.path = database_of(parsed)
                if not create and not self.path.exists():
                    raise StudyNotFoundError(
                        f"there is no database {self.path}; run a study first, "
                        "or say where it is with --storage or MOEASH_STORAGE"
                    )
                self.engine = sqlite_engine(self.path, busy_timeout_s)
            with self.reading() as connection:
                current = is_current(connection)
            if not current:
                with self.writing() as connection:
                    if self.path is None:
                        lock_schema(connection)
                    upgrade(connection)

    @contextmanager
    def border(self) -> Iterator[None]:
        """Driver errors stop here."""
        try:
            yield
        except ArgumentError as error:
            raise StorageError(
                f"storage {self.url!r} is neither a path nor a database URL"
            ) from error
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", error)).splitlines()[0]
            hint = ""
            if "locked" in cause:
                hint = f"; another process kept writing for {self._busy_timeout_s:g} s, try again"
            elif "not a database" in cause:
                hint = "; that file is something else, use another --storage"
            elif "full" in cause:
                hint = "; free some space, everything stored so far is safe, then run again"
            elif "connection" in cause and self.path is None:
                hint = "; is the server running, and may this user connect?"
            elif "disk I/O" in cause:
                hint = "; is the disk full? everything stored so far is safe, run again later"
            elif "readonly" in cause or "unable to open" in cause:
                hint = "; check the permissions of the file and its folder"
            raise StorageError(f"database {self.url}: {cause}{hint}") from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read in one transaction."""
        with self.border(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """Write in one transaction.

        Args:
            durable: wait for the disk. What is written without waiting may be lost with the power,
                and never anything else: the next durable write takes it along.
        """
        options = {"moeash_writes": True, "moeash_durable": durable}
        with (
            self.border(),
            self.engine.connect() as connection,
            connection.execution_options(**options).begin(),
        ):
            yield connection

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Hold a study for writing; see :meth:`moeash.study.storage.base.Storage.lock`."""
        if self.path is None:
            with self.border(), advisory_lock(self.engine, study):
                yield
            return
        with file_lock(self.path, study):
            with self.border():
                # An idle connection: without any, SQLite would fold its log into the database
                # after every commit, which more than doubles the time of one.
                idle = self.engine.connect()
            with idle:
                yield

    def holders(self, studies: Sequence[str]) -> Mapping[str, str | None]:
        """Return who holds each study for writing; None when nobody does."""
        if self.path is not None:
            return {study: file_lock_holder(self.path, study) for study in studies}
        with self.reading() as connection:
            return advisory_lock_holders(connection, studies)

    def close(self) -> None:
        """Release connections."""
        self.engine.dispose()
