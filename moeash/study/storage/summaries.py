"""Studies as counts and columns: two queries, however many studies and evaluations there are."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, and_, func, select

from moeash.core.solutions.objectives import SizeName
from moeash.study.storage.counts import counts_of
from moeash.study.storage.reading import read_rows, understood
from moeash.study.storage.records import EventRecord, Points, StudySummary
from moeash.study.storage.rows import study_of
from moeash.study.storage.tables import EVALUATIONS, EVENTS, GENERATIONS, STUDIES


def points(
    connection: Connection, study_id: int, sizes: Sequence[SizeName], floor: float
) -> Points:
    """Return metric and sizes of a study's complete evaluations whose metric is at least this."""
    columns = [EVALUATIONS.c[name] for name in ("number", "metric", *sizes)]
    query = (
        select(*columns)
        .where(
            EVALUATIONS.c.study_id == study_id,
            EVALUATIONS.c.status == "complete",
            EVALUATIONS.c.metric >= floor,
        )
        .order_by(EVALUATIONS.c.number)
    )
    with understood(f"an evaluation of study {study_id}"):
        values = chain.from_iterable(connection.execute(query).fetchall())
        table = np.fromiter(values, dtype=np.float64).reshape(-1, len(columns))
        if not np.isfinite(table).all():
            raise ValueError("a metric or a size is not finite")
    return Points(table[:, 0].astype(np.int64), table[:, 1], table[:, 2:])


def summaries(connection: Connection, holders: Mapping[str, str | None]) -> list[StudySummary]:
    """Return studies as counts, oldest first.

    Args:
        connection: in a transaction.
        holders: the studies wanted, and who holds each, asked before this transaction began.
    """
    generation, event = GENERATIONS.alias(), EVENTS.alias()
    last_index = (
        select(func.max(GENERATIONS.c.index))
        .where(GENERATIONS.c.study_id == STUDIES.c.id)
        .scalar_subquery()
    )
    n_generations = (
        select(func.count())
        .select_from(GENERATIONS)
        .where(GENERATIONS.c.study_id == STUDIES.c.id)
        .scalar_subquery()
    )
    last_event = (
        select(func.max(EVENTS.c.id)).where(EVENTS.c.study_id == STUDIES.c.id).scalar_subquery()
    )
    studies = (
        select(
            STUDIES,
            n_generations.label("n_generations"),
            generation.c.hypervolume,
            event.c.id.label("event_id"),
            event.c.created_at.label("event_created_at"),
            event.c.kind.label("event_kind"),
            event.c.payload.label("event_payload"),
        )
        .select_from(
            STUDIES.outerjoin(
                generation,
                and_(generation.c.study_id == STUDIES.c.id, generation.c.index == last_index),
            ).outerjoin(event, event.c.id == last_event)
        )
        .where(STUDIES.c.name.in_(list(holders)))
        .order_by(STUDIES.c.id)
    )
    counts = counts_of(connection, holders)

    def make(row: Row[Any]) -> StudySummary:
        return StudySummary(
            record=study_of(row),
            holder=holders[row.name],
            counts=tuple(counts.get(row.id, ())),
            n_generations=row.n_generations,
            hypervolume=None if row.hypervolume is None else float(row.hypervolume),
            last_event=None
            if row.event_id is None
            else EventRecord(row.event_id, row.event_created_at, row.event_kind, row.event_payload),
        )

    return read_rows(connection, studies, make)
