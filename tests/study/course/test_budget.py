import pytest

from moeash.study.course.budget import ENDINGS, Budget
from moeash.study.course.options import BudgetOptions


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def endings(options, *, volumes=None, seconds=1.0, new=2, n=6):
    """Return what each of ``n`` generations of ``new`` evaluations and ``seconds`` ends with."""
    clock = Clock()
    budget = Budget(options, clock=clock)
    found = []
    for index in range(1, n + 1):
        clock.now += seconds
        volume = float(index) if volumes is None else volumes[index - 1]
        found.append(budget.end_generation(index, hypervolume=volume, evaluations=new * index))
    return found


@pytest.mark.parametrize(
    ("options", "arguments", "ending", "n_generations"),
    [
        (BudgetOptions(generations=3), {}, "generations", 3),
        (BudgetOptions(evaluations=7), {}, "evaluations", 4),
        (BudgetOptions(wall_time_s=4.5), {}, "wall_time", 5),
        (BudgetOptions(no_gain=2), {"volumes": [1, 1, 2, 2, 2, 9]}, "no_gain", 5),
        (BudgetOptions(no_gain=2), {"volumes": [0, 0, 0, 0, 0, 0]}, "no_gain", 3),
        (BudgetOptions(no_gain=2), {"volumes": [-3, -2, -1, -1, -1, 0]}, "no_gain", 5),
    ],
)
def test_each_rule_ends_the_search_under_its_own_name(options, arguments, ending, n_generations):
    found = endings(options, **arguments)
    assert found[:n_generations] == [None] * (n_generations - 1) + [ending]
    assert ending in ENDINGS


def test_of_rules_that_hold_together_one_order_decides():
    volumes = [1.0, 1.0, 1.0]
    everything = {"generations": 3, "evaluations": 6, "no_gain": 2, "wall_time_s": 3.0}
    for first in ("generations", "evaluations", "no_gain", "wall_time_s"):
        ending = endings(BudgetOptions(**everything), volumes=volumes, n=3)[-1]
        assert ending == first.removesuffix("_s")
        del everything[first]
        everything.setdefault("wall_time_s", 3.0)


def test_evaluations_and_time_are_spent_by_every_phase_and_generations_by_none_but_the_search():
    clock = Clock()
    budget = Budget(BudgetOptions(generations=1, evaluations=5, no_gain=1), clock=clock)
    assert budget.end_generation(1, hypervolume=1.0, evaluations=2) == "generations"
    assert budget.spent(2) is None
    assert (budget.evaluations_left(2), budget.evaluations_left(9)) == (3, 0)
    assert budget.spent(5) == "evaluations"
    timed = Budget(BudgetOptions(wall_time_s=10), clock=clock)
    assert timed.spent(10**6) is None and timed.evaluations_left(10**6) is None
    clock.now = 10.0
    assert timed.spent(0) == "wall_time"
