"""What is to be run, runs, or has run: the table that launchers and servers share.

Any number of servers and terminals use one table. Whoever starts a launch *claims* it first, in one
transaction, so that nothing is started twice; the process that was started *registers* itself, so
that nothing depends on whether its starter lived long enough to write down what it had started.
Every later change names the place it expects to find and does nothing when another is there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from moeash.errors import LaunchNotFoundError, StorageError, StudyLockedError
from moeash.study.storage.engines.database import Database
from moeash.study.storage.engines.postgres import lock_launches
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import now
from moeash.study.storage.rows import stored_text
from moeash.study.storage.tables import LAUNCHES
from moeash.study.storage.team.launch import (
    Kind,
    LaunchRecord,
    age_s,
    host,
    is_elsewhere,
    launch_of,
    order,
)

MANY = 500
"""Values of one IN; databases have a limit."""

STOPPED = "stopped before it began"
"""What is said of a launch that never ran."""

AGAIN_S = 10.0
"""A launch that was asked to end is left so long to do it before it may be asked again."""

SENT_AGAIN_S = 30.0
"""A process that was told to end, and runs still after so long, may never have heard it."""

ACTIVE = LAUNCHES.c.state.in_(("queued", "running"))


class Launches:
    """The launches of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ------------------------------------------------------------------ asking for one

    def add(
        self, kind: Kind, study: str, request: Mapping[str, Any], requested_by: str
    ) -> LaunchRecord:
        """Queue a launch.

        Raises:
            StudyLockedError: a run of this study is queued or runs already.
        """
        values = {
            "kind": kind,
            "study": study,
            "state": "queued",
            "request": dict(request),
            "requested_by": requested_by,
            "requested_at": now(),
        }

        def work(connection: Connection) -> int:
            made = connection.execute(insert(LAUNCHES).values(values))
            return int(cast("Row[Any]", made.inserted_primary_key)[0])

        try:
            return self.get(self._database.write(None, work))
        except StorageError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            active = self.newest([study]).get(study)
            how = f" as launch {active.id}" if active is not None else ""
            stands = "is queued" if active is not None and active.state == "queued" else "runs"
            raise StudyLockedError(
                f"study {study!r} {stands} already{how}; wait for it to end, or stop it first"
            ) from error

    # ------------------------------------------------------------------ looking

    def get(self, id: int) -> LaunchRecord:
        """Return a launch.

        Raises:
            LaunchNotFoundError: there is none of that number.
        """
        for record in self._read(select(LAUNCHES).where(LAUNCHES.c.id == id)):
            return record
        raise LaunchNotFoundError(f"there is no launch {id} in {self._database.url}")

    def active(self, kind: Kind | None = None) -> Sequence[LaunchRecord]:
        """Return what is queued or runs, oldest first."""
        query = select(LAUNCHES).where(ACTIVE).order_by(LAUNCHES.c.id)
        return self._read(query if kind is None else query.where(LAUNCHES.c.kind == kind))

    def of_study(
        self, study: str, kind: Kind, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[LaunchRecord]:
        """Return launches of a study, newest first.

        Args:
            study: its name.
            kind: only these.
            before: only those with a smaller id.
            limit: at most so many.
        """
        query = select(LAUNCHES).where(LAUNCHES.c.study == study, LAUNCHES.c.kind == kind)
        if before is not None:
            query = query.where(LAUNCHES.c.id < before)
        return self._read(query.order_by(LAUNCHES.c.id.desc()).limit(limit))

    def newest(
        self, studies: Collection[str] | None = None, kind: Kind = "run"
    ) -> dict[str, LaunchRecord]:
        """Return the newest launch of each study that has any.

        Args:
            studies: their names; None for all.
            kind: only these.
        """

        def query(names: Sequence[str] | None) -> Select[Any]:
            last = select(func.max(LAUNCHES.c.id)).where(LAUNCHES.c.kind == kind)
            if names is not None:
                last = last.where(LAUNCHES.c.study.in_(names))
            return select(LAUNCHES).where(LAUNCHES.c.id.in_(last.group_by(LAUNCHES.c.study)))

        if studies is None:
            return {record.study: record for record in self._read(query(None))}
        names = list(studies)
        found: dict[str, LaunchRecord] = {}
        for first in range(0, len(names), MANY):
            records = self._read(query(names[first : first + MANY]))
            found |= {record.study: record for record in records}
        return found

    def positions(self) -> dict[int, int]:
        """Return the place in the queue, from 1 on, of each launch that waits; each kind has one.

        It is the order in which they would start if nothing ended that runs now.
        """
        found: dict[int, int] = {}
        kinds: tuple[Kind, ...] = ("run", "export")
        for kind in kinds:
            found |= {id: place for place, id in enumerate(self._turns(kind), start=1)}
        return found

    # ------------------------------------------------------------------ starting

    def claim_next(
        self, kind: Kind, launcher: str, place: Mapping[str, Any], *, most: int
    ) -> LaunchRecord | None:
        """Take the launch whose turn it is, to start it; None when none may start.

        Whose turn it is says :func:`moeash.study.storage.team.launch.order`.

        Args:
            kind: of launch.
            launcher: who will start it.
            place: of the starter, until the process is known; ``place["host"]`` is its machine.
            most: how many launches of this kind may run on the machine of the place.
        """

        def work(connection: Connection) -> int | None:
            self._alone(connection)
            active, waiting = _waiting(connection, kind)
            here = [r for r in active if r.state == "running" and host(r.place) == host(place)]
            if not waiting or len(here) >= most:
                return None
            return waiting[0] if _claim(connection, waiting[0], launcher, place) else None

        return self._claimed(self._database.write(None, work))

    def claim(self, id: int, launcher: str, place: Mapping[str, Any]) -> LaunchRecord | None:
        """Take a launch to start it at once, whatever runs; None when it is no longer queued."""

        def work(connection: Connection) -> int | None:
            self._alone(connection)
            return id if _claim(connection, id, launcher, place) else None

        return self._claimed(self._database.write(None, work))

    def move(
        self, record: LaunchRecord, place: Mapping[str, Any], *, folder: str | None = None
    ) -> bool:
        """Note where a launch that runs is found now; return False when that has changed meanwhile.

        Args:
            record: the launch as it was read.
            place: how its process is found.
            folder: of its files, when it is new.
        """

        def values(found: LaunchRecord) -> dict[str, Any]:
            stop = (found.place or {}).get("stop")
            moved = dict(place) if stop is None else {**place, "stop": stop}
            return {"place": moved} if folder is None else {"place": moved, "folder": folder}

        return self._change(record.id, values, expected=record)

    def ask_stop(self, id: int) -> LaunchRecord:
        """Ask for the end of a launch, and return it: what waits has ended then.

        The machine on which it runs sees in ``place["stop"]`` that it is asked for. Asked for again
        at once, it is one request: a second signal would disturb a study that stores its end.
        """

        def values(found: LaunchRecord) -> dict[str, Any]:
            if found.state == "queued":
                return _ending(None, STOPPED)
            place = dict(found.place or {})
            if age_s(place.get("stop"), "asked") < AGAIN_S:
                return {"place": place}
            return {"place": {**place, "stop": {"asked": now(), "sent": None}}}

        self._change(id, values)
        return self.get(id)

    def take_stop(self, record: LaunchRecord) -> bool:
        """Take it upon oneself to end the process of a launch; False when somebody else did.

        Whoever did may be gone before anything was sent: after a while it may be taken again.
        """
        taken: list[bool] = []

        def values(found: LaunchRecord) -> dict[str, Any]:
            stop = (found.place or {}).get("stop")
            taken[:] = [isinstance(stop, Mapping) and age_s(stop, "sent") > SENT_AGAIN_S]
            if not taken[0]:
                return {"place": found.place}
            return {"place": {**(found.place or {}), "stop": {**(stop or {}), "sent": now()}}}

        return self._change(record.id, values, expected=record) and taken[0]

    def put_back(self, record: LaunchRecord) -> bool:
        """Queue a launch again whose starter is gone before it had started anything.

        One whose end was asked for meanwhile has ended instead.
        """

        def values(found: LaunchRecord) -> dict[str, Any]:
            if "stop" in (found.place or {}):
                return _ending(None, STOPPED)
            return {"state": "queued", "launcher": None, "place": None, "started_at": None}

        return self._change(record.id, values, expected=record)

    def end(
        self,
        id: int,
        exit_code: int | None,
        message: str | None,
        *,
        expected: LaunchRecord | None = None,
    ) -> bool:
        """Note that a launch has ended; return False when it had already.

        Args:
            id: of the launch.
            exit_code: of its process; None where nobody could see it.
            message: why, in one line.
            expected: the launch as it was read: it ends only if its process is still that one.
        """
        return self._change(id, lambda _: _ending(exit_code, message), expected=expected)

    def holder(self, study: str) -> str | None:
        """Return who holds a study for writing, in words; None when nobody does."""
        return self._database.holders([study])[study]

    # ------------------------------------------------------------------ below

    def _read(self, query: Select[Any]) -> list[LaunchRecord]:
        return self._database.read(lambda connection: read_rows(connection, query, launch_of))

    def _turns(self, kind: Kind) -> list[int]:
        return self._database.read(lambda connection: _waiting(connection, kind)[1])

    def _claimed(self, id: int | None) -> LaunchRecord | None:
        return None if id is None else self.get(id)

    def _alone(self, connection: Connection) -> None:
        """Let one transaction at a time decide what starts; SQLite has one writer anyway."""
        if self._database.path is None:
            lock_launches(connection)

    def _change(
        self,
        id: int,
        values: Callable[[LaunchRecord], Mapping[str, Any]],
        *,
        expected: LaunchRecord | None = None,
    ) -> bool:
        def work(connection: Connection) -> bool:
            self._alone(connection)
            found = _locked(connection, id)
            if found is None or found.ended:
                return False
            if expected is not None and is_elsewhere(found, expected):
                return False
            _set(connection, id, values(found))
            return True

        return self._database.write(None, work)


def _waiting(connection: Connection, kind: Kind) -> tuple[list[LaunchRecord], list[int]]:
    """Return what is active of a kind, and the ids of what waits in the order of their turns."""
    query = select(LAUNCHES).where(ACTIVE, LAUNCHES.c.kind == kind).order_by(LAUNCHES.c.id)
    active = read_rows(connection, query, launch_of)
    who = {record.requested_by for record in active if record.state == "queued"}
    if not who:
        return active, []
    last = (
        select(LAUNCHES.c.requested_by, func.max(LAUNCHES.c.started_at).label("last"))
        .where(LAUNCHES.c.kind == kind, LAUNCHES.c.started_at.is_not(None))
        .group_by(LAUNCHES.c.requested_by)
    )
    return active, order(active, {row.requested_by: row.last for row in connection.execute(last)})


def _locked(connection: Connection, id: int) -> LaunchRecord | None:
    query = select(LAUNCHES).where(LAUNCHES.c.id == id).with_for_update()
    return next(iter(read_rows(connection, query, launch_of)), None)


def _claim(connection: Connection, id: int, launcher: str, place: Mapping[str, Any]) -> bool:
    values = {
        "state": "running",
        "launcher": launcher,
        "place": dict(place),
        "started_at": now(),
    }
    queued = LAUNCHES.c.state == "queued"
    return _set(connection, id, values, queued)


def _set(
    connection: Connection, id: int, values: Mapping[str, Any], *where: ColumnElement[bool]
) -> bool:
    done = connection.execute(
        update(LAUNCHES).where(LAUNCHES.c.id == id, *where).values(dict(values))
    )
    return done.rowcount == 1


def _ending(exit_code: int | None, message: str | None) -> dict[str, Any]:
    return {
        "state": "ended",
        "ended_at": now(),
        "exit_code": exit_code,
        "message": None if message is None else stored_text(message),
    }
