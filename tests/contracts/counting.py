"""What numbers for monitoring must be on every database. Subclass it and supply ``storage``."""

from datetime import timedelta

import pytest

from moeash.study.storage.access.secrets import present, written
from moeash.study.storage.records import GenerationRecord
from moeash.study.storage.tables import EVALUATIONS, LAUNCHES
from moeash.study.storage.team.counting import Counting
from moeash.study.storage.team.launches import Launches
from tests.contracts.access import change
from tests.contracts.storage import FAILED, add, facts, replace


class CountingContract:
    """Numbers are those of what is stored."""

    @pytest.fixture
    def counting(self, storage):
        return Counting(storage.database)

    def test_a_front_is_that_after_the_last_generation(self, storage, counting):
        ids = [storage.create_study(facts(name=name)).id for name in "abc"]
        for index, n_front in ((1, 4), (2, 7), (3, 5)):
            storage.put_generation(ids[0], GenerationRecord(index, 0.1, 9, n_front, 9, 1.0))
        storage.put_generation(ids[1], GenerationRecord(1, 0.1, 9, 2, 9, 1.0))
        assert counting.fronts(ids) == {ids[0]: 5, ids[1]: 2}
        assert counting.fronts([]) == {}

    def test_workers_are_busy_for_as_long_as_evaluations_took_within_the_time(
        self, storage, counting
    ):
        study, now = storage.create_study(facts(name="a")), present()
        for number, seconds in ((1, 30.0), (2, 45.0), (3, 1000.0)):
            add(storage, study, number, outcome=replace(FAILED, duration_s=seconds))
        change(storage, EVALUATIONS, created_at=written(now - timedelta(seconds=10)))
        busy = counting.busy([study.id], until=now, window_s=100.0)
        assert busy == {study.id: pytest.approx(1.75)}
        assert counting.busy([study.id], until=now, window_s=5.0) == {}
        assert counting.busy([study.id + 1], until=now, window_s=100.0) == {}

    def test_launches_are_counted_while_they_wait_or_run(self, storage, counting):
        launches = Launches(storage.database)
        for name in "ab":
            launches.add("run", name, {}, "x")
        launches.end(launches.add("export", "a", {}, "x").id, 0, None)
        launches.claim(launches.add("export", "a", {}, "x").id, "process", {})
        assert counting.launches() == {("run", "queued"): 2, ("export", "running"): 1}

    def test_exports_that_have_ended_tell_how_long_they_took(self, storage, counting):
        launches, now = Launches(storage.database), present()
        ids = [launches.add(kind, "a", {}, "x").id for kind in ("export", "run", "export")]
        for id_, code in zip(ids, (0, 0, 1), strict=True):
            launches.claim(id_, "process", {})
            launches.end(id_, code, None)
        change(
            storage,
            LAUNCHES,
            started_at=written(now - timedelta(seconds=90)),
            ended_at=written(now - timedelta(seconds=30)),
        )
        found = counting.ended_exports(written(now - timedelta(seconds=60)))
        assert [(e.id, e.seconds, e.succeeded) for e in found] == [
            (ids[2], 60.0, False),
            (ids[0], 60.0, True),
        ]
        assert counting.ended_exports(written(now)) == []
