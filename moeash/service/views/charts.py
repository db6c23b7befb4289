"""Evaluations of studies as columns, kept while people look at them: fronts and thinned points.

A study of 50,000 evaluations takes a tenth of a second to read, and a page asks every second. So
what was read stays, and only newer evaluations are read; complete ones never change. A failure that
is tried again keeps its number: then the counts differ, and everything is read again.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.core.solutions.objectives import as_minimised
from moeash.service.views.kept import Kept
from moeash.study.facts import StudyFacts
from moeash.study.solution import front_rows
from moeash.study.storage.columns import STAGES, STATUSES, Columns
from moeash.study.storage.records import StudyRecord
from moeash.study.storage.team.listing import Listing

FEW = 4000
"""Points that a chart draws as they are."""

COMPLETE = STATUSES.index("complete")
SEARCH = STAGES.index("search")


@dataclass(frozen=True)
class Thinned:
    """Points chosen for a chart.

    Attributes:
        rows: indices into the columns, increasing.
        total: of how many.
    """

    rows: NDArray[np.int64]
    total: int


class Chart:
    """The columns of one study.

    Attributes:
        columns: all evaluations, by number.
    """

    def __init__(self, facts: StudyFacts, columns: Columns) -> None:
        self._facts = facts
        self.columns = columns
        self._front = self._front_of(np.arange(len(columns.number)))

    @property
    def last(self) -> int:
        """The highest number; 0 before there is one."""
        numbers = self.columns.number
        return int(numbers[-1]) if len(numbers) else 0

    def extended(self, newer: Columns) -> "Chart":
        """Return the chart with newer evaluations."""
        if not len(newer.number):
            return self
        joined = Chart.__new__(Chart)
        joined._facts = self._facts
        joined.columns = Columns(
            *(
                np.concatenate([getattr(part, field.name) for part in (self.columns, newer)])
                for field in fields(Columns)
            )
        )
        # Whatever was dominated stays so: the new front is among the old one and the newer rows.
        added = np.arange(len(self.columns.number), len(joined.columns.number))
        joined._front = joined._front_of(np.concatenate([self._front, added]))
        return joined

    def front(self, generation: int | None = None) -> NDArray[np.int64]:
        """Return the numbers of the front, increasing.

        Args:
            generation: as it was after this generation of the search; None: as it is.
        """
        if generation is None:
            return self.columns.number[self._front]
        is_old = (self.columns.generation <= generation) & (self.columns.stage == SEARCH)
        return self.columns.number[self._front_of(np.flatnonzero(is_old))]

    def thinned(self, columns: int, rows: int, *, after: int = 0) -> Thinned:
        """Choose points for a chart of so many cells: the front, and the first of each cell.

        Args:
            columns: cells along the logarithm of bytes.
            rows: cells along the metric.
            after: only points with a higher number.
        """
        here = self.columns
        usable = self._drawable(after)
        if len(usable) <= FEW:
            return Thinned(usable, len(usable))
        x = _cells(np.log(here.size_bytes[usable]), columns)
        y = _cells(here.metric[usable], rows)
        kind = here.status[usable] * len(STAGES) + here.stage[usable]
        cell = (x * rows + y) * (len(STATUSES) * len(STAGES)) + kind
        _, first = np.unique(cell, return_index=True)
        kept = np.union1d(usable[first], self._front[np.isin(self._front, usable)])
        return Thinned(kept, len(usable))

    def _drawable(self, after: int) -> NDArray[np.int64]:
        here = self.columns
        return np.flatnonzero(
            (here.number > after) & np.isfinite(here.metric) & (here.size_bytes > 0)
        )

    def document(self, thinned: Thinned) -> dict[str, Any]:
        """Return chosen points as columns of plain values."""
        here, chosen = self.columns, thinned.rows
        worker = here.worker[chosen].tolist()
        numbers = {name: i for i, name in enumerate(sorted({*worker} - {None}))}
        return {
            "numbers": here.number[chosen].tolist(),
            "stage": [STAGES[i] for i in here.stage[chosen]],
            "status": [STATUSES[i] for i in here.status[chosen]],
            "size_bytes": here.size_bytes[chosen].astype(int).tolist(),
            "metric": here.metric[chosen].tolist(),
            "generation": here.generation[chosen].tolist(),
            "worker": [numbers.get(name, -1) for name in worker],
            "workers": list(numbers),
            "front": self.front().tolist(),
            "shown": len(chosen),
            "total": thinned.total,
            "drawable": len(self._drawable(0)),
            "last": self.last,
        }

    def _front_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        here = self.columns
        rows = rows[
            (here.status[rows] == COMPLETE) & (here.metric[rows] >= self._facts.wanted_floor)
        ]
        if not len(rows):
            return rows
        sizes = np.column_stack([getattr(here, name)[rows] for name in self._facts.objectives])
        found: NDArray[np.int64] = rows[front_rows(as_minimised(here.metric[rows], sizes))]
        return found


def _cells(values: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.minimum((scaled * n).astype(np.int64), n - 1)


class Charts:
    """The charts of the studies that were asked for last. Threads may share it.

    At 88 bytes an evaluation they take 140 MB if all have 50,000.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._kept: Kept[Chart] = Kept()

    def of(self, record: StudyRecord) -> Chart:
        """Return a study's chart with everything that is stored now."""
        known = self._kept.get(record)
        after = 0 if known is None else known.last
        columns, tally = self._listing.columns(record.id, after=after)
        chart = Chart(record.facts, columns) if known is None else known.extended(columns)
        if known is not None and chart.columns.tally() != tally:
            chart = Chart(record.facts, self._listing.columns(record.id)[0])
        self._kept.put(record, chart)
        return chart
