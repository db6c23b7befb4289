"""Counts of a study's evaluations, kept beside them and changed in the same transactions.

Counting 50,000 evaluations takes a tenth of a second, and lists ask for it all the time.
:func:`counted` is the definition; a test compares the kept counts with it.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import Count, EvaluationRecord
from moeash.study.storage.tables import COUNTS, EVALUATIONS, STUDIES


def add(connection: Connection, study_id: int, records: Sequence[EvaluationRecord]) -> None:
    """Count evaluations that are being stored."""
    floor = select(STUDIES.c.wanted_floor).where(STUDIES.c.id == study_id)
    wanted_floor = connection.execute(floor).scalar_one()
    groups: dict[tuple[str, str], list[EvaluationRecord]] = defaultdict(list)
    for record in records:
        groups[record.stage, record.outcome.status].append(record)
    for (stage, status), group in groups.items():
        outcomes = [record.outcome for record in group]
        values: dict[str, Any] = {
            "n": len(group),
            "n_retriable": sum(outcome.retriable for outcome in outcomes),
            "n_batches": sum(outcome.n_batches for outcome in outcomes),
            "duration_s": sum(outcome.duration_s for outcome in outcomes),
        }
        sizes = [
            outcome.sizes.size_bytes
            for outcome in outcomes
            if outcome.metric is not None
            and outcome.sizes is not None
            and outcome.status == "complete"
            and outcome.metric >= wanted_floor
        ]
        least = min(sizes, default=None)
        place = (COUNTS.c.study_id == study_id, COUNTS.c.stage == stage, COUNTS.c.status == status)
        changed = {name: COUNTS.c[name] + value for name, value in values.items()}
        if least is not None:
            changed["smallest_bytes"] = _lesser(COUNTS.c.smallest_bytes, least)
        if connection.execute(update(COUNTS).where(*place).values(changed)).rowcount == 0:
            key = {"study_id": study_id, "stage": stage, "status": status}
            connection.execute(insert(COUNTS).values(key | values | {"smallest_bytes": least}))


def _lesser(kept: ColumnElement[int], other: int) -> ColumnElement[int]:
    return case((or_(kept.is_(None), kept > other), other), else_=kept)


def count_anew(connection: Connection, study_id: int) -> None:
    """Count all evaluations of a study, some of which were removed."""
    connection.execute(delete(COUNTS).where(COUNTS.c.study_id == study_id))
    query = counted().where(EVALUATIONS.c.study_id == study_id)
    names = [column.name for column in query.selected_columns]
    connection.execute(insert(COUNTS).from_select(names, query))


def counted() -> Select[Any]:
    """Return what :data:`COUNTS` holds, counted from the evaluations."""
    is_wanted = and_(
        EVALUATIONS.c.status == "complete", EVALUATIONS.c.metric >= STUDIES.c.wanted_floor
    )
    group = (EVALUATIONS.c.study_id, EVALUATIONS.c.stage, EVALUATIONS.c.status)
    return (
        select(
            *group,
            func.count().label("n"),
            func.sum(case((EVALUATIONS.c.retriable, 1), else_=0)).label("n_retriable"),
            func.sum(EVALUATIONS.c.n_batches).label("n_batches"),
            func.sum(EVALUATIONS.c.duration_s).label("duration_s"),
            func.min(case((is_wanted, EVALUATIONS.c.size_bytes))).label("smallest_bytes"),
        )
        .select_from(EVALUATIONS.join(STUDIES))
        .group_by(*group)
    )


def counts_of(connection: Connection, names: Collection[str]) -> dict[int, list[Count]]:
    """Return the counts of studies of these names, by id."""
    query = (
        select(COUNTS)
        .join(STUDIES)
        .where(STUDIES.c.name.in_(list(names)))
        .order_by(COUNTS.c.study_id, COUNTS.c.stage, COUNTS.c.status)
    )
    found: dict[int, list[Count]] = defaultdict(list)
    for study_id, count in read_rows(connection, query, count_of):
        found[study_id].append(count)
    return found


def count_of(row: Row[Any]) -> tuple[int, Count]:
    """Return the study and the record of a row of counts."""
    values = row._mapping
    return row.study_id, Count(**{name: values[name] for name in Count.__dataclass_fields__})
