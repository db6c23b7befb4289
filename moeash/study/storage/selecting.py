"""Queries that a database must not be left to plan alone."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, false, select, union_all

from moeash.study.storage.tables import EVENTS


def events_of(
    study_id: int,
    *,
    after: int = 0,
    kinds: Collection[str] | None = None,
    limit: int | None = None,
    newest: bool = False,
) -> Select[Any]:
    """Return the query of a study's events, in the order of their ids, or backwards.

    Of some kinds each is looked up by itself: asked for all at once in the order of ids, a database
    walks through all events of a study, of which nearly every one is an evaluation.

    Args:
        study_id: of the study.
        after: only those with a larger id.
        kinds: only these.
        limit: at most so many.
        newest: backwards.
    """
    ids = EVENTS.c.id
    here = (EVENTS.c.study_id == study_id, ids > after)
    direction = ids.desc() if newest else ids
    if kinds is None:
        query = select(EVENTS).where(*here)
    else:
        each = [
            select(ids)
            .where(*here, EVENTS.c.kind == kind)
            .order_by(direction)
            .limit(limit)
            .subquery()
            for kind in kinds
        ]
        chosen = ids.in_(union_all(*(select(some.c.id) for some in each))) if each else false()
        query = select(EVENTS).where(chosen)
    return query.order_by(direction).limit(limit)
