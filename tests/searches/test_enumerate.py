import pytest

from moeash.core.solutions.variables import Integer, Real
from moeash.errors import InputError
from moeash.searches.enumerate import ExhaustiveSearch, RandomSearch
from moeash.searches.space import Space


def everything(search):
    generations = []
    while candidates := search.ask():
        search.tell([])
        generations.append(candidates)
    return generations


def test_exhaustive_proposes_every_point_once_in_order():
    generations = everything(ExhaustiveSearch(Space((Integer("k", 3, 12),)), population=4))
    assert [[c["k"] for c in g] for g in generations] == [[3, 4, 5, 6], [7, 8, 9, 10], [11, 12]]


def test_exhaustive_covers_the_product_of_all_variables():
    space = Space((Integer("k", 1, 3), Integer("j", 0, 1), Real("r", 0.5, 0.5)))
    points = [c for g in everything(ExhaustiveSearch(space, population=5)) for c in g]
    assert len(points) == len(set(points)) == space.size == 6


def test_exhaustive_refuses_a_continuum_by_name():
    with pytest.raises(InputError, match=r"\['rate'\] are real"):
        ExhaustiveSearch(Space((Integer("k", 1, 3), Real("rate", 0.0, 1.0))), population=5)


@pytest.mark.parametrize("size", [1, 7, 255])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_proposes_every_point_exactly_once_and_then_ends(size, seed):
    search = RandomSearch(Space((Integer("k", 2, size + 1),)), population=20, seed=seed)
    generations = everything(search)
    points = [c["k"] for g in generations for c in g]
    assert sorted(points) == list(range(2, size + 2))
    assert all(len(g) == 20 for g in generations[:-1])
    assert search.ask() == []


def test_random_is_a_function_of_its_seed():
    def draw(seed):
        return everything(RandomSearch(Space((Integer("k", 2, 90),)), population=9, seed=seed))

    assert draw(3) == draw(3) != draw(4)


def test_random_gives_both_bounds_the_chance_of_any_other_value():
    first = [
        RandomSearch(Space((Integer("k", 1, 4),)), population=1, seed=s).ask()[0]["k"]
        for s in range(1200)
    ]
    for value in range(1, 5):  # 300 expected, standard deviation 15
        assert abs(first.count(value) - 300) < 60


def test_random_draws_reals_without_end():
    search = RandomSearch(Space((Real("r", 1e-4, 1.0, log=True),)), population=50, seed=0)
    drawn = [c["r"] for _ in range(4) for c in search.ask()]
    assert len(set(drawn)) == 200
    assert sum(r < 1e-2 for r in drawn) == pytest.approx(100, abs=35)  # uniform in the logarithm
