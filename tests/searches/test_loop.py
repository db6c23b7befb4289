import itertools

import pytest

from moeash.core.candidate import Candidate
from moeash.searches.base import Fitness
from moeash.searches.loop import ENDINGS, STALE_GENERATIONS, GenerationResult, Stop, optimise


class Counting:
    """Proposes 1, 2, 3, ... two at a time, up to a last one."""

    def __init__(self, last=10**6):
        self.numbers = iter(range(1, last + 1))
        self.told = []

    def ask(self):
        return [Candidate.of({"k": k}) for k in itertools.islice(self.numbers, 2)]

    def tell(self, told):
        self.told.append(list(told))


def loop(stop, *, search=None, volumes=None, space_size=None, seconds=1.0, new=2):
    """Run with hypervolumes as given (else growing) and a clock that a generation advances."""
    now, n_evaluations = 0.0, 0

    def evaluate(index, candidates):
        nonlocal now, n_evaluations
        now += seconds
        n_evaluations += min(new, len(candidates)) if index == 1 or new else 0
        volume = float(index) if volumes is None else volumes[index - 1]
        return GenerationResult([Fitness((0.0,))] * len(candidates), n_evaluations, volume)

    return list(
        optimise(search or Counting(), evaluate, stop, space_size=space_size, clock=lambda: now)
    )


@pytest.mark.parametrize(
    ("stop", "arguments", "ending", "n_generations"),
    [
        (Stop(generations=3), {}, "generations", 3),
        (Stop(evaluations=7), {}, "evaluations", 4),
        (Stop(wall_time_s=4.5), {}, "wall_time", 5),
        (Stop(no_gain=2), {"volumes": [1, 1, 2, 2, 2, 9]}, "no_gain", 5),
        (Stop(no_gain=2), {"volumes": [0, 0, 0]}, "no_gain", 3),
        (Stop(generations=99), {"space_size": 10}, "exhausted", 5),
        (Stop(generations=5), {"space_size": 10}, "exhausted", 5),
        (Stop(generations=99), {"search": Counting(last=5)}, "exhausted", 3),
        (Stop(generations=3, evaluations=2, wall_time_s=9), {}, "evaluations", 1),
    ],
)
def test_each_rule_ends_the_search_under_its_own_name(stop, arguments, ending, n_generations):
    generations = loop(stop, **arguments)
    assert [g.index for g in generations] == list(range(1, n_generations + 1))
    assert [g.ending for g in generations] == [None] * (n_generations - 1) + [ending]
    assert ending in ENDINGS


def test_a_search_that_only_repeats_itself_counts_as_exhausted():
    generations = loop(Stop(evaluations=10**9), new=0, space_size=10**9)
    assert generations[-1].ending == "exhausted"
    assert len(generations) == STALE_GENERATIONS


def test_the_search_is_told_every_generation_it_proposed():
    search = Counting(last=5)
    loop(Stop(generations=99), search=search)
    assert [len(told) for told in search.told] == [2, 2, 1]


def test_an_empty_space_yields_no_generation():
    assert loop(Stop(generations=3), search=Counting(last=0)) == []
