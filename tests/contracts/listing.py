"""What lists of studies must do on every database. Subclass it and supply ``storage``."""

import random
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.errors import InputError, StudyLockedError
from moeash.evaluation.outcome import Outcome
from moeash.launch.standing import standing
from moeash.study.events import Doing, Note, WorkersChanged
from moeash.study.storage.columns import STAGES, STATUSES
from moeash.study.storage.records import GenerationRecord
from moeash.study.storage.team.deleting import delete_study
from moeash.study.storage.team.labels import Labels, StudyLabels
from moeash.study.storage.team.launches import STOPPED as NEVER_BEGAN
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing, Wanted
from moeash.study.storage.team.stream import Stream
from tests.contracts.storage import COMPLETE, FAILED, STOPPED, add, facts


def complete(metric, size_bytes):
    return Outcome("complete", metric, metric, Sizes(size_bytes, 9, 2.5), "ab" * 16, 1, 0.1)


ALL = Wanted()


def names_of(listing, wanted=ALL, **options):
    """Every name, page by page."""
    found, cursor = [], None
    while True:
        page = listing.studies(wanted, after=cursor, **options)
        found += page.names
        if page.next is None:
            assert page.total == len(found)
            return found
        cursor = page.next


class ListingContract:
    """Lists are filtered, sorted and cut as asked, and nothing is listed twice or left out."""

    @pytest.fixture
    def storage(self):
        """Return an empty storage."""
        raise NotImplementedError

    @pytest.fixture
    def listing(self, storage):
        return Listing(storage.database)

    def test_pages_of_any_length_give_every_study_once_in_order(self, storage, listing):
        names = [f"s{i:02}" for i in range(11)]
        for name in random.Random(0).sample(names, len(names)):
            storage.create_study(facts(name=name))
        for limit in (1, 3, 11, 50):
            assert names_of(listing, order="name", limit=limit) == names
        by_time = names_of(listing, order="created", limit=4)
        assert sorted(by_time) == names
        assert by_time == names_of(listing, order="created", limit=50)

    def test_a_page_begins_where_the_last_one_ended_whatever_was_added(self, storage, listing):
        for name in ("b", "d", "f"):
            storage.create_study(facts(name=name))
        first = listing.studies(Wanted(), order="name", limit=2)
        storage.create_study(facts(name="a"))
        storage.create_study(facts(name="e"))
        second = listing.studies(Wanted(), order="name", limit=2, after=first.next)
        assert (first.names, second.names) == (("b", "d"), ("e", "f"))

    def test_the_smallest_wanted_file_sorts_and_what_has_none_comes_last(self, storage, listing):
        sizes = {"big": 900, "small": 30, "unwanted": None, "empty": None}
        for name, size in sizes.items():
            study = storage.create_study(facts(name=name, spec={"evaluation": {"max_drop": 0.1}}))
            if size:
                add(storage, study, 1, outcome=complete(0.29, size))
            if name == "unwanted":
                add(storage, study, 1, outcome=complete(0.01, 5))
        assert names_of(listing, order="bytes", limit=1)[:2] == ["small", "big"]

    def test_only_who_holds_a_study_makes_it_run(self, storage, listing):
        for name in ("alone", "held", "done"):
            study = storage.create_study(facts(name=name))
        storage.set_status(study.id, "finished")
        with storage.lock("held"):
            of = {s: names_of(listing, Wanted(status=s)) for s in ("running", "crashed")}
            assert of == {"running": ["held"], "crashed": ["alone"]}
            assert names_of(listing, Wanted(status="finished")) == ["done"]
            assert names_of(listing, Wanted(status="interrupted")) == []

    @pytest.mark.parametrize("ends_last", ["study", "launch"])
    def test_a_list_is_chosen_by_the_word_that_is_said_of_each_study(
        self, storage, listing, ends_last
    ):
        launches = Launches(storage.database)
        said = ("never stored", "running", "finished", "interrupted", "failed")
        ends = {
            "none": None,
            "queued": None,
            "running": None,
            "well": (0, None),
            "refused": (2, "no file"),
            "asked": (130, "stopped"),
            "killed": (137, "by a signal"),
            "gone": (None, "gone"),
            "before": (None, NEVER_BEGAN),
        }
        names = {f"{a} {b}": (a, b) for a in said for b in ends if (a, b) != (said[0], "none")}

        def launch(name, how):
            if how == "none":
                return
            record = launches.add("run", name, {}, "ann")
            if how != "queued":
                launches.claim(record.id, "process", {"host": "here"})
            if ends[how] is not None:
                launches.end(record.id, *ends[how])

        for name, (status, how) in names.items():
            study = None if status == said[0] else storage.create_study(facts(name=name))
            if ends_last == "study":
                launch(name, how)
            if study is not None and status != "running":
                storage.set_status(study.id, status)
            if ends_last == "launch":
                launch(name, how)
        stored = {s.record.facts.name: s for s in storage.summaries(names)}
        newest = launches.newest(names)
        expected = {name: standing(stored.get(name), newest.get(name))[0] for name in names}
        words = ("queued", "running", "finished", "interrupted", "crashed", "failed")
        assert set(expected.values()) == set(words)
        found = {name: s for s in words for name in names_of(listing, Wanted(status=s), limit=7)}
        assert found == expected

    def test_names_are_searched_for_letter_by_letter(self, storage, listing):
        for name in ("Digits", "digits_2", "digits-2", "mnist"):
            storage.create_study(facts(name=name))
        assert names_of(listing, Wanted(search="digits"), order="name") == sorted(
            ["Digits", "digits_2", "digits-2"]
        )
        assert names_of(listing, Wanted(search="s_2")) == ["digits_2"]
        assert names_of(listing, Wanted(search="%")) == []

    def test_tags_and_the_archive_choose(self, storage, listing):
        labels = Labels(storage.database)
        said = {
            "a": StudyLabels(tags=("paper", 'a "q" %')),
            "b": StudyLabels(tags=("pap",)),
            "c": StudyLabels("notes", ("paper",), (3, 1), archived=True),
            "d": None,
        }
        for name, label in said.items():
            study = storage.create_study(facts(name=name))
            if label is not None:
                labels.put(study.id, StudyLabels("before", archived=True))
                labels.put(study.id, label)
                assert labels.of([study.id])[study.id].pins == label.pins
        assert names_of(listing, Wanted(tag="paper")) == ["a"]
        assert names_of(listing, Wanted(tag='a "q" %')) == ["a"]
        assert names_of(listing, Wanted(tag="pap")) == ["b"]
        assert names_of(listing, Wanted(archived=True)) == ["c"]
        assert sorted(names_of(listing)) == ["a", "b", "d"]

    @pytest.mark.parametrize("cursor", ["", "x", "WzEsMl0=", "WyJhIiwgMV0=", "é", "bnVsbA=="])
    def test_a_cursor_of_anything_else_is_refused(self, storage, listing, cursor):
        with pytest.raises(InputError, match="is no cursor"):
            listing.studies(Wanted(), order="name", after=cursor)

    def test_evaluations_are_sorted_by_value_and_number(self, storage, listing):
        study = storage.create_study(facts())
        metrics = [0.5, 0.1, 0.5, 0.9, 0.5]
        for number, metric in enumerate(metrics, start=1):
            add(storage, study, number, outcome=complete(metric, 100 - number))
        add(storage, study, 6, outcome=FAILED)

        def numbers(**options):
            found, cursor = [], None
            while True:
                page, cursor, total = listing.evaluations(
                    study.id, after=cursor, limit=2, **options
                )
                found += [record.number for record in page]
                if cursor is None:
                    assert total == len(found)
                    return found

        assert numbers() == [1, 2, 3, 4, 5, 6]
        assert numbers(downwards=True) == [6, 5, 4, 3, 2, 1]
        assert numbers(order="metric") == [2, 1, 3, 5, 4]
        assert numbers(order="metric", downwards=True) == [4, 1, 3, 5, 2]
        assert numbers(order="size_bytes") == [5, 4, 3, 2, 1]
        assert numbers(status="failed") == [6]
        assert numbers(stage="merged") == []
        assert numbers(numbers=[2, 4]) == [2, 4]

    def test_columns_hold_what_was_stored(self, storage, listing):
        study = storage.create_study(facts())
        ended = "2026-01-02T03:04:05.678+00:00"
        add(storage, study, 1, outcome=replace(COMPLETE, worker="7@here", ended_at=ended))
        add(storage, study, 2, outcome=STOPPED, stage="refined", parent=1)
        last = add(storage, study, 3, outcome=FAILED)
        add(storage, study, 4, outcome=complete(0.25, 17), stage="merged", generation=2)
        got, tally = listing.columns(study.id)
        assert got.number.tolist() == [1, 2, 3, 4]
        assert [STAGES[i] for i in got.stage] == ["search", "refined", "search", "merged"]
        assert [STATUSES[i] for i in got.status] == ["complete", "stopped", "failed", "complete"]
        assert np.array_equal(got.metric, [1 / 3, 0.7, np.nan, 0.25], equal_nan=True)
        assert np.array_equal(got.size_bytes, [2**40, 100, np.nan, 17], equal_nan=True)
        assert got.generation.tolist() == [1, 1, 1, 2]
        assert got.duration_s.tolist() == [0.25, 0.1, 0.1, 0.1]
        assert got.worker.tolist() == ["7@here", None, None, None]
        assert got.ended_s[0] == datetime.fromisoformat(ended).timestamp()
        assert got.ended_s[2] == datetime.fromisoformat(last.created_at).timestamp()
        assert tally == got.tally() and tally["search", "failed"] == 1 and len(tally) == 4
        newer, again = listing.columns(study.id, after=2)
        assert newer.number.tolist() == [3, 4] and again == tally
        assert len(listing.columns(study.id, after=4)[0].number) == 0

    def test_a_long_course_is_thinned_and_ends_where_it_stands(self, storage, listing):
        lengths = {}
        for name, n in (("long", 95), ("short", 3), ("none", 0)):
            study = storage.create_study(facts(name=name))
            lengths[study.id] = n
            for index in range(1, n + 1):
                storage.put_generation(study.id, GenerationRecord(index, index, 1, 1, 1, 0.1))
        courses = listing.hypervolumes(lengths, 10)
        assert list(map(len, courses.values())) == [10, 3]
        assert [course[-1] for course in courses.values()] == [95, 3]

    def test_the_newest_event_of_a_kind_of_each_study(self, storage, listing):
        ids = [storage.create_study(facts(name=name)).id for name in "abc"]
        storage.add_events(ids[0], [WorkersChanged(1), WorkersChanged(4), Note("x")])
        storage.add_events(ids[1], [WorkersChanged(2)])
        found = listing.newest(ids, "workers")
        assert found == {ids[0]: {"workers": 4}, ids[1]: {"workers": 2}}

    def test_a_stream_goes_through_all_studies_by_id(self, storage, listing):
        stream = Stream(storage.database)
        assert stream.last_id() == 0 and list(stream.passing()) == []
        a, b = (storage.create_study(facts(name=name)) for name in "ab")
        storage.add_events(a.id, [Note("1")])
        storage.add_events(b.id, [Note("2"), Note("3")])
        add(storage, a, 1)
        events = stream.events(after=0, limit=10)
        assert [e.study for e in events] == ["a", "b", "b", "a"]
        ids = [e.record.id for e in events]
        assert ids == sorted(ids) and stream.last_id() == ids[-1]
        assert [e.record.id for e in stream.events(after=ids[0], limit=2)] == ids[1:3]
        assert [e.record.id for e in stream.events(after=0, limit=9, study="b")] == ids[1:3]
        assert [e.record.id for e in stream.events(after=0, limit=9, upto=ids[1])] == ids[:2]
        storage.set_activity(b.id, Doing("waiting", 1, 2))
        (passing,) = stream.passing()
        assert (passing.study, passing.record.kind, passing.record.id) == ("b", "doing", 0)
        storage.set_status(b.id, "finished")
        assert list(stream.passing()) == []

    def test_a_deleted_study_is_gone_with_all_it_had(self, storage, listing):
        study = storage.create_study(facts())
        add(storage, study, 1)
        storage.add_events(study.id, [Note("x")])
        Labels(storage.database).put(study.id, StudyLabels("n"))
        last = Stream(storage.database).last_id()
        launches = Launches(storage.database)
        for kind in ("run", "export"):
            launches.end(launches.add(kind, "digits", {}, "ann").id, 0, None)
        other = launches.add("export", "another", {}, "ann")
        with storage.lock("digits"):
            delete_study(storage.database, "digits")
        assert names_of(listing) == [] and launches.newest() == {}
        assert launches.of_study("digits", "export") == []
        assert launches.get(other.id) == other
        assert launches.add("run", "digits", {}, "ann").id > other.id
        again = storage.create_study(facts())
        assert again.id != study.id or storage.evaluations(again.id) == []
        storage.add_events(again.id, [Note("y")])
        assert Stream(storage.database).last_id() > last

    @pytest.mark.parametrize("kind", ["run", "export"])
    def test_a_study_of_which_something_waits_or_runs_is_not_deleted(self, storage, listing, kind):
        storage.create_study(facts())
        launches = Launches(storage.database)
        record = launches.add(kind, "digits", {}, "ann")
        with pytest.raises(StudyLockedError, match=f"{record.id} of study 'digits' is queued"):
            delete_study(storage.database, "digits")
        launches.claim(record.id, "process", {"host": "here"})
        with pytest.raises(StudyLockedError, match="runs; wait for it to end"):
            delete_study(storage.database, "digits")
        assert names_of(listing) == ["digits"] and launches.get(record.id).state == "running"
