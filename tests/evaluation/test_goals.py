import math
import random

import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe, Refine
from moeash.core.solutions.variables import Integer, Real
from moeash.errors import EvaluationError, InputError, NothingMeetsError
from moeash.evaluation.goals import Goal, reach
from moeash.evaluation.outcome import Outcome

K = Integer("k", 8, 512)
RATE = Real("rate", 0.02, 0.08, log=True)


class Law:
    """A network whose files and losses follow laws; what a search would have to find out."""

    baseline = 0.9

    def __init__(self, best_rate=0.04, gain=0.8):
        self.best_rate, self.gain = best_rate, gain
        self.jobs = []

    def n_bytes(self, recipe):
        k, rate = recipe.candidate["k"], self.rate(recipe)
        return round(10_000 * (1 + math.log2(k)) * (0.04 / rate) ** 0.1)

    def rate(self, recipe):
        return dict(recipe.candidate.items).get("rate", 0.04)

    def drop(self, recipe):
        k, rate = recipe.candidate["k"], self.rate(recipe)
        away = 1 + 0.5 * math.log(rate / self.best_rate) ** 2
        return 40 * away * k**-2 * (self.gain if recipe.steps else 1)

    def evaluate(self, job, archive, progress=None):
        self.jobs.append(job)
        sizes = Sizes(self.n_bytes(job.recipe), job.recipe.candidate["k"], 1.0)
        metric = self.baseline - self.drop(job.recipe)
        if metric < job.floor:  # known after half of the images
            return Outcome("stopped", None, (metric + job.floor) / 2, sizes, None, 5, 0.0)
        return Outcome("complete", metric, metric, sizes, "f", 10, 0.0)


def reached(law, goal, variables=(K,), refines=False):
    return reach(law, variables, goal, baseline=law.baseline, refines=refines)


def test_the_smallest_file_within_a_drop_is_found_in_few_steps():
    law = Law()
    found = reached(law, Goal(max_drop=0.01))
    exact = math.sqrt(40 / 0.01)  # 63.2
    assert exact <= found.recipe.candidate["k"] <= 1.04 * exact
    assert found.n_evaluated == len(law.jobs) == len({job.recipe for job in law.jobs}) <= 4
    assert {job.floor for job in law.jobs} == {0.9 - 0.01}


def test_the_best_network_within_a_size_is_found_in_few_steps():
    law = Law()
    found = reached(law, Goal(max_bytes=70_000))
    assert 64 / 1.04 <= found.recipe.candidate["k"] <= 64
    assert found.outcome.sizes.size_bytes <= 70_000
    assert len(law.jobs) <= 9


@pytest.mark.parametrize("seed", range(60))
def test_lines_with_steps_and_knees_are_divided_as_well(seed):
    """Losses that are no power of the bins: what nearby values promise is then wrong."""
    draw = random.Random(seed)
    breaks = draw.sample(range(8, 513), draw.choice([1, 2, 3, 5, 10]))
    losses: dict[int, float] = {}
    loss, power = 10 ** draw.uniform(-6, -2.5), draw.choice([0, 0.1, 2, 8])
    for k in range(512, 7, -1):
        if k in breaks:
            loss *= 10 ** draw.uniform(0, 3)
            power = draw.choice([0, 0.01, 0.1, 1, 2, 8, 40])
        losses[k] = loss
        loss *= (k / (k - 1)) ** power

    class Broken(Law):
        def drop(self, recipe):
            return losses[recipe.candidate["k"]]

    law = Broken()
    limit = min(0.01, 0.999 * losses[8])
    if losses[512] > limit:
        with pytest.raises(NothingMeetsError):
            reached(law, Goal(max_drop=limit))
        return
    found = reached(law, Goal(max_drop=limit)).recipe.candidate["k"]
    least = min(k for k, loss in losses.items() if loss <= limit)
    assert least <= found <= 1.04 * least + 1
    assert len(law.jobs) <= 20  # halving takes nine


@pytest.mark.parametrize("seed", range(30))
def test_what_neighbours_lose_by_chance_sends_nobody_the_wrong_way(seed):
    class Noisy(Law):
        def drop(self, recipe):
            draw = random.Random(f"{seed} {recipe}")
            return super().drop(recipe) * math.exp(draw.gauss(0, 0.05))

    law = Noisy(gain=0.64)
    found = reached(law, Goal(max_drop=0.01), (K, RATE), refines=True)
    first, *others = [job.recipe.candidate["k"] for job in law.jobs if job.recipe.steps]
    assert others and all(k < first for k in others), "refined solutions bear fewer bins"
    assert found.outcome.metric >= law.baseline - 0.01
    every = [Recipe.of({"k": k, "rate": r}) for k in range(8, 513) for r in (0.02, 0.04, 0.08)]
    plain = [law.n_bytes(r) for r in every if 0.64 * Law().drop(r) <= 0.01]
    assert law.n_bytes(found.recipe) <= 1.06 * min(plain)  # refined twice in vain at worst
    assert len(law.jobs) <= 24


