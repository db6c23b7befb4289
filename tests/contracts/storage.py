"""What every storage must do. Subclass it and supply ``open_storage``."""

import math
import os
import random
import threading
from dataclasses import replace

import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.errors import StorageError, StudyExistsError, StudyLockedError, StudyNotFoundError
from moeash.evaluation.outcome import Job, Outcome
from moeash.study.course.options import BudgetOptions
from moeash.study.events import (
    LASTING,
    Doing,
    Ended,
    Evaluated,
    GenerationEnded,
    Note,
    Opened,
    PhaseEnded,
    PhaseStarted,
    SolutionMerged,
    WorkersChanged,
)
from moeash.study.facts import StudyFacts
from moeash.study.storage.artifacts import IN_DATABASE_BYTES
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, now
from tests.contracts.counts import assert_counts_are_true

FACTS = StudyFacts(
    name="digits",
    spec={"name": "digits", "method": {"k": [2, 256], "clip": None}, "Ünïcode": "ключ 鍵 🔑"},
    histogram={"low": -0.5, "high": 1.5, "counts": [3, 0, 7]},
    fingerprint="0" * 32,
    network_fingerprint="1" * 32,
    data_fingerprint="2" * 32,
    inputs_fingerprint="3" * 32,
    environment={"threads": 1, "torch": "2.0"},
    keeping={"dtype": "float16", "exact": []},
    metric_name="top1",
    baseline=0.1 + 0.2,
    original_bytes=2**40,
    n_shared=2**33,
    n_kept=300,
    n_batches=10,
    objectives=("size_bytes", "entries"),
    reference=(0.0, 1e9, 256.0),
)


def facts(**changes):
    """The facts of a study with one size, and what a test wants otherwise."""
    plain = {"objectives": ("size_bytes",), "reference": (0.0, 1e6), **changes}
    return replace(FACTS, **plain)


COMPLETE = Outcome("complete", 1 / 3, 1 / 3, Sizes(2**40, 7, 2.1), "ab" * 16, 10, 0.25, noise=1 / 7)
STOPPED = Outcome("stopped", None, 0.7, Sizes(100, 7, 2.1), None, 3, 0.1)
FAILED = Outcome("failed", None, None, None, None, 0, 0.1, "ValueError: ключ 'k'")


def add(storage, study, number, *, outcome=COMPLETE, job=None, **options):
    job = job or Job(Recipe.of({"k": number}))
    options = {"stage": "search", "generation": 1, "parent": None, **options}
    record = EvaluationRecord(number, job=job, outcome=outcome, created_at=now(), **options)
    storage.add_evaluations(study.id, [record])
    return record


