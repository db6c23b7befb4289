"""How far weights may move at first: the worked example and what breaks the published code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from moeash.methods.pwfn.sigmas import LEAST, MOST, grid_distances, initial_sigmas

MU = np.float32([0.25, 0.3, 0.375, 0.354, 0.45, -0.09])


def test_the_worked_example():
    r = grid_distances(MU)
    assert_allclose(r, [0, 0.1111, 0.1111, 0.1212, 0.0494, 0.1188], atol=5e-5)
    assert np.quantile(r, 0.75) == pytest.approx(0.1169, abs=5e-5)
    sigmas = initial_sigmas(MU)
    assert_allclose(sigmas, [2**-30, 0.002376, 0.002376, 0.002591, 0.001056, 0.002541], atol=5e-7)


def test_the_distance_is_largest_at_four_thirds_of_a_power():
    assert grid_distances(np.array([4 / 3, -1 / 3])) == pytest.approx([0.125, 0.125])
    assert (grid_distances(np.linspace(0.01, 3, 5000, dtype=np.float32)) <= 0.125).all()


@given(st.lists(st.integers(-20, 20), min_size=1))
def test_powers_of_two_are_rigid(exponents):
    means = np.append(2.0 ** np.array(exponents, dtype=float), 0.3).astype(np.float32)
    assert_array_equal(initial_sigmas(means)[:-1], np.float32(LEAST))


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(-4, 4, width=32)))
def test_any_weights_have_deviations_within_bounds(means):
    sigmas = initial_sigmas(means)
    assert sigmas.shape == means.shape and sigmas.dtype == np.float32
    assert ((sigmas >= np.float32(LEAST)) & (sigmas <= np.float32(MOST))).all()


def test_doubling_all_weights_changes_nothing():
    means = np.random.default_rng(0).normal(0, 0.1, (20, 30)).astype(np.float32)
    assert_array_equal(initial_sigmas(means), initial_sigmas(2 * means))
    assert_array_equal(initial_sigmas(means), initial_sigmas(-means))


@pytest.mark.parametrize("means", [np.zeros(4), [0.5, -1.0, 0.0], np.zeros((0, 3))])
def test_weights_that_are_all_on_the_grid_are_rigid(means):
    got = initial_sigmas(np.float32(means))
    assert_array_equal(got, np.full(np.shape(means), np.float32(LEAST)))


def test_what_pruning_left_is_measured_by_itself():
    pruned = np.concatenate([np.zeros(90), MU]).astype(np.float32)
    sigmas = initial_sigmas(pruned)
    assert (sigmas[:91] == np.float32(LEAST)).all()
    # The quantile of the five that are off the grid.
    usual = np.quantile(grid_distances(MU)[1:], 0.75)
    assert_allclose(sigmas[91:], 0.0025 * grid_distances(MU)[1:] / usual, rtol=1e-6)
