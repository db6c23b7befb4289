import pickle

import pytest

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.objectives import Sizes, as_minimised
from moeash.core.solutions.variables import Integer, Real
from moeash.errors import InputError


def test_candidates_are_equal_whatever_the_order_of_their_values():
    a, b = Candidate.of({"k": 37, "rate": 0.1}), Candidate.of({"rate": 0.1, "k": 37})
    assert a == b and hash(a) == hash(b)
    assert pickle.loads(pickle.dumps(a)) == a
    assert (a["k"], a.as_dict(), str(a)) == (37, {"k": 37, "rate": 0.1}, "k=37 rate=0.1")


def test_only_the_metric_changes_its_sign():
    sizes = Sizes(size_bytes=100, entries=7, bits_per_weight=2.5)
    assert sizes.vector(["entries", "size_bytes"]) == (7.0, 100.0)
    assert as_minimised([0.5, -2.0], [[7, 100], [8, 99]]).tolist() == [[-0.5, 7, 100], [2, 8, 99]]


def test_a_study_without_a_size_is_refused():
    with pytest.raises(InputError, match="at least one size"):
        as_minimised([0.5], [[]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integer("k", 3, 2), r"k has bounds \[3, 2\]"),
        (lambda: Real("r", 1.0, 0.5), "low exceeds high"),
        (lambda: Real("r", 0.0, 1.0, log=True), "low must exceed 0"),
        (lambda: Real("r", float("nan"), 1.0), "low exceeds high"),
    ],
)
def test_impossible_bounds_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
