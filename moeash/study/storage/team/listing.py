"""Pages of studies and of evaluations: chosen, sorted and cut in SQL.

A study that waits in the queue, or died before it was stored, is listed by its launch alone.
Cursors are opaque: they hold the sort key and the name of the last row, so that a page begins where
the one before it ended whatever was added meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Subquery,
    Text,
    and_,
    case,
    cast,
    func,
    or_,
    select,
)

from moeash.core.plain import json_text
from moeash.evaluation.outcome import Status
from moeash.study.storage.columns import Columns, Tally, columns, tally
from moeash.study.storage.engines.database import Database
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import EvaluationRecord, Stage
from moeash.study.storage.rows import evaluation_of
from moeash.study.storage.tables import (
    COUNTS,
    EVALUATIONS,
    EVENTS,
    GENERATIONS,
    LABELS,
    STUDIES,
)
from moeash.study.storage.team.cursors import as_cursor, beyond, values_of
from moeash.study.storage.team.standings import Standing, all_studies

StudyOrder = Literal["updated", "created", "name", "bytes"]
EvaluationOrder = Literal["number", "size_bytes", "metric"]


@dataclass(frozen=True)
class Wanted:
    """Which studies a page is of.

    Attributes:
        status: only of this standing.
        tag: only with this tag.
        search: only with this text in their name.
        archived: those out of the way instead of the others.
    """

    status: Standing | None = None
    tag: str | None = None
    search: str | None = None
    archived: bool = False


@dataclass(frozen=True)
class Page:
    """Part of a list.

    Attributes:
        names: of the studies on it, in order.
        next: cursor of the next page; None on the last.
        total: studies on all pages.
        claimed: studies that are said to run; whether they do, their locks tell.
    """

    names: tuple[str, ...]
    next: str | None
    total: int
    claimed: tuple[str, ...] = ()


class Listing:
    """Lists of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ------------------------------------------------------------------ studies

    def studies(
        self,
        wanted: Wanted,
        *,
        order: StudyOrder = "updated",
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Return a page of studies: the newest, or the smallest name or file, first.

        Raises:
            InputError: ``after`` is no cursor of such a list.
        """
        said = select(STUDIES.c.name).where(STUDIES.c.status == "running")
        claimed = self._database.read(lambda c: list(c.execute(said).scalars()))
        # Who says to run is few; whether that is true is asked of the lock.
        held = [name for name, holder in self._database.holders(claimed).items() if holder]
        rows = all_studies(held, with_bytes=order == "bytes")
        chosen = _chosen(rows, wanted)
        key, downwards = _study_key(rows, order)
        query = select(rows.c.name, key.label("key")).where(*chosen)
        if after is not None:
            value, name = values_of(after, int if order == "bytes" else str, str)
            query = query.where(beyond(key, rows.c.name, value, name, downwards=downwards))
        direction = key.desc() if downwards else key
        query = query.order_by(direction, rows.c.name).limit(limit + 1)
        total = select(func.count()).select_from(rows).where(*chosen)

        def work(connection: Connection) -> tuple[list[Row[Any]], int]:
            return list(connection.execute(query)), connection.execute(total).scalar_one()

        found, n = self._database.read(work)
        last = found[limit - 1] if len(found) > limit else None
        return Page(
            tuple(row.name for row in found[:limit]),
            None if last is None else as_cursor(last.key, last.name),
            n,
            tuple(claimed),
        )

    def hypervolumes(self, lengths: Mapping[int, int], n: int) -> Mapping[int, list[float]]:
        """Return the course of studies' hypervolume, at most ``n`` values each.

        Args:
            lengths: generations of each study, by its id.
            n: at least 2.
        """
        steps = {id_: -(-length // n) for id_, length in lengths.items() if length}
        if not steps:
            return {}
        step = case(steps, value=GENERATIONS.c.study_id)
        last = case(dict(lengths), value=GENERATIONS.c.study_id)
        query = (
            select(GENERATIONS.c.study_id, GENERATIONS.c.hypervolume)
            .where(
                GENERATIONS.c.study_id.in_(list(steps)),
                or_(GENERATIONS.c.index % step == 0, GENERATIONS.c.index == last),
            )
            .order_by(GENERATIONS.c.study_id, GENERATIONS.c.index)
        )
        courses: dict[int, list[float]] = {id_: [] for id_ in steps}
        pairs = self._database.read(
            lambda c: read_rows(c, query, lambda row: (row.study_id, row.hypervolume))
        )
        for id_, value in pairs:
            courses[id_].append(value)
        return courses

    def hypervolume(self, study_id: int, upto: int | None = None) -> float | None:
        """Return a study's hypervolume after a generation, or after the last; None before it."""
        index = GENERATIONS.c.index
        query = select(GENERATIONS.c.hypervolume).where(GENERATIONS.c.study_id == study_id)
        if upto is not None:
            query = query.where(index <= upto)
        query = query.order_by(index.desc()).limit(1)
        found: float | None = self._database.read(lambda c: c.execute(query).scalar())
        return found

    def newest(self, study_ids: Collection[int], kind: str) -> Mapping[int, Mapping[str, Any]]:
        """Return the payload of the newest event of a kind of each study that has one."""
        if not study_ids:
            return {}
        ids = (
            select(func.max(EVENTS.c.id))
            .where(EVENTS.c.study_id.in_(list(study_ids)), EVENTS.c.kind == kind)
            .group_by(EVENTS.c.study_id)
        )
        query = select(EVENTS).where(EVENTS.c.id.in_(ids))
        return dict(
            self._database.read(
                lambda c: read_rows(c, query, lambda row: (row.study_id, row.payload))
            )
        )

    def stamps(self, names: Collection[str]) -> Mapping[str, tuple[Any, ...]]:
        """Return a value of each stored study that is another whenever something was stored."""
        last = select(func.max(EVENTS.c.id)).where(EVENTS.c.study_id == STUDIES.c.id)
        query = select(
            STUDIES.c.name,
            STUDIES.c.id,
            STUDIES.c.created_at,
            STUDIES.c.updated_at,
            STUDIES.c.status,
            last.scalar_subquery(),
        ).where(STUDIES.c.name.in_(list(names)))
        rows = self._database.read(lambda c: c.execute(query).fetchall())
        return {row.name: tuple(row) for row in rows}

    # ------------------------------------------------------------------ evaluations

    def evaluations(
        self,
        study_id: int,
        *,
        stage: Stage | None = None,
        status: Status | None = None,
        numbers: Collection[int] | None = None,
        order: EvaluationOrder = "number",
        downwards: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> tuple[Sequence[EvaluationRecord], str | None, int]:
        """Return a page of a study's evaluations, the next page's cursor, and how many there are.

        Evaluations that have no value to sort by are left out.

        Raises:
            InputError: ``after`` is no cursor of such a list.
        """
        key = EVALUATIONS.c[order]
        chosen = [EVALUATIONS.c.study_id == study_id, key.is_not(None)]
        if stage is not None:
            chosen.append(EVALUATIONS.c.stage == stage)
        if status is not None:
            chosen.append(EVALUATIONS.c.status == status)
        if numbers is not None:
            chosen.append(EVALUATIONS.c.number.in_(list(numbers)))
        query = select(EVALUATIONS).where(*chosen)
        number = EVALUATIONS.c.number
        if after is not None:
            value, last_number = values_of(after, float if order == "metric" else int, int)
            query = query.where(beyond(key, number, value, last_number, downwards=downwards))
        query = query.order_by(key.desc() if downwards else key, number).limit(limit + 1)
        total = select(func.count()).select_from(EVALUATIONS).where(*chosen)
        if order == "number" and numbers is None:  # as counted: the table is long
            total = select(func.coalesce(func.sum(COUNTS.c.n), 0)).where(
                COUNTS.c.study_id == study_id,
                *([] if stage is None else [COUNTS.c.stage == stage]),
                *([] if status is None else [COUNTS.c.status == status]),
            )

        def work(connection: Connection) -> tuple[list[EvaluationRecord], int]:
            found = read_rows(connection, query, evaluation_of)
            return found, int(connection.execute(total).scalar_one())

        found, n = self._database.read(work)
        cursor = None
        if len(found) > limit:
            last = found[limit - 1]
            sizes = last.outcome.sizes
            values = {
                "number": last.number,
                "metric": last.outcome.metric,
                "size_bytes": None if sizes is None else sizes.size_bytes,
            }
            cursor = as_cursor(values[order], last.number)
        return found[:limit], cursor, n

    def columns(self, study_id: int, *, after: int = 0) -> tuple[Columns, Tally]:
        """Return the evaluations of a study with numbers above ``after``, and how many all are."""
        return self._database.read(lambda c: (columns(c, study_id, after), tally(c, study_id)))


# ------------------------------------------------------------------ which studies


def _chosen(rows: Subquery, wanted: Wanted) -> list[ColumnElement[bool]]:
    archived = select(LABELS.c.study_id).where(LABELS.c.archived)
    is_archived = and_(rows.c.id.is_not(None), rows.c.id.in_(archived))
    chosen: list[ColumnElement[bool]] = [is_archived if wanted.archived else ~is_archived]
    if wanted.status is not None:
        chosen.append(rows.c.standing == wanted.status)
    if wanted.search:
        chosen.append(rows.c.name.icontains(wanted.search, autoescape=True))
    if wanted.tag is not None:
        # A tag is looked for in the text of the list, quoted as JSON quotes it.
        quoted = json_text(wanted.tag)
        tagged = select(LABELS.c.study_id).where(
            cast(LABELS.c.tags, Text).contains(quoted, autoescape=True)
        )
        chosen.append(rows.c.id.in_(tagged))
    return chosen


def _study_key(rows: Subquery, order: StudyOrder) -> tuple[ColumnElement[Any], bool]:
    """Return what to sort by, and whether the largest comes first."""
    if order == "bytes":
        return func.coalesce(rows.c.bytes, 2**62), False
    return rows.c[order], order != "name"
