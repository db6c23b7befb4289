from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeash.core.solutions.recipe import Recipe, Refine
from moeash.errors import InputError
from moeash.evaluation.outcome import CAUTION, Archive, Job
from moeash.study.course.budget import Budget
from moeash.study.course.extending import Extending, chosen, spread
from moeash.study.course.options import (
    BudgetOptions,
    DistillOptions,
    RefineOptions,
    TuneOptions,
)
from moeash.study.course.phase import Proposal
from tests.study.course.driving import Desk, Slots, complete
from tests.study.test_solution import solution

NOTHING = Archive(("size_bytes",))


def noisy(record, noise):
    return replace(record, outcome=replace(record.outcome, noise=noise))


def better(job):
    return complete(0.95, 900 + int(job.recipe.candidate["k"]), fingerprint=job.key[-30:])


def refine(folder, backend, *, n=6, options=None):
    desk = Desk(folder)
    answers = []
    for k in range(1, n + 1):
        proposal = Proposal(Job(Recipe.of({"k": k})), NOTHING, "search", 1 + k % 2)
        answers.append((proposal, complete(0.8, 1000 + k)))
    parents = desk.ledger.store(answers)
    phase = Extending(
        "refine",
        "refined",
        [(parent, Refine()) for parent in parents],
        Budget(options or BudgetOptions()),
        archive=NOTHING,
        floor=0.5,
        n_evaluations=lambda: desk.ledger.n_proposed,
    )
    desk.run(phase, backend)
    return desk, phase


@pytest.mark.parametrize("n_slots", [1, 4])
def test_every_solution_is_made_again_in_the_order_of_the_front(tmp_path, n_slots):
    desk, phase = refine(tmp_path, Slots(better, n_slots, seed=2))
    records = desk.records()
    parents, refined = records[:6], sorted(records[6:], key=lambda r: r.number)
    assert phase.ending == "complete"
    assert [r.recipe for r in refined] == [p.recipe.then(Refine()) for p in parents]
    assert [(r.parent, r.generation) for r in refined] == [
        (p.number, p.generation) for p in parents
    ]
    assert {r.stage for r in refined} == {"refined"}
    assert sorted(r.number for r in phase.records) == list(range(7, 13))


class Growing(Slots):
    """One worker after the other comes while the first is still at its first job."""

    def wait(self, n_slots):
        assert n_slots == self.n_slots
        self.n_slots = self.workers = min(3, n_slots + 1)
        return self.n_slots == n_slots


def test_workers_that_come_later_get_solutions_before_any_is_done(tmp_path):
    backend = Growing(better)
    desk, phase = refine(tmp_path, backend)
    assert backend.most_out == 3 and len(phase.records) == 6
    assert [event.workers for event in desk.events("workers")] == [1, 2, 3]


@pytest.mark.parametrize("n_slots", [1, 4])
def test_the_budget_is_kept_and_the_first_of_the_front_come_first(tmp_path, n_slots):
    desk, phase = refine(tmp_path, Slots(better, n_slots), options=BudgetOptions(evaluations=6 + 2))
    assert phase.ending == "evaluations"
    assert [r.parent for r in desk.records() if r.stage == "refined"] == [1, 2]


def test_a_continued_phase_repeats_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        refine(tmp_path, Slots(better, 1, die_after=4))
    backend = Slots(better)
    desk, _ = refine(tmp_path, backend)
    assert sum(backend.evaluated.values()) == 2
    assert len(desk.records()) == 12


@pytest.mark.parametrize(
    ("n", "at_most", "expected"),
    [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (9, 1, [4]), (0, 4, []), (2, 2, [0, 1])],
)
def test_solutions_are_spread_with_both_ends(n, at_most, expected):
    assert spread(n, at_most) == expected


FRONT = [
    replace(made := solution(number, metric, size), record=noisy(made.record, 0.0))
    for number, metric, size in [(3, 0.80, 100), (1, 0.85, 200), (4, 0.88, 300), (2, 0.8999, 900)]
]
"""Of a float network with 0.9."""


@pytest.mark.parametrize(
    ("which", "numbers", "n_notes"),
    [
        (0, [], 0),
        (2, [3, 2], 0),
        ((), [], 0),
        ((0.05,), [1], 0),
        ((0.02, 0.07), [1, 4], 0),
        ((0.05, 0.06), [1], 0),
        ((1.0, 0.0), [3], 1),
        ((0.0,), [], 1),
    ],
)
def test_solutions_are_chosen_by_number_or_by_drop(which, numbers, n_notes):
    notes = []
    assert [s.id for s in chosen(FRONT, which, notes.append)] == numbers
    assert len(notes) == n_notes
    assert all("is within a drop of 0, so none is taken" in note for note in notes)


def test_luck_is_allowed_for():
    (lucky,) = [replace(FRONT[2], record=noisy(FRONT[2].record, 0.01))]
    assert not chosen([lucky], (0.021,), [].append)
    assert chosen([lucky], (0.021 + CAUTION * 0.01,), [].append) == [lucky]


@given(st.integers(0, 200), st.integers(0, 30))
def test_what_is_spread_is_distinct_in_order_and_has_both_ends(n, at_most):
    chosen = spread(n, at_most)
    assert len(chosen) == min(n, at_most)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(n))
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (0, n - 1)


@pytest.mark.parametrize("options", [RefineOptions, DistillOptions, TuneOptions])
def test_solutions_are_a_number_or_drops(options):
    assert options(solutions=3).solutions == 3
    assert options(solutions=[0.05, 0]).solutions == (0.05, 0.0)
    for wrong in (-1, 0.5, [-0.1], "all", True):
        with pytest.raises(InputError, match=rf"{options.table}\.solutions"):
            options(solutions=wrong)