@pytest.mark.parametrize("goal", [Goal(max_drop=0.01), Goal(max_bytes=70_000)])
@pytest.mark.parametrize("best_rate", [0.02, 0.04, 0.08])
def test_another_rate_is_followed_only_where_it_pays(goal, best_rate):
    law = Law(best_rate)
    found = reached(law, goal, (K, RATE))
    middle = reached(Law(best_rate), goal, (K, Real("rate", 0.04, 0.04, log=True)))
    if goal.max_drop is None:
        assert law.drop(found.recipe) <= law.drop(middle.recipe)
    else:
        assert law.n_bytes(found.recipe) <= law.n_bytes(middle.recipe)
    every = [Recipe.of({"k": k, "rate": r}) for k in range(8, 513) for r in (0.02, 0.04, 0.08)]
    if goal.max_drop is None:
        least = min(law.drop(r) for r in every if law.n_bytes(r) <= goal.max_bytes)
        assert law.drop(found.recipe) <= 1.07 * least
    else:
        least = min(law.n_bytes(r) for r in every if law.drop(r) <= goal.max_drop)
        assert law.n_bytes(found.recipe) <= 1.01 * least
    assert len(law.jobs) <= 24


@pytest.mark.parametrize("goal", [Goal(max_drop=0.01), Goal(max_bytes=70_000)])
def test_what_refining_gains_is_spent_on_the_goal(goal):
    law = Law(gain=0.6)
    found = reached(law, goal, refines=True)
    assert found.recipe.steps == (Refine(),)
    if goal.max_drop is not None:
        exact = math.sqrt(0.6 * 40 / 0.01)  # 49
        assert exact <= found.recipe.candidate["k"] <= 1.05 * exact
    assert sum(bool(job.recipe.steps) for job in law.jobs) <= 3
    assert found.outcome.status == "complete"


def test_a_refinement_that_promises_next_to_nothing_is_not_tried():
    class Growing(Law):
        def drop(self, recipe):  # refining gains a little more with fewer bins
            few = recipe.steps and recipe.candidate["k"] < 60
            return super().drop(recipe) * (0.96 if few else 1)

    law = Growing()
    found = reached(law, Goal(max_drop=0.01), refines=True)
    refined = [job.recipe for job in law.jobs if job.recipe.steps]
    assert [recipe.candidate["k"] for recipe in refined] == [64, 57]
    assert found.recipe == refined[-1]
    fewer = Recipe.of({"k": 56}).then(Refine())  # a bin less is a fiftieth of them, in bytes
    assert law.drop(fewer) <= 0.01
    assert law.n_bytes(fewer) > 0.995 * law.n_bytes(found.recipe)


def test_refining_that_makes_it_worse_is_not_taken():
    found = reached(Law(gain=1.5), Goal(max_drop=0.01), refines=True)
    assert law_meets(found, 0.01)


def law_meets(found, drop):
    return 0.9 - found.outcome.metric <= drop


def test_a_network_without_any_loss_takes_the_fewest_bins():
    class Lossless(Law):
        def drop(self, recipe):
            return 0.0

    found = reached(Lossless(), Goal(max_drop=0.01), (K, RATE), refines=True)
    assert found.recipe.candidate["k"] == 8


def test_a_goal_out_of_reach_says_what_comes_nearest():
    with pytest.raises(NothingMeetsError, match=r"k = 512, the highest .* is 0.0001526 below"):
        reached(Law(), Goal(max_drop=1e-5))
    with pytest.raises(NothingMeetsError, match=r"k = 8, the lowest .* 40,000 bytes, more than 30"):
        reached(Law(), Goal(max_bytes=30_000))


def test_a_candidate_that_fails_ends_it():
    class Failing(Law):
        def evaluate(self, job, archive, progress=None):
            return Outcome("failed", None, None, None, None, 0, 0.0, error="ValueError: no")

    with pytest.raises(EvaluationError, match="k=512 failed: ValueError: no"):
        reached(Failing(), Goal(max_drop=0.1))


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_drop": 1, "max_bytes": 1},
        {"max_drop": 0},
        {"max_drop": -1},
        {"max_bytes": 0},
        {"max_drop": float("nan")},
    ],
)
def test_goals_that_are_none_are_refused(limits):
    with pytest.raises(InputError):
        Goal(**limits)


@pytest.mark.parametrize("variables", [(RATE,), (K, Integer("j", 1, 2)), (K, RATE, RATE)])
def test_methods_with_other_variables_are_sent_to_a_study(variables):
    with pytest.raises(InputError, match="run a study instead"):
        reached(Law(), Goal(max_drop=0.1), variables)


def test_the_example_in_the_law_is_one():
    assert Law().n_bytes(Recipe.of({"k": 64})) == 70_000
