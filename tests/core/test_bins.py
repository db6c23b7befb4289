"""Bins: the kernel against its definition, with weights where the two could part."""

import os
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from numpy.testing import assert_array_equal

from moeash.core import _bins, bins
from moeash.core.bins import Grid, assign_bins, assign_bins_reference
from moeash.core.statistics import thresholds
from moeash.errors import InputError

PAPER = np.array([-1, -0.9, -0.2, -0.1, 0, 0, 0.05, 0.1, 0.3, 1], np.float64)

grids = st.builds(
    lambda low, span, k, zero_aligned: Grid.spanning(low, low + span, k, zero_aligned=zero_aligned),
    low=st.floats(-8, 4, width=32),
    span=st.one_of(st.just(0.0), st.floats(2**-10, 16, width=32)),
    k=st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 1024, 65_535, 65_537])),
    zero_aligned=st.booleans(),
)


def weights_on_and_beside(grid, dtype):
    """Every edge, the smallest weight of every bin, both with their neighbours; and far outside."""
    edges = grid.origin + grid.step * np.arange(grid.n_bins + 1)
    begins = thresholds(grid, np.dtype(np.float64))
    on = np.concatenate([edges, begins, grid.midpoints, [grid.low, grid.high, 0.0]]).astype(dtype)
    far = np.finfo(dtype).max
    beside = [np.nextafter(on, dtype(-far)), np.nextafter(on, dtype(far))]
    return np.concatenate([on, *beside, [far, -far, np.finfo(dtype).tiny, -0.0]]).astype(dtype)


def test_the_worked_example_of_the_method():
    grid = Grid.spanning(-1, 1, 8)
    indices = assign_bins(PAPER, grid)
    assert indices.tolist() == [0, 0, 3, 3, 4, 4, 4, 4, 5, 7]
    assert grid.midpoints[np.unique(indices)].tolist() == [-0.875, -0.125, 0.125, 0.375, 0.875]


@given(grids, st.sampled_from([np.float16, np.float32, np.float64]), st.sampled_from([1, 2, 3]))
@settings(deadline=None)
def test_the_kernel_equals_the_definition_bit_for_bit(grid, dtype, n_threads):
    weights = weights_on_and_beside(grid, dtype)
    weights = np.tile(weights, -(-3 * _bins.CHUNK // weights.size))[: 3 * _bins.CHUNK - 5]
    got = assign_bins(weights, grid, n_threads=n_threads)
    expected = assign_bins_reference(weights, grid)
    assert got.dtype == expected.dtype
    assert_array_equal(got, expected)
    assert got.max() < grid.n_bins


@given(grids)
@example(Grid.spanning(-6.0, 7.464967727661133, 257))
@settings(deadline=None)
def test_bins_are_in_order_and_no_weight_is_further_than_half_a_step_from_its_midpoint(grid):
    weights = np.sort(weights_on_and_beside(grid, np.float64))
    weights = weights[(weights >= grid.low) & (weights <= grid.high)]
    indices = assign_bins(weights, grid).astype(np.int64)
    assert (np.diff(indices) >= 0).all()
    # Three roundings find the bin and three its midpoint, of numbers no larger than these.
    slack = 4 * np.spacing(max(abs(grid.low), abs(grid.high), grid.high - grid.low))
    assert np.abs(weights - grid.midpoints[indices]).max(initial=0) <= grid.step / 2 + slack


@given(grids)
@settings(deadline=None)
def test_the_zero_bin_owns_zero_and_is_centred_on_it(grid):
    aligned = Grid.spanning(grid.low, grid.high, grid.k, zero_aligned=True)
    assert aligned.n_bins <= grid.k + 1
    if aligned.low <= 0 <= aligned.high and aligned.step:
        assert aligned.zero_bin is not None
    if aligned.zero_bin is not None:
        assert aligned.midpoints[aligned.zero_bin] == 0
        assert assign_bins(np.zeros(1), aligned) == aligned.zero_bin
        inside = np.array([-0.499, 0.499]) * aligned.step
        assert (assign_bins(inside, aligned) == aligned.zero_bin).all()
        if 0 < aligned.zero_bin < aligned.n_bins - 1:
            outside = np.array([-0.501, 0.501]) * aligned.step
            assert (np.diff(assign_bins(outside, aligned).astype(int)) == 2).all()


def test_a_plain_grid_has_no_zero_bin_and_neither_has_one_far_from_zero():
    assert Grid.spanning(-1, 1, 3).zero_bin is None
    assert Grid.spanning(5, 6, 4, zero_aligned=True).zero_bin is None


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=50).filter(lambda v: len(set(v)) > 1),
    st.integers(1, 64),
    st.sampled_from([0.25, 2.0, 64.0]),
    st.integers(-8, 8),
)
def test_scaling_by_a_power_of_two_and_shifting_by_whole_numbers_change_no_bin(values, k, a, b):
    w = np.array(values, np.float64)
    moved = a * w + b
    before = assign_bins(w, Grid.spanning(w.min(), w.max(), k))
    after = assign_bins(moved, Grid.spanning(moved.min(), moved.max(), k))
    assert_array_equal(before, after)


@given(st.permutations(range(10)))
def test_the_order_of_weights_changes_no_bin(order):
    grid = Grid.spanning(-1, 1, 8)
    assert_array_equal(assign_bins(PAPER[list(order)], grid), assign_bins(PAPER, grid)[list(order)])


