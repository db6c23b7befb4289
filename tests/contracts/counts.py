"""The counts that storage keeps, held against their definition."""

import pytest

from moeash.study.storage.counts import count_of, counted
from moeash.study.storage.tables import COUNTS


def assert_counts_are_true(storage):
    """Compare what is kept of all studies with what counting their evaluations gives."""

    def work(connection):
        kept = map(count_of, connection.execute(COUNTS.select()))
        return list(kept), list(map(count_of, connection.execute(counted())))

    kept, true = storage.database.read(work)
    assert sorted(map(plain, kept)) == [
        (*one[:-2], pytest.approx(one[-2]), one[-1]) for one in sorted(map(plain, true))
    ]


def plain(counted_one):
    study_id, count = counted_one
    least = -1 if count.smallest_bytes is None else count.smallest_bytes
    return study_id, *[getattr(count, n) for n in FIELDS], float(count.duration_s), least


FIELDS = ("stage", "status", "n", "n_retriable", "n_batches")
