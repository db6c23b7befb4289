"""Timelines of evaluations by worker."""

import numpy as np
import pytest

from moeash.service.views.timeline import timeline_of
from moeash.study.storage.columns import Columns


def columns_of(bars):
    """Columns of evaluations given as (worker, start, end), or (worker, start, end, status)."""
    n = len(bars)
    ones = np.ones(n, dtype=np.int64)
    status = np.array([bar[3] if len(bar) > 3 else 0 for bar in bars], dtype=np.int64)
    end = np.array([bar[2] for bar in bars], dtype=np.float64)
    start = np.array([bar[1] for bar in bars], dtype=np.float64)
    worker = np.array([bar[0] for bar in bars], dtype=object)
    size = np.ones(n)
    return Columns(
        np.arange(1, n + 1),
        0 * ones,
        status,
        ones,
        size,
        size,
        size,
        size,
        end - start,
        end,
        worker,
    )


def timeline(bars, *, cells=100, rows=40):
    return timeline_of(columns_of(bars), cells=cells, rows=rows)


def test_every_evaluation_is_a_bar_of_its_workers_row():
    got = timeline([("b", 105.0, 110.0), ("a", 100.0, 102.0), ("a", 104.0, 110.0, 2)])
    assert (got.began_at_s, got.length_s, got.workers, got.lost) == (100.0, 10.0, 2, 0)
    a, b = got.items
    assert (a.worker, a.evaluations, a.failed, a.busy_s, a.alive_s) == ("a", 2, 1, 8.0, 10.0)
    assert (a.start_s, a.end_s, a.number) == ([0.0, 4.0], [2.0, 10.0], [2, 3])
    assert a.utilisation == pytest.approx(0.8) and b.utilisation == 1.0
    assert (b.start_s, b.share) == ([5.0], [1.0])


def test_a_study_without_workers_has_an_empty_timeline():
    got = timeline([(None, 1.0, 2.0), (None, 2.0, 3.0)])
    assert (got.items, got.lost, got.began_at_s) == ([], 2, None)
    assert timeline([]).lost == 0


def test_a_time_in_which_nobody_worked_is_cut_out():
    got = timeline([("a", 0.0, 50.0), ("b", 10.0, 60.0), ("c", 100_060.0, 100_100.0)])
    assert [(p.at_s, p.length_s) for p in got.pauses] == [(60.0, 100_000.0)]
    assert got.length_s == 100.0
    assert [(row.worker, row.start_s, row.end_s) for row in got.items] == [
        ("a", [0.0], [50.0]),
        ("b", [10.0], [60.0]),
        ("c", [60.0], [100.0]),
    ]


def test_a_short_wait_is_not_cut_out():
    got = timeline([("a", 0.0, 50.0), ("a", 79.0, 100.0)])
    assert got.pauses == [] and got.items[0].utilisation == pytest.approx(0.71)


def test_only_those_that_were_busy_last_are_shown_in_the_order_they_began():
    bars = [(f"w{i}", float(i), 100.0 - i) for i in range(10)]
    got = timeline(bars, rows=3)
    assert (got.workers, [row.worker for row in got.items]) == (10, ["w0", "w1", "w2"])


def test_many_evaluations_are_cells_whose_shares_hold_the_busy_time():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.uniform(0.0, 1000.0, 8000))
    bars = [("a", edges[i], edges[i + 1]) for i in range(0, 8000, 2)]
    got = timeline([*bars, ("b", 0.0, 1000.0)], cells=200)
    a = next(row for row in got.items if row.worker == "a")
    assert a.number is None and len(a.start_s) <= 200
    width = np.array(a.end_s) - np.array(a.start_s)
    assert np.allclose(width, got.length_s / 200, atol=1e-3)
    busy = sum(end - start for _, start, end in bars)
    assert a.busy_s == pytest.approx(busy)
    assert (width * a.share).sum() == pytest.approx(busy, rel=1e-3)
    # The definition, cell by cell.
    for cell in (0, 57, 199):
        low, high = 5.0 * cell, 5.0 * (cell + 1)
        inside = sum(max(0.0, min(end, high) - max(start, low)) for _, start, end in bars)
        assert a.share[a.start_s.index(low)] == pytest.approx(inside / 5.0, abs=1e-3)
