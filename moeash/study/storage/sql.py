"""Storage on SQLAlchemy: one code for SQLite and PostgreSQL; what differs has its own module."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from moeash.core.objectives import Sizes
from moeash.core.recipe import Recipe
from moeash.errors import StorageError, StudyExistsError, StudyNotFoundError
from moeash.evaluation.outcome import Job, Outcome
from moeash.names import nearest
from moeash.study.storage.lock import file_lock, file_lock_holder
from moeash.study.storage.postgres import (
    advisory_lock,
    advisory_lock_holder,
    lock_schema,
    postgres_engine,
)
from moeash.study.storage.records import (
    EvaluationRecord,
    EventRecord,
    GenerationRecord,
    Stage,
    StudyFacts,
    StudyRecord,
    StudyStatus,
    now,
)
from moeash.study.storage.schema import is_current, upgrade
from moeash.study.storage.sqlite import database_of, sqlite_engine
from moeash.study.storage.tables import EVALUATIONS, EVENTS, GENERATIONS, STUDIES

BUSY_TIMEOUT_S = 10.0
"""How long a write waits for another process's write before it is refused."""


class SqlStorage:
    """Studies in a SQL database."""

    def __init__(
        self, url: str, *, create: bool = True, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        """Open the database, creating or upgrading its schema.

        Args:
            url: an SQLAlchemy URL, or a path to an SQLite file.
            create: make a database that does not exist.
            busy_timeout_s: how long a write waits for another process's write.

        Raises:
            StorageError: it cannot be opened.
            StudyNotFoundError: it does not exist and is not to be created.
            SchemaError: it is newer than this moeash, or not moeash's.
        """
        self.url = url if "://" in url else f"sqlite:///{url}"
        self._busy_timeout_s = busy_timeout_s
        with self._border():
            parsed = make_url(self.url)
            self.url = parsed.render_as_string(hide_password=True)
            self._database: Path | None = None
            if parsed.get_backend_name() == "postgresql":
                self._engine = postgres_engine(parsed)
            else:
                self._database = database_of(parsed)
                if not create and not self._database.exists():
                    raise StudyNotFoundError(
                        f"there is no database {self._database}; run a study first, "
                        "or say where it is with --storage or MOEASH_STORAGE"
                    )
                self._engine = sqlite_engine(self._database, busy_timeout_s)
            with self._reading() as connection:
                current = is_current(connection)
            if not current:
                with self._writing() as connection:
                    if self._database is None:
                        lock_schema(connection)
                    upgrade(connection)

    @contextmanager
    def _border(self) -> Iterator[None]:
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
            elif "connection" in cause and self._database is None:
                hint = "; is the server running, and may this user connect?"
            elif "disk I/O" in cause:
                hint = "; is the disk full? everything stored so far is safe, run again later"
            elif "readonly" in cause or "unable to open" in cause:
                hint = "; check the permissions of the file and its folder"
            raise StorageError(f"database {self.url}: {cause}{hint}") from error

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._border(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self._border(),
            self._engine.connect() as connection,
            connection.execution_options(moeash_writes=True).begin(),
        ):
            yield connection

    def create_study(self, facts: StudyFacts) -> StudyRecord:
        """Store a new study."""
        created = now()
        values = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
        values |= {"objectives": list(facts.objectives), "reference": list(facts.reference)}
        try:
            with self._writing() as connection:
                connection.execute(
                    insert(STUDIES).values(
                        **values,
                        status="running",
                        ending=None,
                        created_at=created,
                        updated_at=created,
                    )
                )
        except StorageError as error:
            if isinstance(error.__cause__, IntegrityError):
                raise StudyExistsError(f"a study named {facts.name!r} exists already") from error
            raise
        return self.study(facts.name)

    def study(self, name: str) -> StudyRecord:
        """Return a study by name."""
        with self._reading() as connection:
            row = connection.execute(select(STUDIES).where(STUDIES.c.name == name)).one_or_none()
            if row is None:
                names = connection.execute(select(STUDIES.c.name)).scalars().all()
                raise StudyNotFoundError(f"no study {name!r} in {self.url}; {nearest(name, names)}")
        return _study(row)

    def studies(self) -> Sequence[StudyRecord]:
        """Return all studies, oldest first."""
        with self._reading() as connection:
            return [_study(r) for r in connection.execute(select(STUDIES).order_by(STUDIES.c.id))]

    def set_status(self, study_id: int, status: StudyStatus, ending: str | None = None) -> None:
        """Record where a study stands."""
        values: dict[str, Any] = {"status": status, "updated_at": now()}
        if ending is not None:
            values["ending"] = ending
        with self._writing() as connection:
            connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(**values))

    def add_evaluation(
        self,
        study_id: int,
        *,
        number: int,
        stage: Stage,
        generation: int,
        parent: int | None,
        job: Job,
        outcome: Outcome,
    ) -> EvaluationRecord:
        """Store one evaluation."""
        record = EvaluationRecord(number, stage, generation, parent, job, outcome, now())
        self.add_evaluations(study_id, [record])
        return record

    def add_evaluations(self, study_id: int, records: Sequence[EvaluationRecord]) -> None:
        """Store several evaluations, all or none, for the price of one."""
        keys = [record.job.key for record in records]
        with self._writing() as connection:
            connection.execute(
                delete(EVALUATIONS).where(
                    EVALUATIONS.c.study_id == study_id,
                    EVALUATIONS.c.number < 0,
                    EVALUATIONS.c.key.in_(keys),
                )
            )
            connection.execute(
                insert(EVALUATIONS),
                [
                    {
                        "study_id": study_id,
                        "number": r.number,
                        "stage": r.stage,
                        "generation": r.generation,
                        "parent": r.parent,
                        "created_at": r.created_at,
                        **_values(r.job, r.outcome),
                    }
                    for r in records
                ],
            )
            connection.execute(
                update(STUDIES)
                .where(STUDIES.c.id == study_id)
                .values(updated_at=records[-1].created_at)
            )

    def hold(self, study_id: int, job: Job, outcome: Outcome) -> None:
        """Keep an outcome under a negative number, which no reader is shown."""
        lowest = select(func.coalesce(func.min(EVALUATIONS.c.number), 0)).where(
            EVALUATIONS.c.study_id == study_id, EVALUATIONS.c.number < 0
        )
        with self._writing() as connection:
            number = connection.execute(lowest).scalar_one() - 1
            connection.execute(
                insert(EVALUATIONS).values(
                    study_id=study_id,
                    number=number,
                    stage="held",
                    generation=0,
                    parent=None,
                    created_at=now(),
                    **_values(job, outcome),
                )
            )

    def held(self, study_id: int) -> Mapping[str, Outcome]:
        """Return the outcomes held, by key."""
        query = select(EVALUATIONS).where(
            EVALUATIONS.c.study_id == study_id, EVALUATIONS.c.number < 0
        )
        with self._reading() as connection:
            return {row.key: _evaluation(row).outcome for row in connection.execute(query)}

    def drop_held(self, study_id: int) -> None:
        """Forget the outcomes held."""
        with self._writing() as connection:
            connection.execute(
                delete(EVALUATIONS).where(
                    EVALUATIONS.c.study_id == study_id, EVALUATIONS.c.number < 0
                )
            )

    def evaluations(self, study_id: int) -> Sequence[EvaluationRecord]:
        """Return all evaluations of a study by number."""
        query = (
            select(EVALUATIONS)
            .where(EVALUATIONS.c.study_id == study_id, EVALUATIONS.c.number > 0)
            .order_by(EVALUATIONS.c.number)
        )
        with self._reading() as connection:
            return [_evaluation(row) for row in connection.execute(query)]

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
        with self._writing() as connection:
            first = connection.execute(searched).scalar_one()
            if first is not None:
                connection.execute(
                    delete(GENERATIONS).where(
                        GENERATIONS.c.study_id == study_id, GENERATIONS.c.index >= first
                    )
                )
            return connection.execute(delete(EVALUATIONS).where(*retriable)).rowcount

    def put_generation(self, study_id: int, generation: GenerationRecord) -> None:
        """Store a generation unless it is stored already."""
        known = select(GENERATIONS.c.index).where(
            GENERATIONS.c.study_id == study_id, GENERATIONS.c.index == generation.index
        )
        values = {name: getattr(generation, name) for name in generation.__dataclass_fields__}
        with self._writing() as connection:
            if connection.execute(known).one_or_none() is None:
                connection.execute(insert(GENERATIONS).values(study_id=study_id, **values))

    def generations(self, study_id: int) -> Sequence[GenerationRecord]:
        """Return all generations of a study by index."""
        query = (
            select(GENERATIONS)
            .where(GENERATIONS.c.study_id == study_id)
            .order_by(GENERATIONS.c.index)
        )
        names = GenerationRecord.__dataclass_fields__
        with self._reading() as connection:
            return [
                GenerationRecord(**{name: row._mapping[name] for name in names})
                for row in connection.execute(query)
            ]

    def set_workers(self, study_id: int, n_workers: int | None) -> None:
        """Record how many workers live."""
        with self._writing() as connection:
            connection.execute(
                update(STUDIES).where(STUDIES.c.id == study_id).values(workers=n_workers)
            )

    def add_event(self, study_id: int, text: str) -> None:
        """Record what happened to a study's workers."""
        with self._writing() as connection:
            connection.execute(
                insert(EVENTS).values(study_id=study_id, created_at=now(), text=_text(text))
            )

    def events(self, study_id: int) -> Sequence[EventRecord]:
        """Return the events of a study, oldest first."""
        query = select(EVENTS).where(EVENTS.c.study_id == study_id).order_by(EVENTS.c.id)
        with self._reading() as connection:
            return [EventRecord(row.created_at, row.text) for row in connection.execute(query)]

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Hold a study for writing."""
        if self._database is None:
            with self._border(), advisory_lock(self._engine, study):
                yield
            return
        with file_lock(self._database, study):
            with self._border():
                # An idle connection: without any, SQLite would fold its log into the database
                # after every commit, which more than doubles the time of one.
                idle = self._engine.connect()
            with idle:
                yield

    def holder(self, study: str) -> str | None:
        """Return who holds a study for writing."""
        if self._database is not None:
            return file_lock_holder(self._database, study)
        with self._reading() as connection:
            return advisory_lock_holder(connection, study)

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()


def _text(text: str) -> str:
    return text.replace("\0", "\\0")  # the one character PostgreSQL's text cannot hold


def _values(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Return the columns that a job and its outcome fill."""
    sizes = outcome.sizes
    return {
        "key": job.key,
        "candidate": job.recipe.as_dict(),
        "runs": [],
        "floor": job.floor,
        "status": outcome.status,
        "metric": outcome.metric,
        "bound": outcome.bound,
        "size_bytes": None if sizes is None else sizes.size_bytes,
        "entries": None if sizes is None else sizes.entries,
        "bits_per_weight": None if sizes is None else sizes.bits_per_weight,
        "fingerprint": outcome.fingerprint,
        "n_batches": outcome.n_batches,
        "duration_s": outcome.duration_s,
        "error": None if outcome.error is None else _text(outcome.error),
        "retriable": outcome.retriable,
    }


def _study(row: Row[Any]) -> StudyRecord:
    values = dict(row._mapping)
    facts = {name: values[name] for name in StudyFacts.__dataclass_fields__}
    facts |= {"objectives": tuple(facts["objectives"]), "reference": tuple(facts["reference"])}
    own = {
        name: values[name]
        for name in ("id", "status", "ending", "created_at", "updated_at", "workers")
    }
    return StudyRecord(facts=StudyFacts(**facts), **own)


def _evaluation(row: Row[Any]) -> EvaluationRecord:
    v = row._mapping
    sizes = None
    if v["size_bytes"] is not None:
        sizes = Sizes(v["size_bytes"], v["entries"], v["bits_per_weight"])
    return EvaluationRecord(
        number=v["number"],
        stage=v["stage"],
        generation=v["generation"],
        parent=v["parent"],
        job=Job(Recipe.from_dict(v["candidate"]), v["floor"]),
        outcome=Outcome(
            status=v["status"],
            metric=v["metric"],
            bound=v["bound"],
            sizes=sizes,
            fingerprint=v["fingerprint"],
            n_batches=v["n_batches"],
            duration_s=v["duration_s"],
            error=v["error"],
            retriable=v["retriable"],
        ),
        created_at=v["created_at"],
    )
