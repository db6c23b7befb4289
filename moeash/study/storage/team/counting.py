"""Numbers about what runs and has run, for monitoring: a query each, however much is stored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import case, func, select, tuple_

from moeash.study.storage.access.secrets import moment_of, written
from moeash.study.storage.engines.database import Database
from moeash.study.storage.reading import read_rows, understood
from moeash.study.storage.tables import EVALUATIONS, GENERATIONS, LAUNCHES
from moeash.study.storage.team.launch import launch_of


@dataclass(frozen=True)
class EndedExport:
    """An export that has ended.

    Attributes:
        id: of its launch.
        seconds: that it took.
        succeeded: whether it left a file.
    """

    id: int
    seconds: float
    succeeded: bool


class Counting:
    """Numbers about one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fronts(self, study_ids: Collection[int]) -> Mapping[int, int]:
        """Return the size of each study's front after its last generation."""
        last = (
            select(GENERATIONS.c.study_id, func.max(GENERATIONS.c.index))
            .where(GENERATIONS.c.study_id.in_(list(study_ids)))
            .group_by(GENERATIONS.c.study_id)
        )
        query = select(GENERATIONS).where(
            tuple_(GENERATIONS.c.study_id, GENERATIONS.c.index).in_(last)
        )
        return dict(
            self._database.read(
                lambda c: read_rows(c, query, lambda row: (row.study_id, row.n_front))
            )
        )

    def busy(
        self, study_ids: Collection[int], *, until: datetime, window_s: float
    ) -> Mapping[int, float]:
        """Return how many workers of each study evaluated something, on average.

        Args:
            study_ids: of the studies.
            until: end of the time looked at.
            window_s: its length.
        """
        duration = EVALUATIONS.c.duration_s
        since = written(until - timedelta(seconds=window_s))
        within = case((duration < window_s, duration), else_=window_s)
        query = (
            select(EVALUATIONS.c.study_id, func.sum(within))
            .where(EVALUATIONS.c.study_id.in_(list(study_ids)), EVALUATIONS.c.created_at > since)
            .group_by(EVALUATIONS.c.study_id)
        )
        with understood("table evaluations"):
            rows = self._database.read(lambda c: c.execute(query).fetchall())
            return {study: float(seconds) / window_s for study, seconds in rows}

    def launches(self) -> Mapping[tuple[str, str], int]:
        """Return how many launches wait or run, by kind and state."""
        query = (
            select(LAUNCHES.c.kind, LAUNCHES.c.state, func.count())
            .where(LAUNCHES.c.state != "ended")
            .group_by(LAUNCHES.c.kind, LAUNCHES.c.state)
        )
        rows = self._database.read(lambda c: c.execute(query).fetchall())
        return {(kind, state): n for kind, state, n in rows}

    def ended_exports(self, since: str, *, limit: int = 1000) -> Sequence[EndedExport]:
        """Return the newest exports that have ended from a moment on."""
        query = (
            select(LAUNCHES)
            .where(
                LAUNCHES.c.kind == "export",
                LAUNCHES.c.state == "ended",
                LAUNCHES.c.started_at.is_not(None),
                LAUNCHES.c.ended_at >= since,
            )
            .order_by(LAUNCHES.c.id.desc())
            .limit(limit)
        )
        records = self._database.read(lambda c: read_rows(c, query, launch_of))
        ended = []
        with understood("table launches"):
            for record in records:
                took = moment_of(str(record.ended_at)) - moment_of(str(record.started_at))
                seconds = max(0.0, took.total_seconds())
                ended.append(EndedExport(record.id, seconds, record.exit_code == 0))
        return ended
