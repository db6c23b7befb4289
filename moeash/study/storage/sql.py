"""Storage on SQLAlchemy: one code for SQLite and PostgreSQL; what differs has its own module."""

import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from moeash.core.solutions.objectives import SizeName
from moeash.errors import StorageError, StudyExistsError, StudyNotFoundError
from moeash.evaluation.outcome import Job, Outcome, Status
from moeash.names import nearest
from moeash.study.events import Evaluated, Event, GenerationEnded
from moeash.study.facts import StudyFacts
from moeash.study.storage import counts
from moeash.study.storage.artifacts import MOEASH_ARTIFACTS, Artifacts
from moeash.study.storage.engines.database import Database
from moeash.study.storage.engines.lock import this_process
from moeash.study.storage.engines.patience import PATIENCE_S
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import (
    EvaluationRecord,
    EventRecord,
    GenerationRecord,
    Points,
    Stage,
    StoredStatus,
    StudyRecord,
    StudySummary,
    now,
)
from moeash.study.storage.rows import (
    evaluation_of,
    evaluation_values,
    event_of,
    event_values,
    facts_values,
    generation_of,
    generation_values,
    held_of,
    job_values,
    key_of,
    stored_text,
    study_of,
)
from moeash.study.storage.selecting import events_of
from moeash.study.storage.summaries import points, summaries
from moeash.study.storage.tables import EVALUATIONS, EVENTS, GENERATIONS, HELD, STUDIES

BUSY_TIMEOUT_S = 10.0
"""How long a write waits for another process's write before it is refused."""

MANY = 500
"""Values of one IN; databases have a limit."""


