"""Where every study of a database stands, in SQL: lists are chosen by it.

What is shown of a study is said by :func:`moeash.launch.standing.standing`, from its newest run and
from what is stored; a list that is chosen by a word shows the studies of which that word is said.
"""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Subquery, and_, case, func, literal, or_, select, union_all

from moeash.study.storage.tables import COUNTS, EVALUATIONS, LAUNCHES, STUDIES
from moeash.study.storage.team.launch import INTERRUPTED
from moeash.study.storage.team.launches import STOPPED

Standing = Literal["queued", "running", "finished", "interrupted", "crashed", "failed"]
"""Where a study stands for whoever lists it: ``queued`` before its process was started."""


def all_studies(held: Sequence[str], *, with_bytes: bool) -> Subquery:
    """Return all studies as rows: id, name, standing, times, and the smallest wanted file.

    Args:
        held: studies that somebody holds for writing.
        with_bytes: whether the smallest file is wanted.
    """
    newest = _newest_runs()
    smallest: ColumnElement[Any] = literal(None, EVALUATIONS.c.size_bytes.type)
    if with_bytes:
        smallest = (
            select(func.min(COUNTS.c.smallest_bytes))
            .where(COUNTS.c.study_id == STUDIES.c.id)
            .scalar_subquery()
        )
    stored = select(
        STUDIES.c.id.label("id"),
        STUDIES.c.name.label("name"),
        _of_stored(held, newest).label("standing"),
        STUDIES.c.created_at.label("created"),
        STUDIES.c.updated_at.label("updated"),
        smallest.label("bytes"),
    ).select_from(STUDIES.outerjoin(newest, newest.c.study == STUDIES.c.name))
    by_state = {"queued": "queued", "running": "running"}
    launched = select(
        literal(None, STUDIES.c.id.type).label("id"),
        newest.c.study.label("name"),
        case(by_state, value=newest.c.state, else_=_how_it_ended(newest)).label("standing"),
        newest.c.requested_at.label("created"),
        func.coalesce(newest.c.ended_at, newest.c.requested_at).label("updated"),
        literal(None, EVALUATIONS.c.size_bytes.type).label("bytes"),
    ).where(~select(literal(1)).where(STUDIES.c.name == newest.c.study).exists())
    return union_all(stored, launched).subquery("all_studies")


def _newest_runs() -> Subquery:
    """Return the newest run of each study that was ever launched."""
    last = (
        select(func.max(LAUNCHES.c.id)).where(LAUNCHES.c.kind == "run").group_by(LAUNCHES.c.study)
    )
    return select(LAUNCHES).where(LAUNCHES.c.id.in_(last)).subquery("newest_runs")


def _of_stored(held: Sequence[str], newest: Subquery) -> ColumnElement[str]:
    said = case(
        (STUDIES.c.name.in_(list(held)), "running"),
        (STUDIES.c.status == "running", "crashed"),
        else_=STUDIES.c.status,
    )
    how = _how_it_ended(newest)
    # A launch that ended after the study last wrote did not get as far as writing.
    is_later = and_(newest.c.state == "ended", newest.c.ended_at >= STUDIES.c.updated_at)
    return case(
        (newest.c.state.in_(("queued", "running")), newest.c.state),
        (and_(is_later, said == "interrupted", how.in_(("failed", "crashed"))), how),
        else_=said,
    )


def _how_it_ended(newest: Subquery) -> ColumnElement[str]:
    code = newest.c.exit_code
    return case(
        (code == 0, "finished"),
        (or_(code == INTERRUPTED, newest.c.message == STOPPED), "interrupted"),
        (code < INTERRUPTED, "failed"),
        else_="crashed",
    )