class StorageContract:
    """Everything that is stored comes back as it was, or the caller is told."""

    @pytest.fixture
    def open_storage(self):
        """Return a function that opens the same, at first empty, storage again and again."""
        raise NotImplementedError

    @pytest.fixture
    def storage(self, open_storage):
        opened = open_storage()
        yield opened
        opened.close()

    # ------------------------------------------------------------------ studies

    def test_a_study_comes_back_as_it_was(self, storage, open_storage):
        created = storage.create_study(FACTS)
        assert created.facts == FACTS and (created.status, created.ending) == ("running", None)
        assert open_storage().study("digits") == created
        assert created.created_at == created.updated_at and created.created_at.endswith("+00:00")

    def test_a_name_is_given_once(self, storage):
        storage.create_study(FACTS)
        with pytest.raises(StudyExistsError, match="'digits' exists already"):
            storage.create_study(replace(FACTS, fingerprint="9" * 32))
        assert storage.study("digits").facts == FACTS

    def test_studies_are_listed_oldest_first(self, storage):
        assert list(storage.studies()) == []
        for name in ("zebra", "ärger", "a b/c'\";--"):
            storage.create_study(replace(FACTS, name=name))
        assert [r.facts.name for r in storage.studies()] == ["zebra", "ärger", "a b/c'\";--"]

    def test_an_unknown_study_is_not_found_and_near_names_are_given(self, storage):
        with pytest.raises(StudyNotFoundError, match="there are none"):
            storage.study("digits")
        storage.create_study(FACTS)
        with pytest.raises(StudyNotFoundError, match=r"no study 'digit' in .*nearest: 'digits'"):
            storage.study("digit")

    def test_a_status_is_kept_and_an_ending_stays(self, storage):
        study = storage.create_study(FACTS)
        storage.set_status(study.id, "finished", ending="no_gain")
        storage.set_status(study.id, "running")
        record = storage.study("digits")
        assert (record.status, record.ending) == ("running", "no_gain")

    def test_a_reason_is_forgotten_with_its_status(self, storage, open_storage):
        study = storage.create_study(FACTS)
        storage.set_status(study.id, "failed", reason="ValueError: ключ \0")
        record = open_storage().study("digits")
        assert (record.status, record.reason) == ("failed", "ValueError: ключ \\0")
        storage.set_status(study.id, "running")
        assert storage.study("digits").reason is None

    def test_the_owner_is_the_process_that_ran_it_last(self, storage):
        study = storage.create_study(FACTS)
        assert study.owner.startswith(f"process {os.getpid()} on")

    def test_a_specs_paths_may_follow_its_files(self, storage, open_storage):
        study = storage.create_study(facts())
        moved = {**study.facts.spec, "data": {"root": "/ключ"}}
        storage.set_spec(study.id, moved)
        assert open_storage().study("digits").facts == replace(study.facts, spec=moved)

    def test_what_is_being_done_is_overwritten(self, storage, open_storage):
        study = storage.create_study(FACTS)
        assert study.activity is None
        for done in (1, 2):
            storage.set_activity(study.id, Doing("measuring curvature", done, 20))
        activity = open_storage().study("digits").activity
        assert (activity.kind, activity.payload["done"]) == ("doing", 2)
        assert storage.study("digits").updated_at >= activity.created_at
        assert storage.events(study.id) == []

    # ------------------------------------------------------------------ evaluations

    @pytest.mark.parametrize("outcome", [COMPLETE, STOPPED, FAILED])
    @pytest.mark.parametrize(
        "job",
        [
            Job(Recipe.of({"k": 37, "rate": 0.1 + 0.2, "mode": "größe"})),
            Job(Recipe.of({"k": 2**31}, Merge((1, 2, 3))), 1 / 3),
        ],
    )
    def test_an_evaluation_comes_back_as_it_was(self, storage, open_storage, outcome, job):
        study = storage.create_study(FACTS)
        record = add(storage, study, 4, outcome=outcome, job=job, stage="merged", parent=2)
        assert open_storage().evaluations(study.id) == [record]
        assert (record.number, record.parent, record.stage) == (4, 2, "merged")
        assert (record.job, record.outcome, record.recipe) == (job, outcome, job.recipe)

    def test_who_evaluated_and_when_come_back_and_make_no_difference(self, storage):
        study = storage.create_study(FACTS)
        spent = replace(COMPLETE, worker="17@høst", ended_at="2026-01-02T03:04:05.678+00:00")
        assert spent == COMPLETE
        job = Job(Recipe.of({"k": 9}))
        storage.hold(study.id, job, spent)
        held = storage.held(study.id)[job.key]
        add(storage, study, 1, outcome=spent, job=job)
        stored = storage.evaluation(study.id, 1).outcome
        for outcome in (held, stored):
            assert (outcome.worker, outcome.ended_at) == (spent.worker, spent.ended_at)
        (event,) = storage.events(study.id, kinds=("evaluated",))
        assert event.payload["worker"] == spent.worker

    @pytest.mark.parametrize("bound", [math.inf, -math.inf, 5e-324, 1.7e308, -0.1])
    def test_bounds_and_floors_of_any_size_come_back(self, storage, bound):
        study = storage.create_study(FACTS)
        job = Job(Recipe.of({"k": 1}), floor=bound)
        add(storage, study, 1, outcome=replace(STOPPED, bound=bound), job=job)
        (record,) = storage.evaluations(study.id)
        assert record.outcome.bound == bound and record.job.floor == bound

    @pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf])
    def test_a_metric_that_is_no_finite_number_is_refused_and_nothing_is_stored(
        self, storage, metric
    ):
        study = storage.create_study(facts())
        with pytest.raises(StorageError, match=r"cannot store metric = .*finite number"):
            add(storage, study, 1, outcome=replace(COMPLETE, metric=metric, bound=metric))
        with pytest.raises(StorageError, match=r"hypervolume = .*finite number"):
            storage.put_generation(study.id, GenerationRecord(1, metric, 1, 1, 1, 1.0))
        for bad in ({"baseline": metric}, {"reference": (metric, 1.0)}):
            with pytest.raises(StorageError, match=r"cannot store (baseline|reference)"):
                storage.create_study(facts(name="other", **bad))
        assert not storage.evaluations(study.id) and not storage.generations(study.id)
        assert [found.facts.name for found in storage.studies()] == ["digits"]

    def test_evaluations_are_listed_by_number_and_study(self, storage):
        one = storage.create_study(FACTS)
        two = storage.create_study(replace(FACTS, name="two"))
        for number in (3, 1, 2):
            add(storage, one, number)
        add(storage, two, 1)
        assert [r.number for r in storage.evaluations(one.id)] == [1, 2, 3]
        assert [r.number for r in storage.evaluations(two.id)] == [1]
        assert storage.evaluations(10**6) == []

    def test_a_number_and_a_network_are_stored_once(self, storage):
        study = storage.create_study(FACTS)
        first = add(storage, study, 1)
        with pytest.raises(StorageError):
            add(storage, study, 1, job=Job(Recipe.of({"k": 99})))
        with pytest.raises(StorageError):
            add(storage, study, 2, job=replace(first.job, floor=0.5))
        assert storage.evaluations(study.id) == [first]

    def test_a_recipe_may_be_as_long_as_it_likes(self, storage):
        study = storage.create_study(FACTS)
        rng = random.Random(0)  # a database compresses what repeats itself
        runs = tuple(rng.randrange(1, 1000) for _ in range(20_000))
        jobs = [Job(Recipe.of({"k": 4}, Merge((*runs, last)))) for last in (1, 2)]
        records = [add(storage, study, n, job=job) for n, job in enumerate(jobs, start=1)]
        assert storage.evaluations(study.id) == records

    def test_one_evaluation_is_read_by_its_number(self, storage):
        study = storage.create_study(FACTS)
        other = storage.create_study(replace(FACTS, name="other"))
        one, two = (add(storage, study, n, outcome=o) for n, o in ((1, FAILED), (2, COMPLETE)))
        assert storage.evaluation(study.id, 1) == one
        assert storage.evaluation(study.id, 2) == two
        assert storage.evaluation(study.id, 3) is None
        assert storage.evaluation(other.id, 1) is None

    def test_evaluations_come_in_pages_and_by_kind(self, storage):
        study = storage.create_study(FACTS)
        for number in range(1, 8):
            stage = "merged" if number > 5 else "search"
            outcome = FAILED if number % 3 == 0 else COMPLETE
            add(storage, study, number, stage=stage, outcome=outcome)

        def numbers(**options):
            return [r.number for r in storage.evaluations(study.id, **options)]

        assert numbers(limit=3) == [1, 2, 3] and numbers(after=3, limit=3) == [4, 5, 6]
        assert numbers(after=6, limit=3) == [7] and numbers(after=7) == []
        assert numbers(stage="merged") == [6, 7] and numbers(status="failed") == [3, 6]
        assert numbers(stage="merged", status="complete", after=6) == [7]
        assert numbers(numbers=[7, 2, 2, 99]) == [2, 7]
        assert numbers(numbers=[]) == [] and numbers(numbers=[5, 6], status="failed") == [6]

    def test_more_numbers_than_a_query_may_hold_are_read(self, storage):
        study = storage.create_study(FACTS)
        records = [
            EvaluationRecord(n, "search", 1, None, Job(Recipe.of({"k": n})), COMPLETE, now())
            for n in range(1, 1203)
        ]
        storage.add_evaluations(study.id, records)
        assert storage.evaluations(study.id, numbers=range(2, 1203)) == records[1:]

    def test_points_are_the_complete_evaluations_from_a_metric_on(self, storage):
        study = storage.create_study(FACTS)
        for number, metric in enumerate((0.25, -1.5, 0.5), start=1):
            add(storage, study, number, outcome=replace(COMPLETE, metric=metric))
        add(storage, study, 4, outcome=STOPPED)
        add(storage, study, 5, outcome=FAILED)
        points = storage.points(study.id, ["entries", "size_bytes"])
        assert points.numbers.tolist() == [1, 2, 3]
        assert points.metric.tolist() == [0.25, -1.5, 0.5]
        assert points.sizes.tolist() == [[7.0, 2.0**40]] * 3
        assert storage.points(study.id, ["entries"], floor=0.25).numbers.tolist() == [1, 3]
        nothing = storage.points(study.id, ["entries"], floor=0.75)
        assert nothing.numbers.tolist() == [] and nothing.sizes.shape == (0, 1)

    def test_an_evaluation_of_no_study_is_refused(self, storage):
        study = storage.create_study(FACTS)
        with pytest.raises(StorageError):
            add(storage, replace(study, id=study.id + 1), 1)

    def test_an_evaluation_touches_its_study(self, storage):
        study = storage.create_study(FACTS)
        record = add(storage, study, 1)
        assert storage.study("digits").updated_at == record.created_at

    # ------------------------------------------------------------------ generations

    def test_the_first_story_of_a_generation_stays(self, storage):
        study = storage.create_study(FACTS)
        one, two = (GenerationRecord(i, 0.1 * i, 20 * i, 5, 33, 1.5) for i in (1, 2))
        storage.put_generation(study.id, two)
        storage.put_generation(study.id, one)
        storage.put_generation(study.id, replace(one, elapsed_s=0.0))
        assert storage.generations(study.id) == [one, two]

    def test_a_generation_that_a_budget_ended_early_is_replaced_when_it_goes_on(self, storage):
        study = storage.create_study(FACTS)
        early, whole = (GenerationRecord(1, 0.1, n, 5, 33, 1.5) for n in (6, 20))
        for generation in (early, whole, early):
            storage.put_generation(study.id, generation)
        assert storage.generations(study.id) == [whole]
        ended = storage.events(study.id, kinds=["generation_ended"])
        assert [event.payload["n_evaluations"] for event in ended] == [6, 20]

    # ------------------------------------------------------------------ company

    def test_readers_see_whole_evaluations_while_one_writes(self, storage, open_storage):
        study = storage.create_study(FACTS)
        problems, done = [], threading.Event()

        def read():
            reader = open_storage()
            seen = 0
            while not done.is_set():
                records = reader.evaluations(study.id)
                numbers = [r.number for r in records]
                if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < seen:
                    problems.append(numbers)
                if any(r.outcome != COMPLETE for r in records):
                    problems.append(records)
                seen = len(numbers)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(1, 16):
            add(storage, study, number)
        done.set()
        for reader in readers:
            reader.join()
        assert not problems

    def test_two_may_write_different_studies(self, storage, open_storage):
        other = open_storage()
        with storage.lock("one"), other.lock("two"):
            one = storage.create_study(replace(FACTS, name="one"))
            two = other.create_study(replace(FACTS, name="two"))
            add(storage, one, 1)
            add(other, two, 1)
        assert [len(storage.evaluations(s.id)) for s in (one, two)] == [1, 1]

    def test_a_study_is_held_by_one(self, storage, open_storage):
        refused = pytest.raises(StudyLockedError, match="'digits' is being worked on by")
        with storage.lock("digits"), refused, open_storage().lock("digits"):
            pass
        with open_storage().lock("digits"):
            pass

    def test_an_error_while_holding_a_study_frees_it(self, storage, open_storage):
        with pytest.raises(ZeroDivisionError), storage.lock("digits"):
            raise ZeroDivisionError
        with open_storage().lock("digits"):
            pass

    # ------------------------------------------------------------------ what runs ahead

    def test_what_is_held_is_kept_but_not_shown(self, storage, open_storage):
        study = storage.create_study(FACTS)
        jobs = [Job(Recipe.of({"k": k}, Merge((1, 2)))) for k in (3, 4)]
        storage.hold(study.id, jobs[0], COMPLETE)
        storage.hold(study.id, jobs[1], FAILED)
        add(storage, study, 1)
        again = open_storage()
        assert [r.number for r in again.evaluations(study.id)] == [1]
        assert again.held(study.id) == {jobs[0].key: COMPLETE, jobs[1].key: FAILED}

    def test_an_evaluation_takes_the_place_of_what_was_held(self, storage):
        study = storage.create_study(FACTS)
        job = Job(Recipe.of({"k": 3}, Merge((1, 2))))
        storage.hold(study.id, job, COMPLETE)
        storage.hold(study.id, Job(Recipe.of({"k": 3}, Merge((2, 1)))), COMPLETE)
        add(storage, study, 1, job=job, stage="merged")
        assert [r.job for r in storage.evaluations(study.id)] == [job]
        assert list(storage.held(study.id)) == [Job(Recipe.of({"k": 3}, Merge((2, 1)))).key]
        storage.drop_held(study.id)
        assert storage.held(study.id) == {}
        assert [r.job for r in storage.evaluations(study.id)] == [job]

    def test_what_one_study_holds_is_none_of_the_others_business(self, storage):
        one = storage.create_study(FACTS)
        two = storage.create_study(replace(FACTS, name="two"))
        job = Job(Recipe.of({"k": 3}))
        storage.hold(one.id, job, COMPLETE)
        storage.hold(two.id, job, FAILED)
        storage.drop_held(two.id)
        add(storage, two, 1, job=job)
        assert storage.held(one.id) == {job.key: COMPLETE}

    def test_what_is_held_is_held_once_and_not_when_it_is_evaluated(self, storage):
        study = storage.create_study(FACTS)
        job, other = Job(Recipe.of({"k": 3})), Job(Recipe.of({"k": 4}))
        storage.hold(study.id, job, COMPLETE)
        with pytest.raises(StorageError):
            storage.hold(study.id, replace(job, floor=0.5), FAILED)
        add(storage, study, 1, job=other)
        with pytest.raises(StorageError, match="k=4 is evaluation 1 already"):
            storage.hold(study.id, other, FAILED)
        assert storage.held(study.id) == {job.key: COMPLETE}

    # ------------------------------------------------------------------ events

    def test_events_come_back_in_order_with_what_they_say(self, storage, open_storage):
        study = storage.create_study(FACTS)
        storage.add_events(study.id, [Note("a worker died"), PhaseStarted("merge", 9)])
        storage.add_events(study.id, [Note("ключ \N{KEY} \0")])
        storage.add_events(study.id, [])
        one, two, three = open_storage().events(study.id)
        assert [e.kind for e in (one, two, three)] == ["note", "phase_started", "note"]
        assert one.payload == {"text": "a worker died"}
        assert two.payload == {"phase": "merge", "total": 9, "n_stored": 0}
        assert three.payload == {"text": "ключ 🔑 \0"}
        assert one.id < two.id < three.id and one.created_at.endswith("+00:00")

    def test_a_stream_of_events_resumes_after_the_last_one_seen(self, storage):
        study = storage.create_study(FACTS)
        other = storage.create_study(replace(FACTS, name="other"))
        for i in range(4):
            storage.add_events(study.id, [Note(str(i)), WorkersChanged(i)])
            storage.add_events(other.id, [Note("other")])
        seen, after = [], 0
        while page := storage.events(study.id, after=after, limit=3):
            assert len(page) <= 3
            seen += page
            after = page[-1].id
        assert seen == storage.events(study.id) and len(seen) == 8
        notes = storage.events(study.id, kinds=["note"])
        assert [e.payload["text"] for e in notes] == list("0123")
        newest = storage.events(study.id, kinds=["note", "ended"], limit=2, newest=True)
        assert [e.payload["text"] for e in newest] == ["2", "3"]
        assert storage.n_events(study.id, "note") == 4
        assert storage.n_events(study.id, "note", after=notes[2].id) == 1

    def test_every_kind_of_lasting_event_is_stored(self, storage):
        study = storage.create_study(FACTS)
        record = add(storage, study, 1, outcome=replace(COMPLETE, metric=None, sizes=None))
        generation = GenerationRecord(1, 0.5, 20, 5, 33, 1.5)
        events = [
            Opened(FACTS, 3, BudgetOptions()),
            PhaseStarted("search"),
            PhaseEnded("search", "no_gain"),
            Evaluated(record),
            GenerationEnded(generation),
            SolutionMerged(4, "k=4, merged to 3 entries", 4, 3, 12),
            WorkersChanged(3),
            Note("hello"),
            Ended("failed", "ValueError: no"),
        ]
        assert {event.kind for event in events} == set(LASTING)
        before = storage.events(study.id)[-1].id
        storage.add_events(study.id, events)
        stored = storage.events(study.id, after=before)
        assert [(e.kind, e.payload) for e in stored] == [(e.kind, e.payload()) for e in events]

    def test_an_evaluation_and_its_event_are_stored_together(self, storage):
        study = storage.create_study(FACTS)
        record = add(storage, study, 1)
        (event,) = storage.events(study.id)
        assert (event.kind, event.payload) == ("evaluated", Evaluated(record).payload())
        assert event.created_at == record.created_at
        with pytest.raises(StorageError):
            add(storage, study, 1, job=Job(Recipe.of({"k": 99})))
        assert storage.events(study.id) == [event]

    def test_a_generation_and_its_event_are_stored_together_and_once(self, storage):
        study = storage.create_study(FACTS)
        generation = GenerationRecord(1, 0.5, 20, 5, 33, 1.5)
        storage.put_generation(study.id, generation)
        storage.put_generation(study.id, replace(generation, elapsed_s=0.0))
        (event,) = storage.events(study.id)
        assert (event.kind, event.payload["elapsed_s"]) == ("generation_ended", 1.5)

    # ------------------------------------------------------------------ counts

    def test_a_summary_counts_what_is_stored(self, storage, open_storage):
        facts = replace(FACTS, baseline=0.9, spec={"evaluation": {"max_drop": 0.2}})
        study = storage.create_study(facts)
        sizes = COMPLETE.sizes
        for number, (stage, outcome) in enumerate(
            [
                ("search", replace(COMPLETE, metric=0.7, sizes=replace(sizes, size_bytes=50))),
                ("search", replace(COMPLETE, metric=0.6, sizes=replace(sizes, size_bytes=10))),
                ("search", STOPPED),
                ("search", replace(FAILED, retriable=True)),
                ("merged", replace(COMPLETE, metric=0.8, sizes=replace(sizes, size_bytes=70))),
            ],
            start=1,
        ):
            add(storage, study, number, stage=stage, outcome=outcome)
        storage.hold(study.id, Job(Recipe.of({"k": 77})), COMPLETE)
        for index in (1, 2):
            storage.put_generation(study.id, GenerationRecord(index, 0.25 * index, 2, 1, 3, 1.5))
        storage.add_events(study.id, [Note("last")])
        (summary,) = open_storage().summaries()
        assert summary.record == storage.study("digits")
        assert (summary.n(), summary.n(stage="search"), summary.n(status="complete")) == (5, 4, 3)
        assert summary.n(stage="merged", status="failed") == 0
        assert sum(count.n_retriable for count in summary.counts) == 1
        assert sum(count.n_batches for count in summary.counts) == 33
        assert math.isclose(sum(count.duration_s for count in summary.counts), 0.95)
        assert_counts_are_true(storage)
        assert summary.smallest_bytes == 50, "the one of 10 bytes drops by more than is wanted"
        assert (summary.n_generations, summary.hypervolume) == (2, 0.5)
        assert summary.last_event.payload == {"text": "last"}

    def test_summaries_are_of_every_study_oldest_first_or_of_those_named(self, storage):
        assert list(storage.summaries()) == []
        studies = [storage.create_study(replace(FACTS, name=name)) for name in ("z", "a", "m")]
        add(storage, studies[1], 1)
        found = storage.summaries()
        assert [(s.record.facts.name, s.n()) for s in found] == [("z", 0), ("a", 1), ("m", 0)]
        assert [s.smallest_bytes for s in found] == [None, 2**40, None]
        assert [s.hypervolume for s in found] == [None] * 3 and found[0].last_event is None
        named = storage.summaries(["m", "a", "nobody"])
        assert [s.record.facts.name for s in named] == ["a", "m"]

    def test_a_study_runs_while_it_is_held_and_has_crashed_when_nobody_is_left(
        self, storage, open_storage
    ):
        study = storage.create_study(FACTS)
        reader = open_storage()

        def status():
            return reader.summaries()[0].status

        assert status() == "crashed"
        with storage.lock("digits"):
            assert status() == "running"
            storage.set_status(study.id, "interrupted", reason="KeyboardInterrupt")
            assert status() == "running", "its process has not let go yet"
        assert status() == "interrupted"

    # ------------------------------------------------------------------ artifacts

    @pytest.mark.parametrize("n_bytes", [0, 1000, IN_DATABASE_BYTES, IN_DATABASE_BYTES + 1])
    def test_an_artifact_comes_back_to_the_byte(self, storage, open_storage, n_bytes):
        study = storage.create_study(FACTS)
        content = random.Random(0).randbytes(n_bytes)
        record = add(storage, study, 1, outcome=replace(COMPLETE, artifact=content))
        reader = open_storage()
        assert reader.artifact(study.id, COMPLETE.fingerprint) == content
        assert reader.artifacts(study.id) == {COMPLETE.fingerprint: n_bytes}
        (stored,) = reader.evaluations(study.id)
        assert stored == record and stored.outcome.artifact is None

    def test_solutions_without_an_artifact_say_so(self, storage):
        study = storage.create_study(FACTS)
        add(storage, study, 1)
        assert storage.artifacts(study.id) == {}
        with pytest.raises(StorageError, match="no artifact is stored for the weights abab"):
            storage.artifact(study.id, COMPLETE.fingerprint)

    def test_two_recipes_of_the_same_weights_share_an_artifact(self, storage):
        study = storage.create_study(FACTS)
        other = storage.create_study(replace(FACTS, name="other"))
        big = b"1" * (IN_DATABASE_BYTES + 1)
        add(storage, study, 1, outcome=replace(COMPLETE, artifact=big))
        add(storage, study, 2, outcome=replace(COMPLETE, artifact=big + b"2"))
        add(storage, other, 1, outcome=replace(COMPLETE, artifact=b"other"))
        assert storage.artifact(study.id, COMPLETE.fingerprint) == big
        assert storage.artifact(other.id, COMPLETE.fingerprint) == b"other"

    @pytest.mark.parametrize("n_bytes", [10, IN_DATABASE_BYTES + 1])
    def test_an_artifact_is_stored_with_its_evaluation_or_not_at_all(self, storage, n_bytes):
        study = storage.create_study(FACTS)
        add(storage, study, 1)
        outcome = replace(COMPLETE, fingerprint="cd" * 16, artifact=b"x" * n_bytes)
        with pytest.raises(StorageError):
            add(storage, study, 1, outcome=outcome, job=Job(Recipe.of({"k": 9})))
        assert storage.artifacts(study.id) == {}
        add(storage, study, 2, outcome=outcome)
        with storage.lock("digits"):  # tidies up what the first attempt left
            assert storage.artifact(study.id, "cd" * 16) == b"x" * n_bytes

    @pytest.mark.parametrize("n_bytes", [10, IN_DATABASE_BYTES + 1])
    def test_a_held_outcome_keeps_its_artifact_until_its_turn(self, storage, open_storage, n_bytes):
        study = storage.create_study(FACTS)
        jobs = [Job(Recipe.of({"k": k})) for k in (3, 4)]
        prints = ["0" * 32, "1" * 32]
        for job, fingerprint in zip(jobs, prints, strict=True):
            outcome = replace(COMPLETE, fingerprint=fingerprint, artifact=b"x" * n_bytes)
            storage.hold(study.id, job, outcome)
        again = open_storage()
        # Another process: it knows the outcome without its artifact.
        add(again, study, 1, job=jobs[0], outcome=again.held(study.id)[jobs[0].key])
        again.drop_held(study.id)
        assert again.artifacts(study.id) == {prints[0]: n_bytes}
        assert again.artifact(study.id, prints[0]) == b"x" * n_bytes

    def test_several_evaluations_are_stored_at_once_or_not_at_all(self, storage, open_storage):
        study = storage.create_study(FACTS)
        jobs = [Job(Recipe.of({"k": k})) for k in range(3)]
        storage.hold(study.id, jobs[1], FAILED)
        records = [
            EvaluationRecord(n, "search", 1, None, job, COMPLETE, "2026-01-01T00:00:00.000+00:00")
            for n, job in enumerate(jobs, start=1)
        ]
        storage.add_evaluations(study.id, records[:2])
        assert list(open_storage().evaluations(study.id)) == records[:2]
        assert storage.held(study.id) == {}
        with pytest.raises(StorageError):
            storage.add_evaluations(study.id, [records[2], records[0]])
        assert list(open_storage().evaluations(study.id)) == records[:2]

    # ------------------------------------------------------------------ failures to try again

    def test_what_failed_by_circumstance_is_forgotten_with_the_generations_it_was_in(
        self, storage, open_storage
    ):
        study = storage.create_study(FACTS)
        lost = replace(FAILED, error="gave up after 3 tries: died (3 times)", retriable=True)
        for number, (generation, outcome) in enumerate(
            [(1, COMPLETE), (1, FAILED), (2, lost), (2, STOPPED), (3, lost)], start=1
        ):
            add(storage, study, number, outcome=outcome, generation=generation)
        for index in (1, 2, 3):
            storage.put_generation(study.id, GenerationRecord(index, 0.1, 2, 1, 3, 1.5))
        other = storage.create_study(replace(FACTS, name="other"))
        add(storage, other, 1, outcome=lost)
        assert storage.forget_retriable(study.id) == 2
        again = open_storage()
        assert [r.number for r in again.evaluations(study.id)] == [1, 2, 4]
        assert [g.index for g in again.generations(study.id)] == [1]
        assert again.evaluations(other.id)[0].outcome == lost
        assert storage.forget_retriable(study.id) == 0

    def test_a_merge_that_is_forgotten_leaves_the_generations(self, storage):
        study = storage.create_study(FACTS)
        lost = replace(FAILED, retriable=True)
        add(storage, study, 1)
        add(storage, study, 2, outcome=lost, stage="merged", parent=1)
        storage.put_generation(study.id, GenerationRecord(1, 0.1, 2, 1, 3, 1.5))
        assert storage.forget_retriable(study.id) == 1
        assert [g.index for g in storage.generations(study.id)] == [1]

    # ------------------------------------------------------------------ who holds a study

    def test_who_holds_a_study_is_known_while_it_is_held(self, storage, open_storage):
        other = open_storage()
        assert other.holder("digits") is None
        with storage.lock("digits"):
            assert f"process {os.getpid()} on" in other.holder("digits")
            assert other.holder("another") is None
        assert other.holder("digits") is None

    def test_asking_who_holds_a_study_keeps_nobody_from_taking_it(self, storage, open_storage):
        other, done = open_storage(), threading.Event()

        def ask():
            while not done.is_set():
                other.holder("digits")

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(50):
                with storage.lock("digits"):
                    pass
        finally:
            done.set()
            asking.join()