def test_weights_outside_a_clipped_range_fall_in_the_end_bins():
    grid = Grid.spanning(-1, 1, 4)
    assert assign_bins(np.array([-1e308, -1.01, 1.01, 1e308]), grid).tolist() == [0, 0, 3, 3]
    one = Grid.spanning(-1e308, -1e308, 9)
    assert one.n_bins == 1
    assert assign_bins(np.array([1.7e308, -1.7e308]), one).tolist() == [0, 0]


@pytest.mark.parametrize(("k", "dtype"), [(256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "u4")])
def test_indices_have_the_narrowest_dtype(k, dtype):
    indices = assign_bins(np.array([-1.0, 1.0], np.float32), Grid.spanning(-1, 1, k))
    assert indices.dtype == np.dtype(dtype)
    assert indices.tolist() == [0, k - 1]


@pytest.mark.parametrize(("n_bins", "top"), [(300, 7), (300, 256), (9, 65_536), (70_000, 255)])
def test_a_lookup_replaces_the_bins_and_sets_the_dtype(n_bins, top):
    rng = np.random.default_rng(top)
    weights = rng.uniform(-1, 1, 5000).astype(np.float32)
    lookup = rng.integers(0, top, n_bins).astype(np.uint32)
    lookup[-1] = top
    grid = Grid.spanning(-1, 1, n_bins)
    got = assign_bins(weights, grid, lookup=lookup)
    assert got.dtype == (np.uint8 if top < 256 else np.uint16 if top < 65_536 else np.uint32)
    assert_array_equal(got, lookup[assign_bins_reference(weights, grid)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layout_does_not_matter(dtype):
    weights = np.random.default_rng(0).uniform(-1, 1, (300, 500)).astype(dtype)
    grid = Grid.spanning(-1, 1, 50)
    expected = assign_bins_reference(weights, grid)
    swapped = weights.astype(weights.dtype.newbyteorder(">"))
    for same in (np.asfortranarray(weights), np.repeat(weights, 2, axis=1)[:, ::2], swapped):
        assert_array_equal(assign_bins(same, grid), expected)
    assert assign_bins(weights[0, 0], grid).tolist() == expected[:1].tolist()


@pytest.mark.parametrize("empty", [np.empty((3, 0), np.float32), np.empty(0, np.float16)])
def test_no_weights_give_no_indices(empty):
    assert assign_bins(empty, Grid.spanning(-1, 1, 5)).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("position", [0, 1023, 1024, 70_000, 199_999])
def test_one_non_finite_weight_anywhere_is_refused(bad, dtype, position):
    weights = np.linspace(-1, 1, 200_000).astype(dtype)
    weights[position] = bad
    grid = Grid.spanning(-1, 1, 7)
    with pytest.raises(InputError, match="1 of 200000 weights are NaN or infinite"):
        assign_bins(weights, grid, n_threads=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.nan, 1, 4), "finite low <= high"),
        ((-np.inf, 1, 4), "finite low <= high"),
        ((1, 0, 4), "finite low <= high"),
        ((0, 1, 0), "got k=0"),
        ((0, 1, bins.MAX_BINS + 1), r"needed a number of bins in \[1, 1048576\]"),
        ((-1.5e308, 1.5e308, 4), "float64 cannot hold 4 bins"),
        ((0, 5e-324, 1), "float64 cannot hold 1 bins"),
        ((0, 1e-305, 100_000), "float64 cannot hold 100000 bins"),
    ],
)
def test_a_grid_that_float64_cannot_hold_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Grid.spanning(*arguments)


def test_a_grid_too_fine_for_its_distance_from_zero_cannot_be_aligned():
    assert Grid.spanning(1e9, 1e9 + 1e-6, 1000).n_bins == 1000
    with pytest.raises(InputError, match="too narrow to be aligned"):
        Grid.spanning(1e9, 1e9 + 1e-6, 1000, zero_aligned=True)


def test_the_denormal_range_of_float32_is_binned():
    tiny = np.float32(1e-45)
    grid = Grid.spanning(-tiny, tiny, 2)
    assert assign_bins(np.array([-tiny, 0, tiny]), grid).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (np.zeros(3, np.int64), {}, "weights are int64"),
        (np.zeros(3, np.complex128), {}, "weights are complex128"),
        (np.zeros(3), {"n_threads": 0}, "n_threads=0"),
        (np.zeros(3), {"lookup": np.zeros(3, np.uint8)}, r"lookup is uint8 of shape \(3,\)"),
        (np.zeros(3), {"lookup": np.zeros(4, np.int64)}, "lookup is int64"),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(weights, options, message):
    with pytest.raises(InputError, match=message):
        assign_bins(weights, Grid.spanning(-1, 1, 4), **options)


def test_no_memory_but_the_result_grows_with_the_weights():
    grid = Grid.spanning(-1, 1, 8)
    for dtype in (np.float16, np.float32):
        weights = np.zeros(4_000_000, dtype)
        tracemalloc.start()
        assign_bins(weights, grid)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < weights.size + 1_000_000


@pytest.mark.slow
def test_positions_above_2_31_are_reached():
    """8.6 GB of untouched zeros cost no memory to read; the indices take 2.1 GB."""
    n = (1 << 31) + 70_001
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 6 << 30:
        pytest.skip("needs 6 GB of free memory")
    weights = np.zeros(n, np.float32)
    marked = [0, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, n - 1]
    weights[marked] = 1.0
    grid = Grid.spanning(-1, 1, 3)
    indices = assign_bins(weights, grid, n_threads=2)
    assert indices[marked].tolist() == [2] * 5
    assert indices[[1, (1 << 31) - 2, (1 << 31) + 2, n - 2]].tolist() == [1] * 4
