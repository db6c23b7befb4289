"""A search goes on where the bound that a method has found cuts its front off."""

import pytest

from moeash.core.solutions.variables import Integer, Real
from moeash.searches.enumerate import ExhaustiveSearch, RandomSearch
from moeash.searches.nsga2 import Nsga2Search
from moeash.searches.options import SearchOptions
from moeash.searches.space import Space
from moeash.searches.steady_nsga2 import SteadyNsga2
from moeash.study.course.budget import Budget
from moeash.study.course.generations import Generations
from moeash.study.course.options import BudgetOptions
from moeash.study.course.standing import Standing
from moeash.study.course.steady_state import SteadyState
from tests.study.course.driving import Desk, Slots, complete

OPEN = Integer("k", 2, 64, widest=256)
POPULATION = 10


def losing(at_64):
    """Return a metric that loses so much with 64 bins and a quarter of it with twice as many."""

    def evaluate(job):
        k = int(job.recipe.candidate["k"])
        return complete(0.9 - at_64 * (64 / k) ** 2, 100 * k, fingerprint=f"f{k}")

    return evaluate


def course(
    folder,
    evaluate,
    *,
    algorithm="nsga2",
    generations=8,
    variables=(OPEN,),
    max_drop=None,
    slots=1,
    die_after=None,
):
    desk = Desk(folder, baseline=0.9, objectives=("size_bytes",), reference=(0.0, 40_000.0))
    standing = Standing(desk.facts, max_drop)
    widening = desk.widening(standing, *variables)
    options, budget = SearchOptions(population=POPULATION), BudgetOptions(generations=generations)
    backend = Slots(evaluate, slots, seed=3, die_after=die_after)
    if algorithm == "steady_nsga2":
        phase = SteadyState(
            SteadyNsga2(widening.space, options, seed=1),
            standing,
            Budget(budget),
            desk.journal,
            widening=widening,
            population=POPULATION,
            stored=list(desk.ledger.known.values()),
        )
    else:
        search = {
            "nsga2": lambda: Nsga2Search(widening.space, options, seed=1),
            "random": lambda: RandomSearch(widening.space, population=POPULATION, seed=1),
            "exhaustive": lambda: ExhaustiveSearch(widening.space, population=POPULATION),
        }[algorithm]()
        phase = Generations(
            search,
            standing,
            Budget(budget),
            desk.journal,
            widening=widening,
            known=desk.ledger.known,
        )
    desk.run(phase, backend)
    widening.say_where_it_ends()
    return desk, widening


def tried(desk):
    return [int(r.candidate["k"]) for r in desk.records()]


def notes(desk):
    return [event.text for event in desk.events("note")]


@pytest.mark.parametrize(
    ("at_64", "highest"),
    [(0.5, 256), (0.012, 256), (0.003, 128), (0.0009, 64), (0.0, 64)],
)
def test_the_space_goes_on_until_nothing_worth_it_is_lost(tmp_path, at_64, highest):
    desk, widening = course(tmp_path, losing(at_64))
    assert widening.space.variables[0].high == highest
    assert max(tried(desk)) == highest, "bounds are tried themselves"
    assert len(notes(desk)) == {64: 0, 128: 1, 256: 2}[highest]
    if highest > 64:
        assert "goes on to k = 128: its best solution, at a drop of " in notes(desk)[0]
        assert "has k = 64 of 64" in notes(desk)[0]


def test_a_generation_is_spread_over_what_is_new(tmp_path):
    desk, _ = course(tmp_path, losing(0.1), generations=3)
    by_generation = {g: [] for g in (1, 2, 3)}
    for record in desk.records():
        by_generation[record.generation].append(int(record.candidate["k"]))
    assert (min(by_generation[1]), max(by_generation[1])) == (2, 64)
    assert (min(by_generation[2]), max(by_generation[2])) == (65, 128)
    assert (min(by_generation[3]), max(by_generation[3])) == (129, 256)
    assert all(len(values) == POPULATION for values in by_generation.values())


def test_children_are_bred_in_the_wider_space_and_no_wider(tmp_path):
    desk, _ = course(tmp_path, losing(0.1), generations=12)
    bred = [int(r.candidate["k"]) for r in desk.records() if r.generation > 3]
    assert bred and max(tried(desk)) == 256
    assert any(value > 64 for value in bred)


