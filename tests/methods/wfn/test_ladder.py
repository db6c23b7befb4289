"""Candidate centres of WFN: counts and values computed from the published code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from moeash.methods.wfn.ladder import approximations, candidates, rungs

ZERO = 2.0**-7


@pytest.mark.parametrize(
    ("delta", "count"),
    [(0.01, 243), (0.0075, 324), (0.015, 162), (0.1, 25), (0.075, 33), (0.15, 17)],
)
def test_a_ladder_has_as_many_rungs_as_published(delta, count):
    assert len(rungs(delta, ZERO, 1.0)) == count


@given(
    delta=st.floats(1e-3, 0.5),
    zero_below=st.floats(1e-4, 0.1),
    largest=st.floats(1e-5, 100),
)
def test_the_middle_of_neighbouring_rungs_is_a_relative_delta_from_both(delta, zero_below, largest):
    ladder = rungs(delta, zero_below, largest)
    assert_allclose((ladder[1:] - ladder[:-1]) / (ladder[1:] + ladder[:-1]), delta, rtol=1e-9)
    assert (ladder <= largest).all()
    if largest < zero_below:
        assert len(ladder) == 0
    else:
        assert ladder[0] == zero_below
        assert ladder[-1] * (1 + delta) / (1 - delta) > largest * (1 - 1e-12)


@pytest.mark.parametrize(("order", "count"), [*enumerate([17, 119, 337, 441, 479])])
def test_there_are_as_many_candidates_as_published(order, count):
    assert len(candidates(0.01, ZERO, 1.0, order)) == count


def test_candidates_of_one_power_do_not_depend_on_delta():
    powers = 2.0 ** np.arange(-7, 1)
    want = np.concatenate([-powers[::-1], [0], powers])
    for delta in (0.001, 0.0075, 0.01, 0.05, 0.1):
        assert_array_equal(candidates(delta, ZERO, 1.0, 0), want)


def test_a_value_gets_powers_until_it_is_near():
    got = [float(approximations(np.array([0.3]), 0.01, ZERO, order)[0]) for order in range(6)]
    assert got == [0.25, 0.3125, 0.296875, 0.30078125, 0.30078125, 0.30078125]


def test_powers_switch_where_their_logarithms_do():
    around = np.array([0.3535, 0.3536])  # sqrt(2) / 4 = 0.35355
    assert_array_equal(approximations(around, 0.01, ZERO, 0), [0.25, 0.5])


def test_the_worst_rung_comes_nearer_with_every_power():
    ladder = rungs(0.01, ZERO, 1.0)
    worst = [
        float(np.max(np.abs(approximations(ladder, 0.01, ZERO, order) - ladder) / ladder))
        for order in range(5)
    ]
    assert_allclose(worst, [0.41, 0.23, 0.10, 0.04, 0.02], atol=0.006)


@given(
    values=st.lists(st.floats(-8, 8), min_size=1, max_size=20),
    delta=st.floats(1e-3, 0.5),
    order=st.integers(0, 8),
)
def test_approximations_mirror_and_never_grow_worse(values, delta, order):
    v = np.array(values)
    one, two = (approximations(v, delta, ZERO, o) for o in (order, order + 1))
    assert_array_equal(approximations(-v, delta, ZERO, order), -one)
    assert (np.abs(two - v) <= np.abs(one - v)).all()
    assert (one[np.abs(v) < ZERO] == 0).all()


@given(exponent=st.integers(-7, 10), order=st.integers(0, 8), delta=st.floats(1e-3, 0.9))
def test_a_power_of_two_is_its_own_approximation(exponent, order, delta):
    power = np.array([2.0**exponent, -(2.0**exponent)])
    assert_array_equal(approximations(power, delta, ZERO, order), power)


@given(
    delta=st.floats(1e-3, 1.0),
    zero_below=st.floats(1e-4, 0.1),
    largest=st.floats(0, 100),
    order=st.integers(0, 20),
)
def test_candidates_are_sorted_symmetric_and_have_a_zero(delta, zero_below, largest, order):
    centres = candidates(delta, zero_below, largest, order)
    assert centres.dtype == np.float32
    assert (np.diff(centres) > 0).all()
    assert_array_equal(centres, -centres[::-1])
    assert centres[len(centres) // 2] == 0


def test_weights_of_exactly_the_threshold_have_their_own_centre():
    assert_array_equal(candidates(0.01, ZERO, ZERO, 0), [-ZERO, 0, ZERO])
    assert_array_equal(candidates(0.01, ZERO, np.nextafter(ZERO, 0), 3), [0])


def test_a_threshold_between_powers_has_powers_around_it():
    positive = [2.0**-7, 2.0**-6, 2.0**-5]
    centres = candidates(0.01, 0.01, 0.04, 0)
    assert_array_equal(centres[centres > 0], positive)
