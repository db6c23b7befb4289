import random

import pytest

from moeash.core.solutions.candidate import Candidate
from moeash.study.course.budget import Budget
from moeash.study.course.options import BudgetOptions
from moeash.study.course.standing import Standing
from moeash.study.course.steady_state import SteadyState
from tests.study.course.driving import Desk, Slots, complete

POPULATION = 8


class Numbers:
    """Proposes each number once, in an order of its own, up to a last one."""

    def __init__(self, last=10**6):
        self._last = last
        self._known = set()
        self._random = random.Random(5)

    def propose(self, n):
        found = []
        while len(found) < n and len(self._known) < self._last:
            candidate = Candidate.of({"k": self._random.randint(1, self._last)})
            if candidate not in self._known:
                self._known.add(candidate)
                found.append(candidate)
        return found

    def tell(self, candidates, told):
        self._known.update(candidates)


def worth(job):
    k = int(job.recipe.candidate["k"])
    return complete(0.9 - 0.5 / k, 100 * k, fingerprint=f"f{k}")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def steady(folder, options, backend, *, last=10**6, clock=None):
    desk = Desk(folder)
    standing = Standing(desk.facts, None)
    phase = SteadyState(
        Numbers(last),
        standing,
        Budget(options, clock=clock or Clock()),
        desk.journal,
        widening=desk.widening(standing),
        population=POPULATION,
        stored=list(desk.ledger.known.values()),
    )
    desk.run(phase, backend)
    return desk, phase


@pytest.mark.parametrize("n_slots", [1, 5])
def test_a_budget_of_evaluations_is_kept_exactly_whatever_is_out(tmp_path, n_slots):
    desk, phase = steady(tmp_path, BudgetOptions(evaluations=30), Slots(worth, n_slots))
    assert phase.ending == "evaluations"
    assert sorted(r.number for r in desk.records()) == list(range(1, 31))
    assert [g.n_evaluations for g in desk.storage.generations(desk.id)] == [8, 16, 24, 30]
    generations = sorted(r.generation for r in desk.records())
    assert generations == [1 + n // POPULATION for n in range(30)]


def test_generations_count_populations(tmp_path):
    desk, phase = steady(tmp_path, BudgetOptions(generations=3), Slots(worth, 5))
    assert (len(desk.records()), phase.ending) == (24, "generations")
    volumes = [g.hypervolume for g in desk.storage.generations(desk.id)]
    assert volumes == sorted(volumes) and len(volumes) == 3


def test_generations_without_gain_end_it(tmp_path):
    def flat(job):
        return complete(0.5, 1000)

    desk, phase = steady(tmp_path, BudgetOptions(no_gain=2), Slots(flat, 3))
    assert phase.ending == "no_gain"
    assert len(desk.storage.generations(desk.id)) in (3, 4)
    # What was out when the rule held is measured and stored all the same.
    assert 3 * POPULATION <= len(desk.records()) < 3 * POPULATION + 3


def test_time_that_is_up_ends_it_within_a_generation(tmp_path):
    clock = Clock()

    def timed(job):
        clock.now += 1.0
        return worth(job)

    desk, phase = steady(tmp_path, BudgetOptions(wall_time_s=11), Slots(timed, 3), clock=clock)
    assert phase.ending == "wall_time"
    assert 11 <= len(desk.records()) <= 13
    stored = desk.storage.generations(desk.id)
    assert [g.index for g in stored] == [1, 2]
    assert stored[-1].n_evaluations == len(desk.records())


def test_a_space_without_new_points_ends_it(tmp_path):
    desk, phase = steady(tmp_path, BudgetOptions(generations=99), Slots(worth, 3), last=21)
    assert (len(desk.records()), phase.ending) == (21, "exhausted")
    assert [g.n_evaluations for g in desk.storage.generations(desk.id)] == [8, 16, 21]


def test_a_larger_budget_continues_without_repeating(tmp_path):
    steady(tmp_path, BudgetOptions(evaluations=20), Slots(worth, 5))
    backend = Slots(worth, 5)
    desk, _ = steady(tmp_path, BudgetOptions(evaluations=33), backend)
    assert sum(backend.evaluated.values()) == 13
    assert len({r.job.key for r in desk.records()}) == len(desk.records()) == 33


def test_an_interrupted_search_keeps_what_was_measured(tmp_path):
    first = Slots(worth, 5, die_after=11)
    with pytest.raises(KeyboardInterrupt):
        steady(tmp_path, BudgetOptions(evaluations=30), first)
    n_stored = len(Desk(tmp_path).records())
    assert n_stored >= 11 - 4, "answers that came together are stored together"
    second = Slots(worth, 5)
    desk, _ = steady(tmp_path, BudgetOptions(evaluations=30), second)
    assert sum(second.evaluated.values()) == 30 - n_stored
    assert len(desk.records()) == 30
