import numpy as np
import pytest

from moeash.core.solutions.variables import Integer, Real
from moeash.searches.base import Fitness
from moeash.searches.options import SearchOptions
from moeash.searches.space import Space
from moeash.searches.steady_nsga2 import SteadyNsga2


def search(space, *, population=6, seed=0):
    return SteadyNsga2(space, SearchOptions(population=population), seed=seed)


LINE = Space((Integer("k", 1, 40),))


def conflict(candidate):
    k = candidate["k"]
    return Fitness((float(k), abs(float(k) - 30)))


@pytest.mark.parametrize("n", [1, 7])
def test_every_point_is_proposed_once_and_then_nothing(n):
    steady, seen = search(LINE), []
    while candidates := steady.propose(n):
        assert len(candidates) == min(n, 40 - len(seen))
        seen += [candidate["k"] for candidate in candidates]
        steady.tell(candidates, [conflict(candidate) for candidate in candidates])
    assert sorted(seen) == list(range(1, 41))


def test_children_may_be_asked_for_before_any_is_measured():
    steady = search(LINE)
    out = [*steady.propose(1), *steady.propose(19)]
    assert len(set(out)) == 20


@pytest.mark.slow
def test_the_population_finds_the_front():
    space = Space((Real("x", 0.0, 1.0), Real("y", 0.0, 1.0)))
    steady, best = search(space, population=20), []
    for _ in range(600):
        (c,) = steady.propose(1)
        steady.tell([c], [Fitness((c["x"], (1 - c["x"]) ** 2 + c["y"]))])
        best.append(c["y"])
    assert np.mean(best[-100:]) < 0.1 < np.mean(best[:100]), "y is nothing but cost"


def share_below(told):
    """Return which share of later children is below 0.5, where ``told`` is what happens there."""
    steady, later = search(Space((Real("x", 0.0, 1.0),))), []
    for n in range(60):
        (candidate,) = steady.propose(1)
        x = candidate["x"]
        steady.tell([candidate], [told if x < 0.5 else Fitness((x, (x - 0.75) ** 2))])
        if n >= 20:
            later.append(x < 0.5)
    return np.mean(later)


@pytest.mark.parametrize("told", [Fitness(None), Fitness((0.0, 0.0), violation=0.5)])
def test_what_failed_or_is_unwanted_does_not_breed_while_others_live(told):
    assert share_below(told) < 0.25
    assert share_below(Fitness((0.0, 0.0))) > 0.5, "what is good does"


def test_one_seed_told_the_same_proposes_the_same():
    def proposals():
        steady, found = search(LINE, seed=3), []
        for _ in range(25):
            found += steady.propose(1)
            steady.tell(found[-1:], [conflict(found[-1])])
        return found

    assert proposals() == proposals()
