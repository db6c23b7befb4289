import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Integer, Real
from moeash.searches.space import Space

MIXED = Space((Integer("k", 2, 256), Real("rate", 1e-4, 1e-1, log=True), Real("x", -1.0, 1.0)))


@given(k=st.integers(2, 256), rate=st.floats(1e-4, 1e-1), x=st.floats(-1, 1))
def test_decode_undoes_encode(k, rate, x):
    candidate = Candidate.of({"k": k, "rate": rate, "x": x})
    back = MIXED.decode(MIXED.encode(candidate))
    assert back["k"] == k and back["x"] == x
    assert back["rate"] == pytest.approx(rate, rel=1e-14)


@given(row=st.tuples(*[st.floats(-1e6, 1e6)] * 3))
def test_decoded_candidates_are_inside_the_bounds(row):
    candidate = MIXED.decode(row)
    assert 2 <= candidate["k"] <= 256 and 1e-4 <= candidate["rate"] <= 1e-1
    assert -1 <= candidate["x"] <= 1
    assert type(candidate["k"]) is int


def test_the_bounds_are_coded_like_the_values():
    assert MIXED.lower.tolist() == [2.0, np.log(1e-4), -1.0]
    assert MIXED.upper.tolist() == [256.0, np.log(1e-1), 1.0]
    low, high = MIXED.draw_bounds
    assert (low - MIXED.lower).tolist() == [-0.5, 0, 0]
    assert (high - MIXED.upper).tolist() == [0.5, 0, 0]


def test_a_space_knows_how_many_points_it_has():
    assert Space((Integer("k", 2, 256), Integer("j", 0, 1))).size == 510
    assert Space((Integer("k", 2, 256), Real("r", 0.5, 0.5))).size == 255
    assert MIXED.size is None
