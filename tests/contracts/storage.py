"""What every storage must do. Subclass it and supply ``open_storage``."""

import math
import os
import threading
from dataclasses import replace

import pytest

from moeash.core.objectives import Sizes
from moeash.core.recipe import Merge, Recipe
from moeash.errors import StorageError, StudyExistsError, StudyLockedError, StudyNotFoundError
from moeash.evaluation.outcome import Job, Outcome
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, StudyFacts

FACTS = StudyFacts(
    name="digits",
    spec={"name": "digits", "method": {"k": [2, 256], "clip": None}, "Ünïcode": "ключ 鍵 🔑"},
    fingerprint="0" * 32,
    network_fingerprint="1" * 32,
    data_fingerprint="2" * 32,
    environment={"threads": 1, "torch": "2.0"},
    metric_name="top1",
    baseline=0.1 + 0.2,
    original_bytes=2**40,
    n_shared=2**33,
    n_kept=300,
    n_batches=10,
    objectives=("size_bytes", "entries"),
    reference=(0.0, 1e9, 256.0),
)
COMPLETE = Outcome("complete", 1 / 3, 1 / 3, Sizes(2**40, 7, 2.1), "ab" * 16, 10, 0.25)
STOPPED = Outcome("stopped", None, 0.7, Sizes(100, 7, 2.1), None, 3, 0.1)
FAILED = Outcome("failed", None, None, None, None, 0, 0.1, "ValueError: ключ 'k'")


def add(storage, study, number, *, outcome=COMPLETE, job=None, **options):
    job = job or Job(Recipe.of({"k": number}))
    options = {"stage": "search", "generation": 1, "parent": None, **options}
    return storage.add_evaluation(study.id, number=number, job=job, outcome=outcome, **options)


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
        storage.set_status(study.id, "finished", "no_gain")
        storage.set_status(study.id, "running")
        record = storage.study("digits")
        assert (record.status, record.ending) == ("running", "no_gain")

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

    @pytest.mark.parametrize("bound", [math.inf, -math.inf, 5e-324, 1.7e308, -0.1])
    def test_bounds_and_floors_of_any_size_come_back(self, storage, bound):
        study = storage.create_study(FACTS)
        job = Job(Recipe.of({"k": 1}), floor=bound)
        add(storage, study, 1, outcome=replace(STOPPED, bound=bound), job=job)
        (record,) = storage.evaluations(study.id)
        assert record.outcome.bound == bound and record.job.floor == bound

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

    # ------------------------------------------------------------------ what runs ahead, and events

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

    def test_events_come_back_in_order(self, storage, open_storage):
        study = storage.create_study(FACTS)
        for text in ("a worker died", "ключ \N{KEY}"):
            storage.add_event(study.id, text)
        assert [e.text for e in open_storage().events(study.id)] == ["a worker died", "ключ 🔑"]

    def test_the_number_of_workers_is_remembered(self, storage, open_storage):
        study = storage.create_study(FACTS)
        assert study.workers is None
        storage.set_workers(study.id, 3)
        assert open_storage().study("digits").workers == 3

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
