"""The steady search of a real study; its phase by itself: course/test_steady_state.py."""

import pytest

from tests.backends.crew import Ok
from tests.backends.simulated import SimulatedBackend
from tests.backends.studies import run_study, spec
from tests.study.test_merging import ManySlots

WIDE = {"method": {"name": "uniform", "k": [2, 256]}, "merge": {"trials": 0}}


def steady(**changes):
    return spec(search__algorithm="steady_nsga2", **{**WIDE, **changes})


@pytest.mark.slow
def test_a_budget_of_evaluations_is_kept_exactly_whatever_is_out(tmp_path):
    study = run_study(tmp_path, steady(budget={"evaluations": 30}), make_backend=ManySlots)
    assert (len(study.evaluations()), study.record.ending) == (30, "evaluations")
    assert [r.number for r in study.evaluations()] == list(range(1, 31))
    assert [g.n_evaluations for g in study.generations()] == [8, 16, 24, 30]


@pytest.mark.slow
def test_a_study_on_many_slots_repeats_nothing_after_a_crash_or_with_a_larger_budget(tmp_path):
    made = []

    def run(evaluations, die_after=None):
        def make(task):
            made.append(ManySlots(task, die_after=die_after))
            return made[-1]

        return run_study(tmp_path, steady(budget={"evaluations": evaluations}), make_backend=make)

    with pytest.raises(KeyboardInterrupt):
        run(30, die_after=11)
    study = run(30)
    assert (len(study.evaluations()), study.record.status) == (30, "finished")
    assert [g.n_evaluations for g in study.generations()] == [8, 16, 24, 30]
    assert len(run(33).evaluations()) == 33
    assert [g.n_evaluations for g in study.generations()] == [8, 16, 24, 32, 33]
    assert [sum(backend.evaluated.values()) for backend in made] == [11, 19, 3]
    assert len({r.job.key for r in study.evaluations()}) == 33, "nothing twice"


def test_answers_that_come_together_are_stored_together_and_never_across_a_generation(tmp_path):
    waiting = []

    class Counting(SimulatedBackend):
        def next(self):
            waiting.append(self.n_ready)
            return super().next()

    plain = steady(method={"name": "uniform", "k": [2, 5000]}, budget={"evaluations": 44})
    study = run_study(
        tmp_path, plain, make_backend=lambda task: Counting(5, lambda job, tries, crew: Ok(1.0))
    )
    assert max(waiting) == 5, "five answers came at the same time"
    assert [g.n_evaluations for g in study.generations()] == [8, 16, 24, 32, 40, 44]
    generations = [r.generation for r in study.evaluations()]
    assert sorted(generations) == [1 + n // 8 for n in range(44)]
