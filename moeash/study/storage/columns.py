"""Evaluations of a study as columns: what charts and timelines are drawn from."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, case, func, select

from moeash.evaluation.outcome import Status
from moeash.study.storage.reading import read_rows, understood
from moeash.study.storage.records import Stage
from moeash.study.storage.tables import COUNTS, EVALUATIONS

STAGES: tuple[Stage, ...] = get_args(Stage)
STATUSES: tuple[Status, ...] = get_args(Status)

MILLISECONDS = len("2026-01-01T00:00:00.000")
"""Characters of a stored time before its zone, which is always UTC."""


WHOLE = ("number", "stage", "status", "generation")
FINITE = ("size_bytes", "entries", "bits_per_weight", "duration_s")
"""Of columns, in their order."""

Tally = Mapping[tuple[Stage, Status], int]
"""How many evaluations of a study have which stage and status."""


@dataclass(frozen=True)
class Columns:
    """Evaluations as columns of one length ``n``, by number.

    Attributes:
        number: whole numbers.
        stage: indices into :data:`STAGES`.
        status: indices into :data:`STATUSES`.
        generation: whole numbers.
        metric: measured, or of stopped ones the highest that was possible; NaN where unknown.
        size_bytes: of the file; NaN where unknown.
        entries: of the codebook; NaN where unknown.
        bits_per_weight: NaN where unknown.
        duration_s: seconds spent.
        ended_s: when that was, in seconds since 1970; of evaluations without a worker, when they
            were stored.
        worker: who spent them; None where nobody knows.
    """

    number: NDArray[np.int64]
    stage: NDArray[np.int64]
    status: NDArray[np.int64]
    generation: NDArray[np.int64]
    metric: NDArray[np.float64]
    size_bytes: NDArray[np.float64]
    entries: NDArray[np.float64]
    bits_per_weight: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    worker: NDArray[np.object_]

    def tally(self) -> Tally:
        """Return how many evaluations have which stage and status."""
        n = np.bincount(self.stage * len(STATUSES) + self.status).tolist()
        keys = itertools.product(STAGES, STATUSES)
        return {key: count for key, count in zip(keys, n, strict=False) if count}


def columns(connection: Connection, study_id: int, after: int) -> Columns:
    """Return the evaluations of a study with numbers above ``after``."""
    stored = EVALUATIONS.c
    query = (
        select(
            stored.number,
            case({s: i for i, s in enumerate(STAGES)}, value=stored.stage),
            case({s: i for i, s in enumerate(STATUSES)}, value=stored.status),
            stored.generation,
            func.coalesce(stored.metric, stored.bound),
            stored.size_bytes,
            stored.entries,
            stored.bits_per_weight,
            stored.duration_s,
            func.coalesce(stored.ended_at, stored.created_at),
            stored.worker,
        )
        .where(stored.study_id == study_id, stored.number > after)
        .order_by(stored.number)
    )
    rows = connection.execute(query).fetchall()
    with understood(f"an evaluation of study {study_id}"):
        found: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * 11
        number, stage, status, generation = (
            _whole(what, column) for what, column in zip(WHOLE, found[:4], strict=True)
        )
        metric, size_bytes, entries, bits, duration_s = (
            np.array(column, dtype=np.float64) for column in found[4:9]
        )
        for what, column in zip(FINITE, (size_bytes, entries, bits, duration_s), strict=True):
            if np.isinf(column).any():
                raise ValueError(f"its {what} is infinite")
        names: dict[str | None, str | None] = {}  # a name once, however many evaluations have it
        worker = [names.setdefault(name, name) for name in found[10]]
        return Columns(
            number,
            stage,
            status,
            generation,
            metric,
            size_bytes,
            entries,
            bits,
            duration_s,
            _seconds(found[9]),
            np.array(worker, dtype=object),
        )


def tally(connection: Connection, study_id: int) -> Tally:
    """Return how many evaluations of a study have which stage and status."""
    query = select(COUNTS).where(COUNTS.c.study_id == study_id)
    found = read_rows(connection, query, lambda row: ((row.stage, row.status), row.n))
    return {key: n for key, n in found if n}


def _whole(what: str, values: Sequence[Any]) -> NDArray[np.int64]:
    """Return whole numbers from 0 on; what SQL found no number for, as of a stage, is none."""
    found = np.array(values, dtype=np.float64)
    fits = (found >= 0) & (found < 2**53)
    if not fits.all():
        bad = values[int(np.flatnonzero(~fits)[0])]
        raise ValueError(f"its {what} is {'unknown' if bad is None else repr(bad)}")
    return found.astype(np.int64)


def _seconds(times: Sequence[str]) -> NDArray[np.float64]:
    moments = np.array([time[:MILLISECONDS] for time in times], dtype="datetime64[ms]")
    return moments.astype(np.int64) / 1000.0
