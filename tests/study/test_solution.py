import json
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.core.solutions.variables import Integer, Real
from moeash.errors import InputError, NothingMeetsError
from moeash.evaluation.outcome import CAUTION, Job
from moeash.study.solution import Solution, at_bound, cut_ends, front_of, pick
from moeash.study.storage.records import EvaluationRecord
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study
from tests.contracts.storage import COMPLETE, FACTS, STOPPED

STUDY = replace(FACTS, baseline=0.9, objectives=("size_bytes",))


def record(number, metric=0.5, size_bytes=100, recipe=None):
    outcome = replace(COMPLETE, metric=metric, sizes=Sizes(size_bytes, 7, 2.1))
    job = Job(recipe or Recipe.of({"k": number}))
    return EvaluationRecord(number, "search", 1, None, job, outcome, "2026-01-01T00:00:00+00:00")


def solution(*args, **kwargs):
    return Solution(STUDY, record(*args, **kwargs))


FRONT = [solution(4, 0.6, 100), solution(7, 0.8, 300), solution(9, 0.89, 900)]
K = Integer("k", 4, 9)


def test_a_solution_is_plain_json():
    made = solution(3, recipe=Recipe.of({"k": 4}, Merge((1, 2))))
    plain = made.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert Recipe.from_dict(plain["recipe"]) == made.recipe


@pytest.mark.parametrize(
    "limits, words",
    [
        ({"max_bytes": 99}, "within 99 bytes; the smallest one, id 4, takes 100 at a drop of 0.3"),
        ({"max_drop": 0.005}, "within a drop of 0.005; the best one, id 9, drops 0.0100 at 900"),
        (
            {"max_drop": 0.05, "max_bytes": 500},
            "within a drop of 0.05 and 500 bytes; the best one, id 7, drops 0.1000 at 300 bytes",
        ),
    ],
)
def test_a_pick_that_nothing_meets_names_the_nearest(limits, words):
    with pytest.raises(NothingMeetsError, match=words) as caught:
        pick(FRONT, "smallest", **limits)
    assert isinstance(caught.value, InputError) and "bound" not in str(caught.value)


def test_a_pick_that_a_bound_was_in_the_way_of_says_so():
    with pytest.raises(NothingMeetsError, match="it has k = 4, the lowest allowed, so a wider"):
        pick(FRONT, "smallest", max_bytes=99, variables=[K])
    with pytest.raises(NothingMeetsError, match="it has k = 9, the highest allowed"):
        pick(FRONT, "best", max_drop=0.0, variables=[K])
    with pytest.raises(NothingMeetsError) as caught:
        pick(FRONT, "best", max_drop=0.0, variables=[Integer("k", 4, 10)])
    assert "allowed" not in str(caught.value)


def noisy(number, metric, size_bytes, noise):
    made = record(number, metric, size_bytes)
    return Solution(STUDY, replace(made, outcome=replace(made.outcome, noise=noise)))


def test_a_limit_is_held_with_luck_allowed_for():
    lucky, sure = noisy(1, 0.899, 100, 0.004), noisy(2, 0.899, 200, 0.001)
    assert lucky.cautious_drop == pytest.approx(0.001 + CAUTION * 0.004)
    assert pick([lucky, sure], "smallest", max_drop=0.005) is sure
    assert pick([lucky, sure], "smallest", max_drop=0.02) is lucky
    assert pick([lucky, sure], "smallest") is lucky, "without a limit nothing is promised"
    with pytest.raises(NothingMeetsError, match=r"id 2, drops 0\.0010 at 200 bytes, and may well "):
        pick([lucky, sure], "smallest", max_drop=0.001)


def test_nothing_to_pick_is_nothing_that_meets():
    with pytest.raises(NothingMeetsError, match="no wanted solution yet"):
        pick([], "smallest")


def test_a_pick_that_does_not_exist_is_bad_usage():
    with pytest.raises(InputError, match="nearest: 'knee'") as caught:
        pick(FRONT, "kne")
    assert not isinstance(caught.value, NothingMeetsError)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"k": 4, "rate": 0.05}, "k = 4, the lowest allowed"),
        ({"k": 9, "rate": 0.1}, "k = 9, the highest allowed and rate = 0.1, the highest allowed"),
        ({"k": 5, "rate": 0.05}, None),
        ({"k": 5, "rate": 0.05, "fixed": 3}, None),
        ({"k": 5}, None),
    ],
)
def test_the_bounds_a_solution_lies_at_are_named(values, words):
    variables = [K, Real("rate", 0.0, 0.1), Integer("fixed", 3, 3)]
    assert at_bound(solution(1, recipe=Recipe.of(values)), variables) == words


def test_where_a_search_may_go_on_the_last_it_may_reach_is_the_bound():
    wide = [Integer("k", 4, 9, widest=18)]
    assert at_bound(solution(9), wide) is None
    assert at_bound(solution(18), wide) == "k = 18, the highest allowed"


def test_a_front_that_a_bound_cuts_says_at_which_end():
    front = [solution(4, 0.6, 100), solution(7, 0.8, 300), solution(9, 0.89, 900)]
    low, high = cut_ends(front, [K])
    assert "its smallest solution, 100 bytes, has k = 4, the lowest allowed" in low
    assert "smaller ones" in low and "better ones" in high
    assert "its best solution, at a drop of 0.0100, has k = 9, the highest allowed" in high
    assert cut_ends(front, [Integer("k", 1, 64)]) == cut_ends(front, []) == cut_ends([], [K]) == []


def test_of_equal_solutions_the_one_proposed_first_is_on_the_front():
    equal = [solution(number, 0.6, 100) for number in (9, 4, 7)]
    assert front_of([*equal, solution(1, 0.5, 100)]) == [equal[1]]


NUMBERS = count()


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One database for every front that is drawn: making one takes longer than all the rest."""
    storage = SqlStorage(str(tmp_path_factory.mktemp("front") / "a.db"))
    yield storage
    storage.close()


@pytest.mark.slow
@given(points=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6), st.booleans()), max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_front_read_as_columns_is_the_front_of_the_solutions(storage, points):
    name = f"study {next(NUMBERS)}"
    facts = replace(STUDY, name=name, spec={"evaluation": {"max_drop": 0.5}})
    made = storage.create_study(facts)
    records = [
        record(number, metric / 6, size_bytes)
        if complete
        else replace(record(number), outcome=STOPPED)
        for number, (metric, size_bytes, complete) in enumerate(points, start=1)
    ]
    storage.add_evaluations(made.id, records)
    study = Study(storage, name)
    wanted = [s for s in study.solutions() if s.metric >= facts.wanted_floor]
    assert study.front() == front_of(wanted)
    assert study.front_numbers() == sorted(s.id for s in front_of(wanted))


def test_one_solution_is_read_by_its_number(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    made = storage.create_study(STUDY)
    storage.add_evaluations(made.id, [record(1), replace(record(2), outcome=STOPPED)])
    study = Study(storage, FACTS.name)
    assert study.solution(1) == solution(1)
    with pytest.raises(InputError, match="evaluation 2 of 'digits' was stopped"):
        study.solution(2)
    with pytest.raises(InputError, match="has no evaluation 3; see `moeash front`"):
        study.solution(3)
    storage.close()
