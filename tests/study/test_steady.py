import pytest

from tests.backends.crew import Ok
from tests.backends.simulated import SimulatedBackend
from tests.backends.studies import run_study, spec
from tests.study.test_merging import ManySlots

WIDE = {"method": {"name": "uniform", "k": [2, 256]}, "merge": {"trials": 0}}


def steady(**changes):
    return spec(search__algorithm="steady_nsga2", **{**WIDE, **changes})


def test_a_budget_of_evaluations_is_kept_exactly_whatever_is_out(tmp_path):
    plain = steady(budget={"evaluations": 30})
    study = run_study(tmp_path, plain, make_backend=ManySlots)
    assert len(study.evaluations()) == 30
    assert study.record.ending == "evaluations"
    assert [r.number for r in study.evaluations()] == list(range(1, 31))
    assert [g.n_evaluations for g in study.generations()] == [8, 16, 24, 30]


def test_a_larger_budget_continues_without_repeating(tmp_path):
    run_study(tmp_path, steady(budget={"evaluations": 20}), make_backend=ManySlots)
    made = []

    def make(task):
        made.append(ManySlots(task))
        return made[0]

    study = run_study(tmp_path, steady(budget={"evaluations": 33}), make_backend=make)
    assert len(study.evaluations()) == 33
    assert sum(made[0].evaluated.values()) == 13
    assert len({r.job.key for r in study.evaluations()}) == 33


def test_an_interrupted_study_keeps_what_was_measured(tmp_path):
    plain = steady(budget={"evaluations": 30})
    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, plain, make_backend=lambda task: ManySlots(task, die_after=11))
    study = run_study(tmp_path, plain, make_backend=ManySlots)
    assert len(study.evaluations()) == 30 and study.record.status == "finished"


def test_generations_count_populations(tmp_path):
    study = run_study(tmp_path, steady(budget={"generations": 3}))
    assert (len(study.evaluations()), study.record.ending) == (24, "generations")
    volumes = [g.hypervolume for g in study.generations()]
    assert volumes == sorted(volumes) and len(volumes) == 3


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
    assert max(waiting) == 4, "five answers came at the same time"
    assert [g.n_evaluations for g in study.generations()] == [8, 16, 24, 32, 40, 44]
    generations = [r.generation for r in study.evaluations()]
    assert sorted(generations) == [1 + n // 8 for n in range(44)]
