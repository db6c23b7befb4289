"""The database below storage: transactions, locks, and errors in words. SQLite or PostgreSQL."""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from moeash.errors import SchemaError, StorageError, StudyNotFoundError
from moeash.files import LFS_POINTER, is_lfs_pointer, lfs_text
from moeash.study.storage.engines.fence import FencedWrite, Hold, Work
from moeash.study.storage.engines.lock import FileLock, file_lock_holder
from moeash.study.storage.engines.patience import PATIENCE_S, Patience
from moeash.study.storage.engines.postgres import (
    SessionLock,
    advisory_lock_holders,
    lock_schema,
    lost_connection,
    postgres_engine,
)
from moeash.study.storage.engines.sqlite import (
    database_at,
    has_no_bytes,
    may_be_written,
    path_of,
    sqlite_engine,
    undisturbed,
)
from moeash.study.storage.engines.stamping import Stamp, Watch
from moeash.study.storage.engines.urls import without_password
from moeash.study.storage.schema import is_current, is_empty, upgrade
from moeash.study.storage.tables import STUDIES

T = TypeVar("T")

_RUN_FIRST = "run a study first, or say where it is with --storage or MOEASH_STORAGE"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)


class Database:
    """A database with moeash's schema.

    Attributes:
        url: without its password; an SQLite file's path.
        place: what another process opens it with, wherever that works; may have a password.
        path: of an SQLite file; None on PostgreSQL.
        engine: SQLAlchemy's.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        create: bool,
        busy_timeout_s: float,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Open a database, creating or upgrading its schema; arguments as for SqlStorage."""
        self.url = self.place = os.fspath(place)
        is_url = isinstance(place, str) and bool(_URL.fullmatch(place))
        if is_url:
            self.url = without_password(self.place)
        self.path: Path | None = None
        self._busy_timeout_s = busy_timeout_s
        self._patiently = Patience(self.url, patience_s)
        self._holds: dict[str, Hold] = {}
        self._names: dict[int, str] = {}
        self._kept = threading.local()
        with self.border():
            if is_url:
                parsed = self._parsed()
                if parsed.get_backend_name() == "postgresql":
                    self.engine = postgres_engine(parsed)
                    event.listen(self.engine, "connect", self._patiently.reached)
                else:
                    self.path = path_of(parsed, self.place)
            else:
                # A path is a path: `?`, `%` and `#` are letters of its name.
                self.path = database_at(self.url)
            if self.path is not None:
                self.url = self.place = str(self.path)
                if not create and not self.path.exists():
                    raise StudyNotFoundError(f"there is no database {self.path}; {_RUN_FIRST}")
                if not create and has_no_bytes(self.path):  # connecting alone would write some
                    raise StudyNotFoundError(f"database {self.path} is empty; {_RUN_FIRST}")
                self.engine = sqlite_engine(self.path, busy_timeout_s)
        self._watch = None if self.path is None else Watch(self.path)
        if not self.read(is_current):
            if not create and self.read(is_empty):
                self.engine.dispose()
                raise StudyNotFoundError(f"database {self.url} is empty; {_RUN_FIRST}")
            self._upgrade()

    def _parsed(self) -> URL:
        try:
            return make_url(self.place)
        except ValueError as error:  # of a port or an address that is none
            raise StorageError(
                f"storage {self.url!r} is no database URL: its port or host is none; it has the "
                "form postgresql+psycopg://USER@HOST:PORT/DATABASE"
            ) from error

    def _upgrade(self) -> None:
        if self.path is not None and self.path.exists() and not may_be_written(self.path):
            raise SchemaError(
                f"database {self.url}: its schema is not this moeash's, and it may not be written; "
                "open it once as somebody who may write it"
            )

        def work(connection: Connection) -> None:
            if self.path is None:
                lock_schema(connection)
            upgrade(connection)

        self.write(None, work)

    @contextmanager
    def border(self) -> Iterator[None]:
        """Driver errors stop here."""
        try:
            yield
        except ArgumentError as error:
            raise StorageError(
                f"storage {self.url!r} is neither a path nor a database URL"
            ) from error
        except UnicodeDecodeError as error:  # a name or text in a damaged file
            raise StorageError(
                f"database {self.url}: it holds bytes that are no text, so it is damaged; restore "
                "it from a backup, or use another --storage"
            ) from error
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", error)).splitlines()[0]
            hint = ""
            if "locked" in cause:
                hint = f"; another process kept writing for {self._busy_timeout_s:g} s, try again"
            elif "not a database" in cause:
                hint = "; that file is something else, use another --storage"
                if self.path is not None and is_lfs_pointer(_head(self.path)):
                    hint = f"; {lfs_text('it')}"
            elif "full" in cause:
                hint = "; free some space, everything stored so far is safe, then run again"
            elif "no such table" in cause or re.search(r"relation .* does not exist", cause):
                hint = "; it was emptied or replaced while it was in use, put it back and run again"
            elif "connection" in cause and self.path is None:
                hint = "; is the server running, and may this user connect?"
            elif "disk I/O" in cause:
                hint = "; is the disk full? everything stored so far is safe, run again later"
            elif "readonly" in cause or "unable to open" in cause:
                hint = "; check the permissions of the file and its folder"
            raise StorageError(f"database {self.url}: {cause}{hint}") from error

    def read(self, work: Work[T]) -> T:
        """Read in one transaction. ``work`` may be called again, with another connection."""
        kept: Connection | None = getattr(self._kept, "connection", None)

        def attempt() -> T:
            if kept is not None:
                with kept.begin():
                    return work(kept)
            with self.engine.begin() as connection:
                return work(connection)

        with self.border():
            if self.path is None:
                return self._patiently(attempt)
            return undisturbed(self.path, attempt)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Read over one connection in this thread, each time in a transaction of its own.

        Opening an SQLite file takes as long as a small query. One that may not be written is opened
        anew each time all the same, since how depends on who writes it; a server's connections are
        kept anyway.
        """
        is_kept = getattr(self._kept, "connection", None) is not None
        if self.path is None or is_kept or not may_be_written(self.path):
            yield
            return
        with self.border():
            connection = self.engine.connect()
        self._kept.connection = connection
        try:
            yield
        finally:
            self._kept.connection = None
            connection.close()

    def write(self, study: int | str | None, work: Work[T], *, durable: bool = True) -> T:
        """Write in one transaction, all or nothing, once.

        A connection that is lost is made again, and the transaction repeated unless it had been
        committed already. Whoever holds the study writes with its lock held, or not at all.

        Args:
            study: whose rows are written: its id, or its name before it has one; None: no study's.
            work: called with the connection, again after it was rolled back.
            durable: wait for the disk. What is written without waiting may be lost with the power,
                and never anything else: the next durable write takes it along. It must be such that
                writing it twice is writing it once.

        Raises:
            StudyLockedError: this process held the study, and another one has taken it since.
            StorageError: the database refused, or stayed away.
        """
        with self.border():
            hold = self._hold_of(study)
            if hold is None:
                return self._patiently(lambda: self._write_once(work, durable))
            return self._patiently(FencedWrite(hold, work, durable=durable), hold.drop, holds=True)

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Hold a study for writing; see :meth:`moeash.study.storage.base.Storage.lock`."""
        path = self.path
        if path is None:
            with self._held(study, lambda: SessionLock(self.engine, study)):
                yield
            return
        with self._held(study, lambda: FileLock(self.engine, path, study)):
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
        return self.read(lambda connection: advisory_lock_holders(connection, studies))

    def stamp(self) -> Stamp | None:
        """Return what is another one after every commit; None where that takes a query to tell."""
        return None if self._watch is None else self._watch.stamp()

    def close(self) -> None:
        """Release connections."""
        if self._watch is not None:
            self._watch.close()
        self.engine.dispose()

    @contextmanager
    def _held(self, study: str, take: Callable[[], FileLock | SessionLock]) -> Iterator[None]:
        with self.border():
            hold = self._patiently(take, holds=True)
        self._holds[study] = hold
        try:
            yield
        finally:
            del self._holds[study]
            hold.release()

    def _hold_of(self, study: int | str | None) -> Hold | None:
        if study is None or not self._holds:
            return None
        if isinstance(study, int):
            if study not in self._names:
                query = select(STUDIES.c.name).where(STUDIES.c.id == study)
                name = self.read(lambda connection: connection.execute(query).scalar_one_or_none())
                if name is None:
                    return None
                self._names[study] = name
            study = self._names[study]
        return self._holds.get(study)

    def _write_once(self, work: Work[T], durable: bool) -> T:
        options = {"moeash_writes": True, "moeash_durable": durable}
        with self.engine.connect() as plain:
            connection = plain.execution_options(**options)
            with connection.begin() as transaction:
                result = work(connection)
                try:
                    transaction.commit()
                except DBAPIError as error:
                    if self.path is None and lost_connection(error):
                        raise StorageError(
                            f"database {self.url}: the connection was lost before it said whether "
                            "the last write is stored; look before writing it again"
                        ) from error
                    raise
            return result


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER))