@pytest.mark.parametrize("algorithm", ["nsga2", "steady_nsga2", "random", "exhaustive"])
def test_every_search_widens_and_proposes_nothing_twice(tmp_path, algorithm):
    desk, widening = course(tmp_path, losing(0.1), algorithm=algorithm, generations=30)
    assert widening.space.variables[0].high == 256
    assert max(tried(desk)) > 230
    assert len(set(tried(desk))) == len(tried(desk))
    if algorithm == "exhaustive":
        assert sorted(tried(desk)) == list(range(2, 257))


def test_bounds_that_a_person_gave_hold(tmp_path):
    desk, widening = course(tmp_path, losing(0.1), variables=(Integer("k", 2, 64),))
    assert max(tried(desk)) == 64 and widening.space.variables == (Integer("k", 2, 64),)
    assert not notes(desk), "what is said of given bounds is said behind the search"


def test_other_variables_stay_as_they_are(tmp_path):
    def evaluate(job):
        rate = float(job.recipe.candidate["rate"])
        outcome = losing(0.1)(job)
        return complete(outcome.metric, outcome.sizes.size_bytes - int(rate), fingerprint=job.key)

    rate = Real("rate", 1.0, 50.0, log=True)
    desk, widening = course(tmp_path, evaluate, variables=(OPEN, rate))
    assert widening.space.variables == (Integer("k", 2, 256, widest=256), rate)
    rates = [float(r.candidate["rate"]) for r in desk.records()]
    assert min(rates) >= 1.0 and max(rates) <= 50.0 and len(set(rates)) > POPULATION


def test_where_nothing_is_wanted_the_space_goes_on(tmp_path):
    desk, widening = course(tmp_path, losing(0.1), max_drop=0.01)
    assert "no solution was wanted so far" in notes(desk)[0]
    assert widening.space.variables[0].high == 256
    assert desk.records() and any(r.outcome.metric > 0.89 for r in desk.records())


def test_noise_that_explains_the_loss_widens_nothing(tmp_path):
    from dataclasses import replace

    def noisy(job):
        return replace(losing(0.004)(job), noise=0.005)

    _, widening = course(tmp_path, noisy)
    assert widening.space.variables[0].high == 64


def test_a_search_that_ended_before_it_could_go_on_says_so(tmp_path):
    desk, widening = course(tmp_path, losing(0.1), generations=1)
    assert widening.space.variables[0].high == 64
    (text,) = notes(desk)
    assert text.startswith("the front ends at a bound of the search: its best solution")
    assert text.endswith("let it run longer")


@pytest.mark.parametrize("algorithm", ["nsga2", "steady_nsga2"])
@pytest.mark.parametrize("die_after", [3, 14, 27, 45])
def test_an_interrupted_search_goes_on_in_the_space_it_had(tmp_path, algorithm, die_after):
    (tmp_path / "whole").mkdir()
    whole, _ = course(tmp_path / "whole", losing(0.1), algorithm=algorithm)
    with pytest.raises(KeyboardInterrupt):
        course(tmp_path, losing(0.1), algorithm=algorithm, die_after=die_after)
    desk, widening = course(tmp_path, losing(0.1), algorithm=algorithm)
    assert widening.space.variables[0].high == 256
    assert len(set(tried(desk))) == len(tried(desk)) == len(tried(whole))
    if algorithm == "nsga2":
        assert desk.sequence() == whole.sequence()


def test_many_slots_store_the_serial_sequence(tmp_path):
    desks = []
    for name, slots in (("one", 1), ("many", 4)):
        (tmp_path / name).mkdir()
        desks.append(course(tmp_path / name, losing(0.1), slots=slots)[0])
    assert desks[0].sequence() == desks[1].sequence()


def test_a_space_that_may_not_go_on_has_no_wider_one():
    assert Space((Integer("k", 2, 64), Real("rate", 0.1, 1.0))).wider is None
    once = Space((Integer("k", 2, 100, widest=130),)).wider
    assert once == Space((Integer("k", 2, 130, widest=130),)) and once.wider is None
    assert once.beyond(Space((OPEN,))) == Space((Integer("k", 65, 130, widest=130),))
