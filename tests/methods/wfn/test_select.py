"""SELECT: the worked example, its invariants, and the brute-force twin."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from moeash.errors import InputError
from moeash.methods.fixing.outcome import FREE
from moeash.methods.wfn.select import Unassigned, select, stage_deltas
from tests.marks import few_quick
from tests.methods.wfn.select_twin import distances_to, running_means, select_twin

ZERO = 2.0**-7

TOY = np.array([0.23, 0.24, 0.25, 0.26, 0.27, 0.30, 0.45, 0.5, 0.003, -0.001], dtype=np.float32)


def chosen(fixing):
    """Return the centre of every weight, NaN where it has none."""
    centres = np.full(fixing.indices.shape, np.nan)
    centres[fixing.fixed] = fixing.entries[fixing.indices[fixing.fixed]]
    return centres


def test_running_means_of_the_worked_example():
    means = running_means(np.sort(distances_to(TOY.astype(float), 0.25, ZERO)))
    want = [0, 0.0192, 0.0267, 0.0386, 0.0482, 0.068, 0.1218, 0.169]
    assert_allclose(means[:8], want, atol=6e-5)


@pytest.mark.parametrize(
    ("delta", "taken"),
    [
        (0.02, [0.25, 0.26]),
        (0.05, [0.23, 0.24, 0.25, 0.26, 0.27]),
        (0.2, [0.23, 0.24, 0.25, 0.26, 0.27, 0.30, 0.45, 0.5]),  # the mean swallows 0.5
    ],
)
def test_the_first_centre_of_the_worked_example(delta, taken):
    weights = Unassigned(TOY, ZERO)
    powers = np.array([-0.5, -0.25, 0, 0.25, 0.5, 1.0], dtype=np.float32)
    assert_array_equal(weights.nearest_counts(powers), [0, 0, 2, 6, 2, 0])
    assert_array_equal(np.sort(TOY[weights.take(0.25, delta, 10)]), np.float32(taken))
    assert len(weights) == 10 - len(taken)
    # As a stage that fixes just as many.
    fixing = select(TOY, len(taken) / 10, delta, ZERO)
    assert_array_equal(fixing.entries, [0.25])
    assert_array_equal(TOY[fixing.fixed], np.float32(taken))


GRID = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 24, 31, 64, 100, -1, -3, -8, -9, -12])


@st.composite
def networks(draw):
    """Weights with many ties, on centres and on midpoints, or normal ones, or both."""
    n = draw(st.integers(0, 200))
    seed = draw(st.integers(0, 1 << 16))
    rng = np.random.default_rng(seed)
    parts = [
        np.array(draw(st.lists(GRID, max_size=30)), dtype=float) / 2 ** draw(st.integers(3, 10)),
        rng.normal(0, draw(st.sampled_from([0.003, 0.05, 1.0])), n),
    ]
    if draw(st.booleans()):
        parts.append(np.repeat(rng.normal(0, 0.1, 3), draw(st.integers(1, 100))))
    weights = np.concatenate(parts)[:200].astype(np.float32)
    return rng.permutation(weights)


@given(
    weights=networks(),
    fraction=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.77, 0.95, 1.0]),
    delta=st.sampled_from([0.0005, 0.0075, 0.01, 0.05, 0.1, 0.3, 0.6, 1.0, 2.5]),
    zero_below=st.sampled_from([2.0**-7, 2.0**-8, 0.01, 0.5]),
)
@example(TOY, 1.0, 0.05, ZERO)
@example(np.float32([-1, -1, 1, 1]), 0.5, 0.3, ZERO)
@example(np.float32([0.3] * 100), 0.33, 0.01, ZERO)
def test_select_equals_the_brute_force_twin(weights, fraction, delta, zero_below):
    fixing = select(weights, fraction, delta, zero_below)
    assert_array_equal(chosen(fixing), select_twin(weights, fraction, delta, zero_below))
    assert np.count_nonzero(fixing.fixed) == int(fraction * len(weights))
    assert (np.diff(fixing.entries) > 0).all()
    assert set(fixing.indices.tolist()) - {FREE} == set(range(len(fixing.entries)))


@pytest.mark.parametrize("seed", few_quick(range(4), 0))
def test_thousands_of_weights_equal_the_twin_where_runs_are_looked_at_in_parts(seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(4, 3000).astype(np.float32) * np.float32(0.05)
    weights[rng.random(3000) < 0.2] = rng.choice(weights, 5)[rng.integers(0, 5)]
    for fraction, delta in ((0.3, 0.1), (0.9, 0.02), (1.0, 0.01)):
        fixing = select(weights, fraction, delta, ZERO)
        assert_array_equal(chosen(fixing), select_twin(weights, fraction, delta, ZERO))


@pytest.mark.parametrize("sign", [1, -1])
def test_of_the_weights_of_the_other_sign_the_largest_are_the_nearest(sign):
    # Their distance is 1 + .25 / |w|, and there are more than are looked at first.
    weights = sign * np.float32([0.24, 0.25, 0.27, *np.linspace(-0.01, -0.6, 200)])
    taken = Unassigned(weights, ZERO).take(sign * 0.25, 0.5, len(weights))
    means = running_means(np.sort(distances_to(weights.astype(float), sign * 0.25, ZERO)))
    assert np.count_nonzero(means <= 0.5) == 4
    assert_array_equal(np.sort(taken), [0, 1, 2, len(weights) - 1])


def test_weights_that_are_not_fixed_are_left_bit_for_bit():
    weights = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    fixing = select(weights, 0.6, 0.05, ZERO)
    values = fixing.applied(weights)
    assert_array_equal(values[~fixing.fixed], weights[~fixing.fixed])
    assert np.isin(values[fixing.fixed], fixing.entries).all()
    assert (values[fixing.fixed] != weights[fixing.fixed]).any()


def test_a_large_delta_needs_powers_of_two_only():
    weights = np.random.default_rng(1).normal(0, 0.1, 500).astype(np.float32)
    entries = select(weights, 1.0, 0.5, ZERO).entries
    nonzero = np.abs(entries[entries != 0])
    assert_array_equal(np.log2(nonzero), np.rint(np.log2(nonzero)))


def test_a_small_delta_leaves_weights_where_they_are():
    weights = np.float32([0.125, 0.1875, 0.25, 0.75, 0.625, 0.3125, -0.5, -0.75])
    fixing = select(weights, 1.0, 0.001, ZERO)
    assert_array_equal(fixing.applied(weights), weights)


def test_a_smaller_delta_needs_more_entries():
    weights = np.random.default_rng(2).normal(0, 0.1, 5000).astype(np.float32)
    counts = [len(select(weights, 1.0, d, ZERO).entries) for d in (0.01, 0.05, 0.2)]
    assert counts == sorted(counts, reverse=True) and counts[0] > 2 * counts[-1]


def test_stages_begin_wide_and_end_at_delta():
    assert_allclose(stage_deltas(0.01, 4), [0.04, 0.03, 0.02, 0.01])


def test_nothing_and_zeros_are_fixed_without_ado():
    assert len(select(np.zeros(0, np.float32), 1.0, 0.01, ZERO).entries) == 0
    fixing = select(np.float32([0, -0.0, 0, 0.001]), 1.0, 0.01, ZERO)
    assert_array_equal(fixing.entries, [0])
    assert_array_equal(fixing.indices, [0, 0, 0, 0])


def test_there_is_no_matrix_of_candidates_by_weights():
    rng = np.random.default_rng(0)
    peaks = []
    for n in (25_000, 100_000):
        weights = rng.normal(0, 0.1, n).astype(np.float32)
        tracemalloc.start()
        entries = select(weights, 1.0, 0.02, ZERO).entries
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(entries) > 60
        peaks.append(peak / n)
    assert max(peaks) < 20 * 8, "twenty numbers a weight, not one a candidate and weight"


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ([0.1, np.nan, np.inf], {}, "2 of 3 weights are NaN, infinite or beyond"),
        ([0.1], {"fraction": 1.1}, "fraction is 1.1, needed a number from 0 to 1"),
        ([0.1], {"delta": 0.0}, "delta is 0.0, needed a number of at least 0.0001"),
        ([0.1], {"delta": np.nan}, "delta is nan"),
        ([0.1], {"zero_below": 0.0}, "zero_below is 0.0, needed a number above 0"),
    ],
)
def test_what_cannot_be_selected_from_is_refused(weights, changes, message):
    given = {"fraction": 1.0, "delta": 0.01, "zero_below": ZERO, **changes}
    with pytest.raises(InputError, match=message):
        select(np.float32(weights), **given)
