"""When which worker evaluated what: rows of bars, thinned where there are too many to tell apart.

A row with more evaluations than the chart has cells is drawn by cells: each says which share of it
the worker was busy for. Times in which no worker evaluated anything, as between two runs of a
study, are cut out, or a weekend would hide the days around it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.service.views.documents import Pause, Timeline, WorkerRow
from moeash.study.storage.columns import STATUSES, Columns

SHORTEST_PAUSE_S = 30.0
SHORTEST_PAUSE_SHARE = 0.05
"""A time without any evaluation is a pause if it is as long as this, and this share of the rest."""


@dataclass(frozen=True)
class _Bars:
    """Evaluations of known workers, in the order they began."""

    worker: NDArray[np.object_]
    number: NDArray[np.int64]
    status: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]


def timeline_of(columns: Columns, *, cells: int, rows: int) -> Timeline:
    """Return the evaluations of a study by worker.

    Args:
        columns: of the study.
        cells: that a row is wide: more evaluations than these are drawn by cells.
        rows: workers shown at most, those that were busy last.
    """
    bars = _bars_of(columns)
    lost = len(columns.number) - len(bars.number)
    if not len(bars.number):
        return Timeline(began_at_s=None, length_s=0, pauses=[], items=[], workers=0, lost=lost)
    origin = float(bars.start[0])
    starts, lengths = _pauses(bars)
    # How long all pauses before a moment were, for every bar: none of them crosses a pause.
    cut = np.concatenate([[0.0], np.cumsum(lengths)])[np.searchsorted(starts, bars.start, "right")]
    start, end = bars.start - origin - cut, bars.end - origin - cut
    length = float(end.max())
    names, index = np.unique(bars.worker.astype(str), return_inverse=True)
    last = np.full(len(names), -np.inf)
    np.maximum.at(last, index, bars.end)
    shown = set(np.argsort(-last, kind="stable")[:rows].tolist())
    first = [int(np.argmax(index == i)) for i in range(len(names))]
    items = [
        _row(str(names[i]), bars, start, end, np.flatnonzero(index == i), length, cells)
        for i in sorted(shown, key=lambda i: first[i])
    ]
    pauses = [
        Pause(at_s=float(at - origin - before), length_s=float(pause))
        for at, pause, before in zip(starts, lengths, np.cumsum(lengths) - lengths, strict=True)
    ]
    return Timeline(
        began_at_s=origin,
        length_s=length,
        pauses=pauses,
        items=items,
        workers=len(names),
        lost=lost,
    )


def _bars_of(columns: Columns) -> _Bars:
    known = np.flatnonzero(columns.worker != None)  # noqa: E711, of every element
    start = columns.ended_s[known] - columns.duration_s[known]
    order = known[np.argsort(start, kind="stable")]
    end = columns.ended_s[order]
    return _Bars(
        columns.worker[order],
        columns.number[order],
        columns.status[order],
        end - columns.duration_s[order],
        end,
    )


def _pauses(bars: _Bars) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return when nobody began anything for long after everything had ended, and for how long."""
    until = np.maximum.accumulate(bars.end)[:-1]
    gaps = np.maximum(0.0, bars.start[1:] - until)
    worked = bars.end.max() - bars.start[0] - gaps.sum()
    long = gaps > max(SHORTEST_PAUSE_S, SHORTEST_PAUSE_SHARE * worked)
    return until[long], gaps[long]


def _row(
    name: str,
    bars: _Bars,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    mine: NDArray[np.int64],
    length: float,
    cells: int,
) -> WorkerRow:
    start, end = start[mine], end[mine]
    busy, alive = float((end - start).sum()), float(end.max() - start.min())
    failed = bars.status[mine] == STATUSES.index("failed")
    thinned = len(mine) > cells
    if thinned:
        shares = _shares(start, end, length, cells)
        filled = np.flatnonzero(shares > 0)
        width = length / cells
        drawn = filled * width, (filled + 1) * width, shares[filled]
    else:
        drawn = start, end, np.ones(len(mine))
    return WorkerRow(
        worker=name,
        evaluations=len(mine),
        failed=int(failed.sum()),
        busy_s=busy,
        alive_s=alive,
        utilisation=min(1.0, busy / alive) if alive else 1.0,
        start_s=drawn[0].round(4).tolist(),
        end_s=drawn[1].round(4).tolist(),
        share=drawn[2].round(4).tolist(),
        number=None if thinned else bars.number[mine].tolist(),
    )


def _shares(
    start: NDArray[np.float64], end: NDArray[np.float64], length: float, cells: int
) -> NDArray[np.float64]:
    """Return which share of each cell lies within some bar; the bars of a worker do not overlap."""
    edges = np.linspace(0.0, length, cells + 1)
    # Busy time before an edge: what has ended by then, and the begun part of what has not.
    order = np.sort(end)
    ended = np.concatenate([[0.0], np.cumsum(end[np.argsort(end, kind="stable")])])
    begun = np.concatenate([[0.0], np.cumsum(np.sort(start))])
    n_ended = np.searchsorted(order, edges, "right")
    n_begun = np.searchsorted(np.sort(start), edges, "right")
    before = ended[n_ended] + (n_begun - n_ended) * edges - begun[n_begun]
    shares: NDArray[np.float64] = np.clip(np.diff(before) / (length / cells), 0.0, 1.0)
    return shares
