"""Events of all studies in the order of their ids, for whoever passes them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select

from moeash.study.storage.engines.database import Database
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import EventRecord
from moeash.study.storage.rows import event_of, study_of
from moeash.study.storage.tables import EVENTS, STUDIES


@dataclass(frozen=True)
class StreamedEvent:
    """An event and its study.

    Attributes:
        study: the study's name.
        record: the event.
    """

    study: str
    record: EventRecord


class Stream:
    """The events of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_id(self) -> int:
        """Return the highest id; 0 before there is an event."""
        query = select(func.max(EVENTS.c.id))
        return self._database.read(lambda c: c.execute(query).scalar_one()) or 0

    def events(
        self, *, after: int, limit: int, study: str | None = None, upto: int | None = None
    ) -> Sequence[StreamedEvent]:
        """Return events with ids above ``after``, lowest first.

        Args:
            after: id.
            limit: at most so many.
            study: only of this study.
            upto: only with ids up to this one.
        """
        query = (
            select(EVENTS, STUDIES.c.name.label("study"))
            .join(STUDIES)
            .where(EVENTS.c.id > after)
            .order_by(EVENTS.c.id)
            .limit(limit)
        )
        if study is not None:
            query = query.where(STUDIES.c.name == study)
        if upto is not None:
            query = query.where(EVENTS.c.id <= upto)

        def make(row: Row[Any]) -> StreamedEvent:
            return StreamedEvent(row.study, event_of(row))

        return self._database.read(lambda c: read_rows(c, query, make))

    def passing(self) -> Sequence[StreamedEvent]:
        """Return what each running study is doing now."""
        query = select(STUDIES).where(
            STUDIES.c.status == "running", STUDIES.c.activity.is_not(None)
        )
        records = self._database.read(lambda c: read_rows(c, query, study_of))
        return [
            StreamedEvent(record.facts.name, record.activity)
            for record in records
            if record.activity is not None
        ]