class SqlStorage:
    """Studies in a SQL database; see :class:`moeash.study.storage.base.Storage`.

    Attributes:
        url: of the database, without its password.
        database: below the storage.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        create: bool = True,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Open the database, creating or upgrading its schema.

        Args:
            place: a path of an SQLite file, or an SQLAlchemy URL.
            create: make a database that does not exist.
            busy_timeout_s: how long a write waits for another process's write.
            patience_s: how long a server that is gone is waited for; see :func:`open_storage`.

        Raises:
            StorageError: it cannot be opened.
            StudyNotFoundError: it does not exist and is not to be created.
            SchemaError: it is newer than this moeash, or not moeash's.
        """
        self.database = Database(
            place, create=create, busy_timeout_s=busy_timeout_s, patience_s=patience_s
        )
        self.url = self.database.url
        path, shared = self.database.path, os.environ.get(MOEASH_ARTIFACTS)
        if path is not None:
            self._artifacts = Artifacts(path.with_name(f"{path.name}.artifacts"))
        else:
            self._artifacts = Artifacts(None if not shared else Path(shared))

    # ------------------------------------------------------------------ studies

    def create_study(self, facts: StudyFacts) -> StudyRecord:
        """Store a new study, which runs."""
        created = now()
        values = {
            **facts_values(facts),
            "uid": uuid.uuid4().hex,
            "wanted_floor": facts.wanted_floor,  # what SQL counts by
            "status": "running",
            "owner": this_process(),
            "created_at": created,
            "updated_at": created,
        }
        try:
            self.database.write(
                facts.name, lambda connection: connection.execute(insert(STUDIES).values(values))
            )
        except StorageError as error:
            if isinstance(error.__cause__, IntegrityError):
                raise StudyExistsError(f"a study named {facts.name!r} exists already") from error
            raise
        return self.study(facts.name)

    def study(self, name: str) -> StudyRecord:
        """Return a study by name."""
        query = select(STUDIES).where(STUDIES.c.name == name)

        def work(connection: Connection) -> StudyRecord:
            for record in read_rows(connection, query, study_of):
                return record
            names = connection.execute(select(STUDIES.c.name)).scalars().all()
            raise StudyNotFoundError(f"no study {name!r} in {self.url}; {nearest(name, names)}")

        return self.database.read(work)

    def studies(self) -> Sequence[StudyRecord]:
        """Return all studies, oldest first."""
        query = select(STUDIES).order_by(STUDIES.c.id)
        return self.database.read(lambda connection: read_rows(connection, query, study_of))

    def summaries(self, names: Collection[str] | None = None) -> Sequence[StudySummary]:
        """Return studies with counts of all they hold, oldest first."""
        if names is None:
            names = self.database.read(lambda c: c.scalars(select(STUDIES.c.name)).all())
        # Asked before anything is read: whoever ends says how first, and lets go then.
        holders = self.database.holders(list(names))
        return self.database.read(lambda connection: summaries(connection, holders))

    def set_status(
        self,
        study_id: int,
        status: StoredStatus,
        *,
        ending: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Record where a study stands."""
        values: dict[str, Any] = {
            "status": status,
            "reason": None if reason is None else stored_text(reason),
        }
        if status == "running":
            values["owner"] = this_process()
        if ending is not None:
            values["ending"] = ending
        self.database.write(study_id, lambda c: _touch(c, study_id, **values))

    def set_spec(self, study_id: int, spec: Mapping[str, Any]) -> None:
        """Record that a study's files have moved."""
        self.database.write(study_id, lambda c: _touch(c, study_id, spec=dict(spec)))

    def set_activity(self, study_id: int, event: Event) -> None:
        """Overwrite what is being done."""
        values = event_values(study_id, event)
        del values["study_id"]
        self.database.write(study_id, lambda c: _touch(c, study_id, activity=values), durable=False)

    # ------------------------------------------------------------------ evaluations

    def add_evaluations(self, study_id: int, records: Sequence[EvaluationRecord]) -> None:
        """Store evaluations, their artifacts and their events: all or nothing, in one commit."""
        if not records:
            return

        def work(connection: Connection) -> None:
            kept = self._release(connection, study_id, [record.job for record in records])
            kept |= self._artifacts.put(connection, study_id, [r.outcome for r in records])
            rows = [evaluation_values(study_id, record, kept) for record in records]
            connection.execute(insert(EVALUATIONS), rows)
            counts.add(connection, study_id, records)
            events = [event_values(study_id, Evaluated(r), r.created_at) for r in records]
            connection.execute(insert(EVENTS), events)
            _touch(connection, study_id, updated_at=records[-1].created_at)

        self.database.write(study_id, work)

    def _release(self, connection: Connection, study_id: int, jobs: Sequence[Job]) -> set[str]:
        """Hold the outcomes of jobs no longer; return the fingerprints of their artifacts."""
        keys = [key_of(job) for job in jobs]
        query = delete(HELD).where(HELD.c.study_id == study_id, HELD.c.key.in_(keys))
        released = connection.execute(query.returning(HELD.c.artifact)).scalars()
        return {artifact for artifact in released if artifact is not None}

    def evaluation(self, study_id: int, number: int) -> EvaluationRecord | None:
        """Return one evaluation."""
        found = self.evaluations(study_id, numbers=[number])
        return found[0] if found else None

    def evaluations(
        self,
        study_id: int,
        *,
        after: int = 0,
        limit: int | None = None,
        stage: Stage | None = None,
        status: Status | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Sequence[EvaluationRecord]:
        """Return evaluations by number."""
        query = select(EVALUATIONS).where(
            EVALUATIONS.c.study_id == study_id, EVALUATIONS.c.number > after
        )
        if stage is not None:
            query = query.where(EVALUATIONS.c.stage == stage)
        if status is not None:
            query = query.where(EVALUATIONS.c.status == status)
        query = query.order_by(EVALUATIONS.c.number)
        if numbers is None:
            limited = query.limit(limit)
            return self.database.read(lambda c: read_rows(c, limited, evaluation_of))
        wanted = sorted(set(numbers))

        def work(connection: Connection) -> list[EvaluationRecord]:
            return [
                record
                for first in range(0, len(wanted), MANY)
                for record in read_rows(
                    connection,
                    query.where(EVALUATIONS.c.number.in_(wanted[first : first + MANY])),
                    evaluation_of,
                )
            ]

        return self.database.read(work)[:limit]

    def points(
        self, study_id: int, sizes: Sequence[SizeName], *, floor: float = float("-inf")
    ) -> Points:
        """Return metric and sizes of the complete evaluations from a metric on."""
        return self.database.read(lambda c: points(c, study_id, sizes, floor))

    def hold(self, study_id: int, job: Job, outcome: Outcome) -> None:
        """Keep an outcome whose number is not known yet."""
        known = select(EVALUATIONS.c.number).where(
            EVALUATIONS.c.study_id == study_id, EVALUATIONS.c.key == key_of(job)
        )

        def work(connection: Connection) -> None:
            number = connection.execute(known).scalar_one_or_none()
            if number is not None:
                raise StorageError(f"{job.recipe} is evaluation {number} already")
            kept = self._artifacts.put(connection, study_id, [outcome])
            values = job_values(job, outcome, kept)
            connection.execute(insert(HELD).values(study_id=study_id, **values))

        self.database.write(study_id, work)

    def held(self, study_id: int) -> Mapping[str, Outcome]:
        """Return the outcomes held, by key."""
        query = select(HELD).where(HELD.c.study_id == study_id)
        return dict(self.database.read(lambda c: read_rows(c, query, held_of)))

    def drop_held(self, study_id: int) -> None:
        """Forget the outcomes held."""

        def work(connection: Connection) -> None:
            connection.execute(delete(HELD).where(HELD.c.study_id == study_id))
            self._artifacts.drop_unused(connection, study_id)

        self.database.write(study_id, work)

    def forget_retriable(self, study_id: int) -> int:
        """Forget failures that say nothing about their candidates."""
        retriable = (
            EVALUATIONS.c.study_id == study_id,
            EVALUATIONS.c.status == "failed",
            EVALUATIONS.c.retriable,
        )
        searched = select(func.min(EVALUATIONS.c.generation)).where(
            *retriable, EVALUATIONS.c.stage == "search"
        )

        def work(connection: Connection) -> int:
            first = connection.execute(searched).scalar_one()
            if first is not None:
                connection.execute(
                    delete(GENERATIONS).where(
                        GENERATIONS.c.study_id == study_id, GENERATIONS.c.index >= first
                    )
                )
            n = connection.execute(delete(EVALUATIONS).where(*retriable)).rowcount
            counts.count_anew(connection, study_id)
            _touch(connection, study_id)
            return n

        return self.database.write(study_id, work)

    # ------------------------------------------------------------------ artifacts

    def artifact(self, study_id: int, fingerprint: str) -> bytes:
        """Return an artifact after checking its digest."""
        return self.database.read(lambda c: self._artifacts.get(c, study_id, fingerprint))

    def artifacts(self, study_id: int) -> Mapping[str, int]:
        """Return which artifacts there are: bytes by fingerprint."""
        return self.database.read(lambda c: self._artifacts.sizes(c, study_id))

    # ------------------------------------------------------------------ generations, events

    def put_generation(self, study_id: int, generation: GenerationRecord) -> None:
        """Store a generation and its event unless it is stored already, and as complete."""
        place = (GENERATIONS.c.study_id == study_id, GENERATIONS.c.index == generation.index)
        known = select(GENERATIONS.c.n_evaluations).where(*place)
        values = generation_values(study_id, generation)

        def work(connection: Connection) -> None:
            n_before = connection.execute(known).scalar_one_or_none()
            if n_before is None or n_before < generation.n_evaluations:
                connection.execute(delete(GENERATIONS).where(*place))
                connection.execute(insert(GENERATIONS).values(values))
                event = event_values(study_id, GenerationEnded(generation))
                connection.execute(insert(EVENTS).values(event))

        self.database.write(study_id, work)

    def generations(self, study_id: int) -> Sequence[GenerationRecord]:
        """Return all generations of a study by index."""
        of_study = GENERATIONS.c.study_id == study_id
        query = select(GENERATIONS).where(of_study).order_by(GENERATIONS.c.index)
        return self.database.read(lambda c: read_rows(c, query, generation_of))

    def add_events(self, study_id: int, events: Sequence[Event]) -> None:
        """Store lasting events in their order."""
        if not events:
            return
        rows = [event_values(study_id, event) for event in events]

        def work(connection: Connection) -> None:
            connection.execute(insert(EVENTS), rows)
            _touch(connection, study_id)

        self.database.write(study_id, work)

    def events(
        self,
        study_id: int,
        *,
        after: int = 0,
        kinds: Collection[str] | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[EventRecord]:
        """Return events of a study, oldest first."""
        query = events_of(study_id, after=after, kinds=kinds, limit=limit, newest=newest)
        found = self.database.read(lambda c: read_rows(c, query, event_of))
        return found[::-1] if newest else found

    def n_events(self, study_id: int, kind: str, *, after: int = 0) -> int:
        """Return how many events of a kind there are."""
        of_kind = (EVENTS.c.study_id == study_id, EVENTS.c.kind == kind, EVENTS.c.id > after)
        query = select(func.count()).select_from(EVENTS).where(*of_kind)
        return self.database.read(lambda c: c.execute(query).scalar_one())

    # ------------------------------------------------------------------ the writer

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Hold a study for writing."""
        with self.database.lock(study):
            self.database.read(lambda c: self._artifacts.clean(c, study))
            yield

    def holder(self, study: str) -> str | None:
        """Return who holds a study for writing."""
        return self.database.holders([study])[study]

    def beside(self, what: str) -> str | None:
        """Return a folder for large files that may be deleted at any time."""
        if (path := self.database.path) is not None:
            return str(path.with_name(f"{path.name}.{what}"))
        return str(self._artifacts.folder / what) if self._artifacts.folder else None

    def close(self) -> None:
        """Release connections."""
        self.database.close()


def _touch(connection: Connection, study_id: int, **values: Any) -> None:
    values = {"updated_at": now()} | values
    connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(**values))
