import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.core.solutions.pareto import non_dominated
from moeash.core.solutions.variables import Integer, Real
from moeash.errors import InputError
from moeash.searches.base import Fitness
from moeash.searches.hypervolume import hypervolume
from moeash.searches.nsga2 import Nsga2Search, initial_population
from moeash.searches.options import SearchOptions
from moeash.searches.space import Space
from tests.marks import slow

K = Space((Integer("k", 2, 256),))


def objectives(k):
    """A saturating accuracy in steps of 1/450 that wobbles, and a size that wobbles too."""
    accuracy = np.round(450 * (1 - np.exp(-k / 9.0)) * (1 + 0.01 * np.sin(7 * k))) / 450
    return (-accuracy, 1000 + 40 * np.log2(k) * 30 + 25 * np.cos(11 * k))


def search(*, seed=0, population=20, generations=15, tell=objectives, space=K, initial="linear"):
    """Run a search and return its generations as lists of candidates."""
    algorithm = Nsga2Search(space, SearchOptions(population=population, initial=initial), seed=seed)
    proposed = []
    for _ in range(generations):
        if not (candidates := algorithm.ask()):
            break
        proposed.append(candidates)
        algorithm.tell(
            [Fitness(None) if tell(c["k"]) is None else Fitness(tell(c["k"])) for c in candidates]
        )
    return proposed


def test_the_first_generation_is_linear_with_both_bounds():
    first = [c["k"] for c in search(population=11, generations=1)[0]]
    assert first == [round(v) for v in np.linspace(2, 256, 11)]


BOUNDS = {"low": st.integers(1, 300), "span": st.integers(0, 300), "n": st.integers(2, 60)}


@given(**BOUNDS)
@settings(deadline=None)
def test_the_first_linear_population_has_as_many_points_as_there_are_and_both_bounds(low, span, n):
    x = initial_population(Space((Integer("k", low, low + span),)), n, 0, "linear")
    assert len(np.unique(x)) == len(x) == min(n, span + 1)
    assert x.min() == low and x.max() == low + span


@given(**BOUNDS)
@settings(deadline=None)
def test_the_first_logarithmic_population_has_equal_ratios_up_to_rounding(low, span, n):
    x = initial_population(Space((Integer("k", low, low + span),)), n, 0, "log")[:, 0]
    assert len(np.unique(x)) == len(x) <= min(n, span + 1)
    assert x.min() == low and x.max() == low + span
    ratio = ((low + span) / low) ** (1 / (n - 1))
    assert (x[1:] - 0.5 <= (x[:-1] + 0.5) * ratio * (1 + 1e-9)).all(), "nothing is left out"
    assert (np.diff(np.diff(x)) >= -1).all(), "and steps grow"


def test_the_first_random_population_has_one_draw_in_each_share_of_every_variable():
    space = Space((Real("a", 0.0, 1.0), Real("b", 10.0, 20.0)))
    x = initial_population(space, 16, 3, "random")
    for column in ((x - space.lower) / (space.upper - space.lower)).T:
        assert sorted((column * 16).astype(int)) == list(range(16))


def test_a_logarithm_of_nothing_is_refused():
    with pytest.raises(InputError, match="needs a first variable above 0"):
        initial_population(Space((Integer("k", 0, 9),)), 4, 0, "log")


def test_a_search_is_a_function_of_its_seed():
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    one = search(seed=5)
    np.random.seed(2)  # noqa: NPY002
    assert search(seed=5) == one != search(seed=6)


def test_no_generation_proposes_a_candidate_twice():
    for generation in search():
        assert len(set(generation)) == len(generation)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_the_front_found_is_part_of_the_exhaustive_one_and_nearly_all_of_it(seed):
    everything = np.array([objectives(k) for k in range(2, 257)])
    found = np.array([objectives(c["k"]) for g in search(seed=seed) for c in g])
    front = found[non_dominated(found)]
    # Non-dominated even among all points: the saturated end has few points and all are found.
    exact = {tuple(row) for row in everything[non_dominated(everything)]}
    assert sum(tuple(row) in exact for row in front) >= 0.9 * len(front)
    reference, scale = np.array([0.0, 13_000.0]), np.array([1.0, 13_000.0])
    best = hypervolume(everything / scale, reference / scale)
    assert hypervolume(found / scale, reference / scale) >= 0.99 * best


def share_below(told):
    """Return the share of later generations below 0.5, where ``told`` is what happens."""
    space, later = Space((Real("x", 0.0, 1.0),)), []
    algorithm = Nsga2Search(space, SearchOptions(), seed=0)
    for generation in range(10):
        xs = [candidate["x"] for candidate in algorithm.ask()]
        algorithm.tell([told if x < 0.5 else Fitness((x, (x - 0.75) ** 2)) for x in xs])
        if generation >= 5:
            later += [x < 0.5 for x in xs]
    return np.mean(later)


@pytest.mark.parametrize("told", [Fitness(None), Fitness((0.0, 0.0), violation=0.2)])
def test_where_candidates_fail_or_are_unwanted_the_search_stays_away(told):
    assert share_below(told) < 0.25
    assert share_below(Fitness((0.0, 0.0))) > 0.5, "it goes where they are good"


def test_a_generation_of_failures_only_does_not_end_the_search():
    assert len(search(tell=lambda k: None, generations=5)) == 5


def test_an_exhausted_space_is_an_empty_generation_not_an_error():
    small = Space((Integer("k", 2, 10),))
    generations = search(space=small, generations=200)
    assert {c["k"] for g in generations for c in g} == set(range(2, 11))
    assert len(generations) < 200


@pytest.mark.filterwarnings("error")
def test_a_variable_with_one_value_does_not_disturb_the_others():
    space = Space((Integer("k", 2, 256), Real("rate", 0.5, 0.5), Integer("j", 3, 3)))
    for generation in search(space=space, generations=5):
        assert all(c["rate"] == 0.5 and c["j"] == 3 for c in generation)
    assert len(generation) == 20


def test_reals_are_searched_within_their_bounds():
    space = Space((Integer("k", 2, 64), Real("rate", 1e-4, 1e-1, log=True)))
    rates = [c["rate"] for g in search(space=space, generations=6) for c in g]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-1 and len(set(rates)) > 60
