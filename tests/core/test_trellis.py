"""Trellises: the states against their parity checks, and values against levels."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from moeash.core.trellis import followed, levels_of, subsets, trellis, values_of
from moeash.errors import InputError
from tests.codec.adaptive.twin import TRELLISES
from tests.codec.paths import draw_path

SIZES = [4, 8, 16]


@pytest.mark.parametrize("n_states", SIZES)
def test_the_states_are_those_of_the_format(n_states):
    found = trellis(n_states)
    table = np.column_stack([found.halves, found.transitions])
    assert table.tolist() == [list(step) for step in TRELLISES[n_states]]


@pytest.mark.parametrize(
    ("n_states", "h0", "h1"),
    [(4, [1, 0, 1], [0, 1, 0]), (8, [1, 1, 0, 1], [0, 0, 1, 0]), (16, [1, 1, 0, 0, 1], [0, 0, 1])],
)
def test_every_path_obeys_the_parity_check_of_the_code(n_states, h0, h1):
    rng = np.random.default_rng(n_states)
    found = trellis(n_states)
    parities = rng.integers(0, 2, 500)
    halves, state = [], 0
    for parity in parities:
        halves.append(int(found.halves[state]))
        state = found.transitions[state, parity]
    check = np.convolve(halves, h0)[:500] + np.convolve(parities, h1)[:500]
    assert not (check % 2).any()
    assert 0.4 < np.mean(halves) < 0.6


@pytest.mark.parametrize("n_states", SIZES)
def test_every_state_is_entered_twice(n_states):
    entered = np.bincount(trellis(n_states).transitions.ravel(), minlength=n_states)
    assert_array_equal(entered, 2)


def test_a_trellis_nobody_defined_is_refused():
    with pytest.raises(InputError, match="no trellis of 6 states"):
        trellis(6)


def test_subsets_tell_halves_and_parities():
    values = np.arange(-8, 9)
    even0, odd0, even1, odd1 = (values[where].tolist() for where in subsets(values))
    assert even0 == [-8, -4, 0, 4, 8]
    assert odd0 == [-6, -2, 2, 6]
    assert even1 == [-7, -3, 0, 3, 7]
    assert odd1 == [-5, -1, 1, 5]


shapes = st.sampled_from([(6, 3), (1, 9), (40,), (), (9, 2, 3, 3), (0, 4), (5, 0), (60, 1)])


@given(shapes, st.sampled_from(SIZES), st.integers(0, 2**32), st.sampled_from([0.2, 2.0, 50.0]))
@settings(deadline=None)
def test_a_path_has_levels_that_give_its_values_again(shape, n_states, seed, scale):
    indices, _ = draw_path(np.random.default_rng(seed), shape, 201, 100, n_states, scale)
    values = indices.astype(np.int32) - 100
    levels = levels_of(values, shape, n_states)
    assert levels is not None
    assert_array_equal(np.abs(levels), (np.abs(values) + 1) // 2)
    assert_array_equal(np.sign(levels), np.sign(values))
    assert_array_equal(values_of(levels, shape, n_states), values)


@given(shapes, st.sampled_from(SIZES), st.integers(0, 2**32))
@settings(deadline=None)
def test_any_levels_are_a_path(shape, n_states, seed):
    levels = np.random.default_rng(seed).integers(-9, 10, math.prod(shape)).astype(np.int32)
    values = values_of(levels, shape, n_states)
    assert_array_equal(levels_of(values, shape, n_states), levels)


@pytest.mark.parametrize("n_states", SIZES)
def test_one_value_off_the_path_is_seen_wherever_it_is(n_states):
    rng = np.random.default_rng(5)
    indices, shape = draw_path(rng, (15, 8), 81, 40, n_states, 5.0)
    values = indices.astype(np.int32) - 40
    for i in np.flatnonzero(np.abs(values) > 1):
        spoiled = values.copy()
        spoiled[i] += 1  # to the other half
        assert levels_of(spoiled, shape, n_states) is None


def test_the_trellis_that_is_followed_is_found():
    rng = np.random.default_rng(6)
    for n_states in SIZES:
        indices, shape = draw_path(rng, (30, 10), 81, 40, n_states, 5.0)
        assert followed(indices.astype(np.int32) - 40, shape) == n_states
    assert followed(rng.integers(-9, 10, 300).astype(np.int32), (30, 10)) == 0


def test_values_that_are_all_even_follow_no_trellis():
    assert followed(np.zeros(300, np.int32), (30, 10)) == 0
    assert followed(np.array([2, 0, 0, -4], np.int32), (1, 4)) == 0


@pytest.mark.parametrize("walk", [levels_of, values_of])
def test_a_kernel_is_given_no_shape_beyond_its_values(walk):
    with pytest.raises(InputError, match=r"got 6 values for a tensor of shape \(4, 1000\)"):
        walk(np.zeros(6, np.int32), (4, 1000), 4)
