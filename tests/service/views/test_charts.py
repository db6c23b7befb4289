import random
from dataclasses import replace

import numpy as np
import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.evaluation.outcome import Outcome
from moeash.service.views.charts import FEW, Chart, Charts
from moeash.study.storage.columns import Columns
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.deleting import delete_study
from moeash.study.storage.team.listing import Listing
from moeash.study.study import Study
from tests.contracts.storage import FAILED, STOPPED, add, facts

FACTS = facts(spec={"evaluation": {"max_drop": 0.4}}, baseline=0.9)


@pytest.fixture
def storage(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    yield storage
    storage.close()


def fill(storage, study, numbers, rng):
    for number in numbers:
        metric, size = rng.choice([0.4, 0.6, 0.7, 0.85]), rng.randrange(50, 90)
        outcome = Outcome("complete", metric, metric, Sizes(size, 9, 2.5), "ab" * 16, 1, 0.1)
        if number % 7 == 0:
            outcome = STOPPED if number % 2 else FAILED
        add(storage, study, number, outcome=outcome, generation=1 + number // 10)


def test_a_front_that_grew_bit_by_bit_is_the_front_of_everything(storage):
    rng = random.Random(1)
    charts = Charts(Listing(storage.database))
    record = storage.create_study(FACTS)
    study = Study(storage, "digits")
    for first in range(1, 120, 9):
        fill(storage, record, range(first, first + 9), rng)
        assert charts.of(record).front().tolist() == study.front_numbers()
    chart = charts.of(record)
    assert chart.last == 126
    for generation in (1, 5, 12):
        old = [s for s in study.solutions() if s.record.generation <= generation]
        best = {}
        for s in old:
            if s.metric >= FACTS.wanted_floor and not any(
                o.metric >= s.metric
                and o.size_bytes <= s.size_bytes
                and (o.metric, o.size_bytes) != (s.metric, s.size_bytes)
                for o in old
            ):
                best.setdefault((s.metric, s.size_bytes), s.id)
        assert chart.front(generation).tolist() == sorted(best.values())


def test_a_failure_that_is_tried_again_is_seen_under_its_old_number(storage):
    charts = Charts(Listing(storage.database))
    record = storage.create_study(FACTS)
    add(storage, record, 1, outcome=replace(FAILED, retriable=True))
    add(storage, record, 2, outcome=STOPPED)
    assert charts.of(record).front().tolist() == []
    storage.forget_retriable(record.id)
    add(storage, record, 1, outcome=Outcome("complete", 0.8, 0.8, Sizes(9, 9, 2.5), "a", 1, 0.1))
    chart = charts.of(record)
    assert chart.columns.number.tolist() == [1, 2] and chart.front().tolist() == [1]


def test_a_study_that_was_deleted_leaves_no_points_to_its_successor(storage):
    charts, rng = Charts(Listing(storage.database)), random.Random(2)
    record = storage.create_study(FACTS)
    fill(storage, record, range(1, 5), rng)
    assert len(charts.of(record).columns.number) == 4
    with storage.lock("digits"):
        delete_study(storage.database, "digits")
    again = storage.create_study(FACTS)
    assert len(charts.of(again).columns.number) == 0


def chart_of(n, rng):
    metric = rng.random(n)
    size = np.round(10 ** (3 + 3 * rng.random(n)))
    ones = np.ones(n, dtype=np.int64)
    status = (rng.random(n) < 0.3).astype(np.int64)
    columns = (np.arange(1, n + 1), 0 * ones, status, ones, metric, size, size, size, size, size)
    return Chart(FACTS, Columns(*columns, worker=np.full(n, None)))


def test_few_points_are_all_drawn_and_many_keep_front_and_outline():
    rng = np.random.default_rng(3)
    few = chart_of(FEW, rng)
    assert few.thinned(200, 150).rows.tolist() == list(range(FEW))
    many = chart_of(50_000, rng)
    thinned = many.thinned(60, 40)
    assert thinned.total == 50_000 and 1000 < len(thinned.rows) < 60 * 40 * 2 + 100
    kept = many.columns.number[thinned.rows]
    assert set(many.front()) <= set(kept)
    # Every point that was left out has one of its kind beside it.
    x, y = np.log(many.columns.size_bytes), many.columns.metric
    cells = {}
    for row in thinned.rows:
        cell = (round(x[row] * 4), round(y[row] * 20), many.columns.status[row])
        cells[cell] = row
    lost = [
        row
        for row in range(50_000)
        if not any(
            (round(x[row] * 4) + dx, round(y[row] * 20) + dy, many.columns.status[row]) in cells
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
        )
    ]
    assert lost == []
    assert many.thinned(60, 40, after=49_990).rows.tolist() == list(range(49_990, 50_000))


def test_points_without_a_value_are_not_drawn():
    rng = np.random.default_rng(4)
    chart = chart_of(10, rng)
    chart.columns.metric[3] = np.nan
    chart.columns.metric[4] = np.inf
    chart.columns.size_bytes[5] = np.nan
    assert chart.thinned(10, 10).rows.tolist() == [0, 1, 2, 6, 7, 8, 9]
