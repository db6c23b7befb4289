"""CLUSTER: the worked example, its invariants, and the brute-force twin."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from moeash.errors import InputError
from moeash.methods.pwfn.clustering import cluster, proposed_centres
from tests.methods.pwfn.cluster_twin import centres_twin, cluster_twin

MU = np.float32([0.24, 0.26, 0.30, 0.49, 0.12, 0.001])
SIGMA = np.float32([0.005, 0.02, 0.06, 0.02, 0.02, 0.02])


def chosen(fixing):
    """Return the centre of every weight, NaN where it has none."""
    centres = np.full(fixing.indices.shape, np.nan)
    centres[fixing.fixed] = fixing.entries[fixing.indices[fixing.fixed]]
    return centres


@pytest.mark.parametrize(
    ("largest", "counts"), [(1.0, [15, 59, 129, 199]), (2.0, [17, 75, 187, 327])]
)
def test_there_are_as_many_centres_as_published(largest, counts):
    assert [len(proposed_centres(largest, order, -7)) for order in range(1, 5)] == counts


@given(largest=st.floats(0, 5), order=st.integers(1, 4), b=st.integers(0, 8))
@example(2.0**-7, 1, 7)
@example(np.nextafter(2.0**-7, 0), 4, 7)
def test_centres_are_all_sums_of_powers(largest, order, b):
    assert_array_equal(proposed_centres(largest, order, -b), centres_twin(largest, order, b))


def test_the_worked_example():
    powers = 2.0 ** np.arange(-7, -1)
    assert_array_equal(proposed_centres(0.49, 1, -7), np.concatenate([-powers[::-1], [0], powers]))
    # The first pick is .25 with .26 and .30, and not with .24: it is nearer, but rigid.
    first = cluster(MU, SIGMA, 2 / 6, 1.0, -7)
    assert_array_equal(chosen(first.fixing), [np.nan, 0.25, 0.25, np.nan, np.nan, np.nan])
    assert_allclose(first.sigmas, [0.005, 0.02, 0.02, 0.02, 0.02, 0.02], rtol=1e-5)
    # .24 finds its centre once there are sums of two powers, .49 too.
    whole = cluster(MU, SIGMA, 1.0, 1.0, -7)
    assert_array_equal(chosen(whole.fixing), cluster_twin(MU, SIGMA, 1.0, 1.0, 7)[0])


@st.composite
def networks(draw):
    """Means with ties, on the grid, tiny ones and zeros; deviations that reach far or nowhere."""
    n = draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    means = rng.normal(0, draw(st.sampled_from([0.002, 0.05, 0.6])), n)
    grid = rng.integers(-40, 40, n) / 2 ** draw(st.integers(4, 9))
    means = np.where(rng.random(n) < draw(st.sampled_from([0, 0.3, 1])), grid, means)
    sigmas = np.exp(rng.normal(math.log(draw(st.sampled_from([1e-6, 0.002, 0.05]))), 1, n))
    sigmas[rng.random(n) < draw(st.sampled_from([0, 0.2]))] = 0
    if draw(st.booleans()):  # ends of intervals on centres
        sigmas = 2.0 ** np.rint(np.log2(sigmas + 1e-9))
    return means.astype(np.float32), sigmas.astype(np.float32)


@given(
    network=networks(),
    fraction=st.sampled_from([0.0, 0.2, 0.4, 0.77, 0.95, 1.0]),
    delta=st.sampled_from([0.25, 1.0, 3.0]),
    b=st.sampled_from([2, 7]),
)
@example((MU, SIGMA), 1.0, 1.0, 7)
def test_cluster_equals_the_brute_force_twin(network, fraction, delta, b):
    means, sigmas = network
    got = cluster(means, sigmas, fraction, delta, -b)
    want, want_sigmas, _ = cluster_twin(means, sigmas, fraction, delta, b)
    assert_array_equal(chosen(got.fixing), want)
    assert_array_equal(got.sigmas, want_sigmas.astype(np.float32))
    assert np.count_nonzero(got.fixing.fixed) == math.ceil(fraction * len(means))


@pytest.mark.slow
@given(network=networks(), fraction=st.sampled_from([0.2, 0.4]))
def test_weights_of_the_first_level_move_within_delta_deviations(network, fraction):
    means, sigmas = network
    got = cluster(means, sigmas, fraction, 1.0, -7)
    picks = cluster_twin(means, sigmas, fraction, 1.0, 7)[2]
    first = [i for _, members, order, delta in picks if (order, delta) == (1, 1.0) for i in members]
    assume(first)
    moved = np.abs(chosen(got.fixing)[first] - means[first])
    allowed = np.maximum(sigmas[first], 2.0**-20)
    tiny = (np.abs(means[first]) < 2.0**-7) & (chosen(got.fixing)[first] == 0)
    assert (tiny | (moved <= allowed * (1 + 1e-7) + 1e-12)).all()


def test_equal_deviations_bound_the_distance_and_proportional_ones_the_relative_distance():
    means = np.random.default_rng(0).normal(0, 0.3, 400).astype(np.float32)
    big = np.abs(means) >= 2.0**-7
    for sigmas in (np.full_like(means, 0.05), 0.2 * np.abs(means)):
        got = cluster(means, sigmas, 0.5, 1.0, -7)
        moved = np.abs(chosen(got.fixing) - means)[got.fixing.fixed & big]
        assert (moved <= sigmas[got.fixing.fixed & big] * (1 + 1e-6)).all()
        # The level is used up: nothing farther was needed, and far weights were taken.
        assert (moved > 0.8 * sigmas[got.fixing.fixed & big]).any()


def test_negating_all_weights_negates_all_centres():
    # Groups of different sizes: of equally full centres the lowest is taken, which has no mirror.
    places = np.repeat([0.25, -0.5, 0.125, -0.0625, 0.375, 1.0], [31, 17, 11, 7, 5, 1])
    means = (places + np.random.default_rng(1).normal(0, 0.002, 72)).astype(np.float32)
    sigmas = np.full_like(means, 0.01)
    one, two = (cluster(s * means, sigmas, 1.0, 1.0, -7).fixing for s in (1, -1))
    assert_array_equal(one.entries, -two.entries[::-1])
    assert_array_equal(chosen(one), -chosen(two))


def test_zero_is_looked_up_by_value():
    """Tiny weights go to 0 also when negative centres were taken before, as [D] of the spec."""
    means = np.float32([-0.25] * 5 + [-0.125] * 4 + [0.001, -0.002, 0.003])
    sigmas = np.full_like(means, 1e-5)
    got = chosen(cluster(means, sigmas, 1.0, 1.0, -7).fixing)
    assert_array_equal(got, [-0.25] * 5 + [-0.125] * 4 + [0] * 3)


def test_weights_left_over_by_the_quota_at_zero_are_the_farther_ones():
    means = np.float32([0.02, 0.001, 0.002, 0.021])
    sigmas = np.float32([0.03, 1e-5, 1e-5, 0.02])
    got = cluster(means, sigmas, 0.75, 1.0, -7).fixing
    assert_array_equal(got.fixed, [True, True, True, False])
    assert_array_equal(got.entries, [0])


def test_nothing_and_zeros_are_fixed_without_ado():
    nothing = np.zeros(0, np.float32)
    assert len(cluster(nothing, nothing, 1.0, 1.0, -7).fixing.entries) == 0
    zeros = np.zeros(3, np.float32)
    got = cluster(zeros, zeros, 1.0, 1.0, -7)
    assert_array_equal(got.fixing.indices, [0, 0, 0])
    assert_array_equal(got.sigmas, zeros)


def test_there_is_no_matrix_of_centres_by_weights():
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.4, 100_000).astype(np.float32)
    sigmas = np.full_like(means, 0.002)
    assert len(proposed_centres(float(np.abs(means).max()), 3, -7)) > 150
    tracemalloc.start()
    cluster(means, sigmas, 1.0, 1.0, -7)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 8 * means.size, "twenty numbers a weight, not one a centre and weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": np.float32([np.nan, 1])}, "1 of 2 weights are NaN, infinite or beyond"),
        ({"sigmas": np.float32([0.1, -1])}, "or one is negative"),
        ({"sigmas": np.float32([np.nan, 1])}, "or one is negative, NaN or infinite"),
        ({"sigmas": np.float32([1])}, r"sigmas have shape \(1,\) for 2 weights"),
        ({"fraction": -0.1}, "fraction is -0.1, needed a number from 0 to 1"),
        ({"delta": 0.0}, "delta is 0.0, needed a number above 0"),
    ],
)
def test_what_cannot_be_clustered_is_refused(changes, message):
    given = {
        "means": np.float32([0.1, 0.2]),
        "sigmas": np.float32([0.1, 0.1]),
        "fraction": 1.0,
        "delta": 1.0,
        "least_exponent": -7,
        **changes,
    }
    with pytest.raises(InputError, match=message):
        cluster(**given)
