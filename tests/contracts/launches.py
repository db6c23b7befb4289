"""What launches must do on every database. Subclass it and supply ``open_database``."""

import random
import threading
from collections import Counter

import pytest

from moeash.errors import LaunchNotFoundError, StudyLockedError
from moeash.study.storage.team.launches import STOPPED, Launches

PLACE = {"host": "here", "starter": {"pid": 1}}


def queue(launches, study, who="ann", kind="run"):
    return launches.add(kind, study, {"spec": "ключ\n"}, who)


class LaunchesContract:
    """A launch is started once, in fair order, and ends once."""

    @pytest.fixture
    def open_database(self):
        """Return a function that opens the same, at first empty, database again and again."""
        raise NotImplementedError

    @pytest.fixture
    def launches(self, open_database):
        return Launches(open_database())

    def test_what_was_asked_for_comes_back(self, launches, open_database):
        added = queue(launches, "digits")
        (found,) = Launches(open_database()).active()
        assert found == added == launches.get(added.id)
        assert (found.state, found.kind, found.study) == ("queued", "run", "digits")
        assert (found.request, found.requested_by) == ({"spec": "ключ\n"}, "ann")
        assert (found.launcher, found.place, found.folder, found.exit_code) == (None,) * 4
        with pytest.raises(LaunchNotFoundError, match="no launch 17"):
            launches.get(17)

    def test_a_study_has_one_run_at_a_time_and_any_number_of_exports(self, launches):
        first = queue(launches, "digits")
        with pytest.raises(StudyLockedError, match="is queued already as launch 1; wait"):
            queue(launches, "digits", "bob")
        launches.claim(first.id, "process", PLACE)
        with pytest.raises(StudyLockedError, match="runs already as launch 1"):
            queue(launches, "digits", "bob")
        for _ in range(3):
            queue(launches, "digits", kind="export")
        queue(launches, "other")
        launches.end(first.id, 0, None)
        assert queue(launches, "digits").id > first.id
        assert [r.kind for r in launches.of_study("digits", "export")] == ["export"] * 3

    def test_newest_is_the_last_launch_of_each_study_of_a_kind(self, launches):
        for _ in range(2):
            for study in ("a", "b"):
                launches.end(queue(launches, study).id, 0, None)
        export = queue(launches, "a", kind="export")
        found = launches.newest(["a", "b", "c"])
        assert {name: record.id for name, record in found.items()} == {"a": 3, "b": 4}
        assert launches.newest() == found
        assert launches.newest(["a"], "export") == {"a": export}
        assert launches.newest([]) == {}
        pages = launches.of_study("a", "run", limit=1), launches.of_study("a", "run", before=3)
        assert [[r.id for r in page] for page in pages] == [[3], [1]]

    def test_only_so_many_run_on_a_machine(self, launches):
        for study in "abc":
            queue(launches, study)
        queue(launches, "a", kind="export")
        assert launches.claim_next("run", "process", PLACE, most=1).study == "a"
        assert launches.claim_next("run", "process", PLACE, most=1) is None
        elsewhere = {**PLACE, "host": "elsewhere"}
        assert launches.claim_next("run", "process", elsewhere, most=1).study == "b"
        assert launches.claim_next("export", "process", PLACE, most=1).kind == "export"
        launches.end(1, 0, None)
        assert launches.claim_next("run", "process", PLACE, most=1).study == "c"
        assert launches.claim_next("run", "process", PLACE, most=9) is None

    def test_whoever_has_the_fewest_running_comes_first(self, launches):
        for n in range(10):
            queue(launches, f"a{n}", "ann")
        for n in range(10):
            queue(launches, f"b{n}", "bob")
        expected, started, running = launches.positions(), [], []
        while (record := launches.claim_next("run", "process", PLACE, most=2)) is not None:
            started.append(record)
            running.append(record)
            if len(running) == 2:
                whose = Counter(r.requested_by for r in started)
                assert max(whose.values()) == 10 or len({r.requested_by for r in running}) == 2
                launches.end(running.pop(random.Random(len(started)).randrange(2)).id, 0, None)
        assert len(started) == 20
        for who in "ab":
            own = [r.study for r in started if r.study.startswith(who)]
            assert own == [f"{who}{n}" for n in range(10)]
        order = sorted(expected, key=expected.get)
        assert [launches.get(id).study for id in order[:4]] == ["a0", "b0", "a1", "b1"]
        assert launches.positions() == {}

    @pytest.mark.parametrize("most", [1, 3])
    def test_a_long_list_of_one_person_does_not_keep_the_next_one_waiting(self, launches, most):
        for n in range(9):
            queue(launches, f"a{n}", "ann")
        queue(launches, "b", "bob")
        order, started = launches.positions(), []
        while (record := launches.claim_next("run", "process", PLACE, most=most)) is not None:
            started.append(record.study)
            launches.end(record.id, 0, None)
        assert started[:3] == ["a0", "b", "a1"]
        assert [launches.get(id).study for id in sorted(order, key=order.get)] == started

    def test_a_launch_is_claimed_once_however_many_try(self, launches, open_database):
        for n in range(24):
            queue(launches, f"s{n}", f"who{n % 3}")
        claimed, errors = [], []

        def server():
            try:
                own = Launches(open_database())
                while (record := own.claim_next("run", "process", PLACE, most=24)) is not None:
                    claimed.append(record.id)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=server) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert sorted(Counter(claimed).items()) == [(n, 1) for n in range(1, 25)]

    def test_a_limit_holds_however_many_try(self, launches, open_database):
        for n in range(12):
            queue(launches, f"s{n}")
        barrier = threading.Barrier(4)

        def server():
            own = Launches(open_database())
            barrier.wait()
            own.claim_next("run", "process", PLACE, most=2)

        threads = [threading.Thread(target=server) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(r.state == "running" for r in launches.active()) == 2

    def test_a_change_expects_the_place_that_was_read(self, launches):
        queue(launches, "digits")
        claimed = launches.claim(1, "process", PLACE)
        moved = {**PLACE, "process": {"pid": 2}}
        assert launches.move(claimed, moved, folder="/f")
        assert not launches.move(claimed, {**PLACE, "process": {"pid": 3}})
        assert not launches.put_back(claimed)
        assert not launches.end(1, 1, "gone", expected=claimed)
        now = launches.get(1)
        assert (now.place, now.folder) == (moved, "/f")
        assert launches.end(1, 0, None, expected=now)
        assert not launches.end(1, 1, "again")
        assert launches.get(1).exit_code == 0
        assert launches.claim(1, "process", PLACE) is None

    def test_what_is_put_back_waits_again(self, launches):
        queue(launches, "digits")
        claimed = launches.claim(1, "process", PLACE)
        assert launches.put_back(claimed)
        again = launches.get(1)
        assert (again.state, again.place, again.launcher) == ("queued", None, None)
        assert launches.positions() == {1: 1}

    def test_a_stop_ends_what_waits_and_is_passed_on_once_to_what_runs(self, launches, monkeypatch):
        queue(launches, "waits"), queue(launches, "runs")
        stopped = launches.ask_stop(1)
        assert (stopped.state, stopped.exit_code, stopped.message) == ("ended", None, STOPPED)
        claimed = launches.claim(2, "process", PLACE)
        assert claimed.stop_asked_s is None and not launches.take_stop(claimed)
        asked = launches.ask_stop(2)
        assert 0 <= asked.stop_asked_s < 60
        assert launches.move(claimed, {**PLACE, "process": {"pid": 2}})  # and is not forgotten
        moved = launches.get(2)
        assert moved.stop_asked_s is not None
        assert launches.take_stop(moved)
        assert not launches.take_stop(moved)
        launches.ask_stop(2)  # at once again: the same stop
        assert not launches.take_stop(launches.get(2))
        monkeypatch.setattr("moeash.study.storage.team.launches.SENT_AGAIN_S", -1.0)
        assert launches.take_stop(launches.get(2)), "whoever took it may have been killed since"

    def test_what_never_began_and_is_to_end_is_not_put_back(self, launches):
        queue(launches, "digits")
        claimed = launches.claim(1, "process", PLACE)
        launches.ask_stop(1)
        assert launches.put_back(claimed)
        assert (launches.get(1).state, launches.get(1).message) == ("ended", STOPPED)
