"""Where a study stands, told from what is stored: every line of the story below has its second."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from moeash.cli.status import status_lines
from moeash.core.solutions.recipe import Merge, Recipe, Refine
from moeash.evaluation.outcome import Job
from moeash.study.course.options import BudgetOptions
from moeash.study.events import (
    Doing,
    Ended,
    GenerationStarted,
    Note,
    Opened,
    PhaseEnded,
    PhaseStarted,
    SolutionMerged,
    WorkersChanged,
)
from moeash.study.storage.records import EvaluationRecord, EventRecord, GenerationRecord
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.tables import EVENTS
from moeash.study.study import Study
from moeash.study.summary import in_words, summary_of
from tests.contracts.storage import COMPLETE, FACTS, FAILED, STOPPED
from tests.digits import BASE

BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)


def moment(seconds):
    return BEGIN + timedelta(seconds=seconds)


class Story:
    """A study whose events are written at chosen seconds."""

    def __init__(self, storage):
        self.storage = storage
        self.id = storage.create_study(replace(FACTS, baseline=0.9, spec=BASE)).id
        self.n = 0

    def tell(self, seconds, event):
        self.storage.add_events(self.id, [event])
        self._date(seconds)

    def evaluate(self, seconds, stage="search", outcome=COMPLETE, generation=1):
        self.n += 1
        steps = {"search": (), "refined": (Refine(),), "merged": (Merge((1, 2)),)}[stage]
        self.storage.add_evaluations(
            self.id,
            [
                EvaluationRecord(
                    self.n,
                    stage,
                    generation,
                    None,
                    Job(Recipe.of({"k": self.n}, *steps)),
                    outcome,
                    moment(seconds).isoformat(timespec="milliseconds"),
                )
            ],
        )

    def end_generation(self, seconds, index, elapsed_s):
        generation = GenerationRecord(index, 0.5, self.n, 1, 10, elapsed_s)
        self.storage.put_generation(self.id, generation)
        self._date(seconds)

    def _date(self, seconds):
        """Date the last event."""
        last = self.storage.events(self.id, limit=1, newest=True)[0].id
        date = moment(seconds).isoformat(timespec="milliseconds")
        dated = update(EVENTS).where(EVENTS.c.id == last).values(created_at=date)
        self.storage.database.write(None, lambda connection: connection.execute(dated))

    def summary(self, seconds, *, held=True):
        study = Study(self.storage, FACTS.name)
        if not held:
            return summary_of(study, now=moment(seconds))
        with self.storage.lock(FACTS.name):
            return summary_of(study, now=moment(seconds))


@pytest.fixture
def storage(tmp_path):
    opened = SqlStorage(str(tmp_path / "a.db"))
    yield opened
    opened.close()


def opened(n_stored, **budget):
    return Opened(FACTS, n_stored, BudgetOptions(**budget))


def phase(summary, name):
    return next(p for p in summary["phases"] if p["phase"] == name)


def lines(summary):
    return "\n".join(status_lines(summary, "0.9000"))


def searched(storage, n=10, total=None, **budget):
    """A search of an evaluation every 6 seconds."""
    story = Story(storage)
    story.tell(0, opened(0, **budget))
    story.tell(0, WorkersChanged(2))
    story.tell(0, PhaseStarted("search", total))
    for i in range(n):
        story.evaluate(6 * (i + 1))
    return story


def test_a_document_is_plain_json(storage):
    summary = searched(storage, evaluations=40).summary(60)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_running_search_tells_its_rate_and_what_its_budget_leaves(storage):
    summary = searched(storage, total=40, generations=5).summary(60)
    assert (summary["status"], summary["phase"], summary["workers"]) == ("running", "search", 2)
    search = phase(summary, "search")
    assert (search["state"], search["done"], search["total"]) == ("running", 10, 40)
    assert search["per_minute"] == summary["evaluations_per_minute"] == 10
    assert search["left_s"] == summary["search_left_s"] == summary["phase_left_s"] == 30 * 6
    assert [phase(summary, n)["state"] for n in ("refine", "merge")] == ["waiting", "waiting"]
    assert "searching 10 of 40, 10.0 evaluations a minute, ends in about 3 min 0 s" in lines(
        summary
    )


def test_the_first_rule_to_hold_gives_the_time_left(storage):
    story = searched(storage, evaluations=1000, generations=4, wall_time_s=100)
    assert story.summary(60)["search_left_s"] == 40
    story.end_generation(60, 1, elapsed_s=10.0)
    assert story.summary(60)["search_left_s"] == 30
    assert "1 generation, 10 evaluations: 10 complete" in lines(story.summary(60))
    story.end_generation(90, 2, elapsed_s=4.0)
    assert story.summary(90)["search_left_s"] == 10, "of wall time; two generations take 14 s"
    assert story.summary(101)["search_left_s"] == 0


def test_the_budget_is_that_of_the_present_run(storage):
    story = searched(storage, evaluations=10)
    story.tell(100, opened(10, evaluations=30))
    story.tell(100, PhaseStarted("search", n_stored=10))
    for i in range(1, 6):
        story.evaluate(100 + 6 * i)
    assert story.summary(130)["search_left_s"] == 15 * 6


def test_nobody_knows_how_long_a_search_without_gain_takes(storage):
    summary = searched(storage, no_gain=3).summary(60)
    assert summary["search_left_s"] is None and "ends in" not in lines(summary)
    assert "searching: 10 evaluations, 10.0 evaluations a minute" in lines(summary)


def refining(storage, n, **budget):
    story = searched(storage, generations=1, **budget)
    story.tell(61, PhaseEnded("search", "generations"))
    story.tell(61, PhaseStarted("refine", 20, 0))
    for i in range(n):
        story.evaluate(61 + 30 * (i + 1), stage="refined")
    return story


def test_a_study_that_refines_says_so_and_nothing_of_the_search(storage):
    summary = refining(storage, 3).summary(160)
    assert (summary["phase"], summary["search_left_s"]) == ("refine", None)
    search, refine = phase(summary, "search"), phase(summary, "refine")
    assert (search["state"], search["ending"], search["done"]) == ("ended", "generations", 10)
    assert (refine["done"], refine["total"], refine["evaluations"]) == (3, 20, 3)
    # Its own pace: 2 a minute, not mixed with the search's 10.
    assert refine["per_minute"] == 2 and refine["left_s"] == summary["phase_left_s"] == 17 * 30
    said = lines(summary)
    assert "refining 3 of 20, 2.0 evaluations a minute, ends in about 8 min 30 s" in said
    assert "search" not in said.replace("search ended", "").replace("search began", "")


def test_evaluations_of_the_whole_study_end_any_phase(storage):
    assert refining(storage, 3, evaluations=15).summary(160)["phase_left_s"] == 2 * 30


def test_the_wall_time_of_the_whole_study_ends_any_phase(storage):
    assert refining(storage, 0, wall_time_s=100).summary(70)["phase_left_s"] == 30


def test_a_phase_that_has_just_begun_has_no_pace_yet(storage):
    summary = refining(storage, 1).summary(100)
    assert phase(summary, "refine")["per_minute"] is None and summary["phase_left_s"] is None
    assert "refining 1 of 20\n" in lines(summary)


def test_what_was_refined_before_counts_when_it_goes_on(storage):
    story = refining(storage, 3)
    story.tell(200, opened(13))
    assert story.summary(200)["phase"] is None, "it is loading, and no phase has begun again"
    assert phase(story.summary(200), "refine")["state"] == "stopped"
    story.tell(201, PhaseStarted("refine", 20, 3))
    story.evaluate(231, stage="refined")
    summary = story.summary(240)
    assert (phase(summary, "refine")["done"], phase(summary, "refine")["evaluations"]) == (4, 4)


@pytest.mark.slow
def test_merging_counts_solutions(storage):
    story = refining(storage, 20)
    story.tell(700, PhaseEnded("refine", "exhausted"))
    story.tell(700, PhaseStarted("merge", 9))
    for i in range(1, 3):
        for trial in range(4):
            story.evaluate(700 + 40 * i + trial, stage="merged", outcome=STOPPED)
        story.tell(700 + 50 * i, SolutionMerged(i, f"k={i}", 9, 7, 4))
    summary = story.summary(800)
    merge = phase(summary, "merge")
    assert (summary["phase"], merge["done"], merge["total"]) == ("merge", 2, 9)
    assert (merge["evaluations"], merge["stopped"], merge["left_s"]) == (8, 8, 7 * 50)
    assert "merging solution 3 of 9" in lines(summary)
    assert "merged solution 2 (k=2): 9 -> 7 entries in 4 trials" in lines(summary)
    assert phase(summary, "refine")["done"] == 20


def test_workers_are_those_of_the_process_that_runs(storage):
    story = searched(storage)
    assert story.summary(60)["workers"] == 2
    assert story.summary(60, held=False)["workers"] == 0
    story.tell(70, opened(10))
    assert story.summary(70)["workers"] == 0
    story.tell(71, WorkersChanged(5))
    assert story.summary(72)["workers"] == 5


def test_a_crash_tells_the_last_that_was_done(storage):
    story = searched(storage)
    assert story.summary(60, held=False)["reason"] == "last: evaluation 10 was complete, 12:01:00"
    storage.set_activity(story.id, GenerationStarted(3, 20, 20))
    summary = story.summary(60, held=False)
    assert summary["status"] == "crashed" and summary["phase"] is None
    assert summary["reason"].startswith("last: evaluating generation 3, ")
    assert summary["doing"]["text"] == "evaluating generation 3"
    assert phase(summary, "search")["state"] == "stopped"
    said = lines(summary)
    assert said.startswith("study digits: crashed; last: evaluating generation 3, ")
    assert "2 workers" in said.splitlines()[-2] and "search began" in said.splitlines()[-1]


def test_a_process_that_died_before_it_said_anything_is_named(storage):
    story = Story(storage)
    summary = story.summary(0, held=False)
    assert summary["status"] == "crashed" and "died before it said anything" in summary["reason"]


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_orderly_end_tells_its_reason(storage, status):
    story = searched(storage)
    storage.set_activity(story.id, GenerationStarted(3, 20, 20))
    storage.set_status(story.id, status, reason="StorageError: the disk is full")
    story.tell(70, Ended(status, "StorageError: the disk is full"))
    summary = story.summary(80, held=False)
    assert (summary["status"], summary["doing"]) == (status, None)
    assert summary["reason"] == "StorageError: the disk is full"
    assert lines(summary).startswith(f"study digits: {status}; StorageError: the disk is full\n")


def test_a_finished_study_says_why_its_search_ended(storage):
    story = searched(storage)
    storage.set_status(story.id, "finished", ending="no_gain")
    summary = story.summary(80, held=False)
    assert summary["reason"] is None
    assert {phase(summary, n)["state"] for n in ("refine", "merge", "distill")} == {"skipped"}
    assert lines(summary).startswith("study digits: finished, hypervolume stopped growing\n")


def test_failures_are_told_with_their_recipe(storage):
    from dataclasses import replace

    story = searched(storage)
    story.evaluate(70, outcome=replace(FAILED, retriable=True), stage="merged")
    summary = story.summary(80)
    assert (summary["failed"], summary["retriable"]) == (1, 1)
    assert summary["errors"] == [
        {
            "id": 11,
            "recipe": Recipe.of({"k": 11}, Merge((1, 2))).as_dict(),
            "text": "k=11, merged to 2 entries",
            "error": FAILED.error,
            "retriable": True,
        }
    ]
    assert f"failed: 11 k=11, merged to 2 entries: {FAILED.error}" in lines(summary)
    assert "1 failed through no fault" in lines(summary)


@pytest.mark.parametrize(
    "event, words",
    [
        (Doing("measuring curvature", 3, 20), "measuring curvature, 3 of 20"),
        (Doing("loading"), "loading"),
        (opened(1200), "began with 1,200 stored evaluations"),
        (opened(0), "began"),
        (Note("a worker died"), "a worker died"),
        (WorkersChanged(1), "1 worker"),
        (WorkersChanged(2), "2 workers"),
        (PhaseStarted("merge", 9), "merge began, 9 at most"),
        (PhaseStarted("search"), "search began"),
        (PhaseEnded("merge", "complete"), "merge ended: every solution was worked on"),
        (Ended("interrupted", "SIGTERM"), "interrupted: SIGTERM"),
        (Ended("finished"), "finished"),
    ],
)
def test_events_are_told_in_words(event, words):
    assert in_words(EventRecord(1, "", event.kind, event.payload())) == words


def test_an_event_of_a_later_moeash_is_told_by_its_kind():
    assert in_words(EventRecord(1, "", "distilling", {"teacher": 1})) == "distilling"
