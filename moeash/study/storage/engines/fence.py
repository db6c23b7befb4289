"""Fencing: what keeps a writer that lost its lock without noticing from writing on.

A lock can be lost behind its holder's back: the server restarts, a firewall forgets the connection,
somebody deletes the lock file. So whoever takes a study also takes a *token*, a number that grows
each time, and every write of the holder checks in its own transaction that the token is still its
own. The same row counts the durable writes, which tells whether a commit that was never answered
took place, and whether the database has lost commits that were.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from moeash.errors import StorageError, StudyLockedError
from moeash.study.storage.tables import FENCES

T = TypeVar("T")

Work = Callable[[Connection], T]
"""What a transaction does. It may be called again after it was rolled back."""


class Fence:
    """One holder's token, and how many durable writes it knows of."""

    def __init__(self, study: str) -> None:
        self._study = study
        self._token = 0
        self._writes = 0
        self._in_doubt: int | None = None

    @property
    def writes(self) -> int:
        """Durable writes the database is known to hold."""
        return self._writes

    def take(self, connection: Connection) -> None:
        """Take a new token, which ends the writing of whoever had the last one."""
        mine = FENCES.c.study == self._study
        taken = update(FENCES).where(mine).values(token=FENCES.c.token + 1)
        row = connection.execute(taken.returning(FENCES.c.token, FENCES.c.writes)).one_or_none()
        if row is None:
            first = {"study": self._study, "token": 1, "writes": 0}
            connection.execute(insert(FENCES).values(first))
            self._token, self._writes = 1, 0
        else:
            self._token, self._writes = row.token, row.writes
        self._in_doubt = None

    def retake(self, connection: Connection) -> None:
        """Check, with the lock held again, that nothing happened while it was not.

        Afterwards :attr:`writes` says whether a write in doubt was stored.

        Raises:
            StudyLockedError: somebody else had the study meanwhile.
            StorageError: the database has lost writes.
        """
        row = self._row(connection)
        self._check(row.token, row.writes)
        self._writes, self._in_doubt = row.writes, None

    def step(self, connection: Connection, *, durable: bool) -> int:
        """Check the token in a transaction, and count its write if it is durable.

        Returns:
            What :attr:`writes` will be when the transaction is committed.

        Raises:
            StudyLockedError: somebody else took the study.
            StorageError: the database has lost writes.
        """
        if not durable:
            row = self._row(connection)
            self._check(row.token, row.writes)
            return self._writes
        counted = (
            update(FENCES)
            .where(FENCES.c.study == self._study, FENCES.c.token == self._token)
            .values(writes=FENCES.c.writes + 1)
            .returning(FENCES.c.writes)
        )
        found: int | None = connection.execute(counted).scalar_one_or_none()
        if found is None:
            raise self._taken_over(self._row(connection).token)
        self._check(self._token, found - 1)
        return found

    @contextmanager
    def committing(self, number: int) -> Iterator[None]:
        """Remember that a write may have been stored until it is known that it was."""
        self._in_doubt = number
        yield
        self._writes, self._in_doubt = number, None

    def _row(self, connection: Connection) -> Any:
        # Locked against a taker until the transaction ends, where the database has such locks.
        query = select(FENCES.c.token, FENCES.c.writes).where(FENCES.c.study == self._study)
        row = connection.execute(query.with_for_update(read=True)).one_or_none()
        if row is None:
            raise StorageError(
                f"the database no longer knows that study {self._study!r} is being worked on; "
                "it was replaced by another, put it back and run the study again"
            )
        return row

    def _check(self, token: int, writes: int) -> None:
        if token != self._token:
            raise self._taken_over(token)
        if writes not in (self._writes, self._in_doubt):
            raise StorageError(
                f"the database holds {writes} writes of study {self._study!r} where "
                f"{self._writes} were made; it was put back to an earlier state, run the study "
                "again to continue from that"
            )

    def _taken_over(self, token: int) -> StudyLockedError:
        return StudyLockedError(
            f"study {self._study!r} was taken over by another process while this one had lost its "
            f"lock (token {token}, this one's is {self._token}); that process continues it, and "
            "everything stored so far is safe"
        )


class Hold(Protocol):
    """A study held for writing."""

    fence: Fence

    def session(self) -> AbstractContextManager[Connection]:
        """Return a connection to write on, with the lock held, taken again if it was lost.

        StudyLockedError when somebody else has it by now.
        """
        ...

    def drop(self) -> None:
        """Forget a connection that is lost."""
        ...


@dataclass(frozen=True)
class _Done(Generic[T]):
    number: int
    result: T


class FencedWrite(Generic[T]):
    """One write of a holder. Calling it again after its connection was lost does it once only."""

    def __init__(self, hold: Hold, work: Work[T], *, durable: bool) -> None:
        self._hold = hold
        self._work = work
        self._durable = durable
        self._sent: _Done[T] | None = None

    def __call__(self) -> T:
        """Write in one transaction, unless an earlier call was committed without an answer."""
        fence = self._hold.fence
        with self._hold.session() as connection:
            if self._sent is not None and self._sent.number == fence.writes:
                return self._sent.result
            self._sent = None
            options = {"moeash_writes": True, "moeash_durable": self._durable}
            connection.execution_options(**options)
            transaction = connection.begin()
            try:
                number = fence.step(connection, durable=self._durable)
                result = self._work(connection)
            except BaseException:
                with suppress(SQLAlchemyError):  # the first error is the one to report
                    transaction.rollback()
                raise
            if not self._durable:
                transaction.commit()
                return result
            self._sent = _Done(number, result)
            with fence.committing(number):
                transaction.commit()
            return result
