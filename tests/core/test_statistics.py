"""Statistics of sorted weights: exactly what a pass over the weights counts, and better sums."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from moeash.core.bins import Grid, assign_bins, assign_bins_reference
from moeash.core.statistics import BinStatistics, thresholds, uniform_codebook
from moeash.errors import InputError, NonFiniteWeightError

PAPER = np.array([-1, -0.9, -0.2, -0.1, 0, 0, 0.05, 0.1, 0.3, 1], np.float64)

dtypes = st.sampled_from([np.float16, np.float32, np.float64])
ks = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 1024, 65_537]))


@st.composite
def some_tensors(draw):
    """One to four tensors of mixed dtype, with duplicates, tiny values, at times none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.sampled_from([0, 1, 63, 64, 65, 700]))
        weights = rng.standard_t(3, n) * 10.0 ** rng.integers(-6, 2)
        weights[rng.random(n) < draw(st.sampled_from([0.0, 0.5]))] = 0.0
        tensors.append(weights.astype(draw(dtypes)))
    return [*tensors, np.array([draw(st.floats(-2, 2, width=32))])]


def own_grid(statistics, k, zero_aligned=False):
    return Grid.spanning(statistics.low, statistics.high, k, zero_aligned=zero_aligned)


@given(st.floats(-8, 4), st.floats(2.0**-20, 16), ks, st.booleans(), st.booleans())
@settings(deadline=None)
def test_thresholds_are_the_first_weight_of_their_bin(low, span, k, zero_aligned, single):
    grid = Grid.spanning(low, low + span, k, zero_aligned=zero_aligned)
    dtype = np.dtype(np.float32 if single else np.float64)
    at = thresholds(grid, dtype)
    assert at.dtype == dtype
    j = np.arange(1, grid.n_bins)
    assert (assign_bins_reference(at, grid) >= j).all()
    assert (assign_bins_reference(np.nextafter(at, dtype.type(-np.inf)), grid) < j).all()


def test_thresholds_beyond_the_dtype_are_infinite():
    grid = Grid.spanning(-1e39, 1e39, 4)
    lowest, _, highest = thresholds(grid, np.dtype(np.float32)).tolist()
    assert (lowest, highest) == (-np.finfo(np.float32).max, np.inf)


@given(some_tensors(), ks, st.booleans())
@settings(deadline=None)
def test_counts_equal_what_assign_bins_counts_and_sums_are_exact_to_rounding(tensors, k, aligned):
    statistics = BinStatistics.from_tensors(tensors)
    grid = own_grid(statistics, k, aligned)
    counts, sums = statistics.counts(grid), statistics.sums(grid)
    assert statistics.n_weights == counts.sum()
    for tensor, row, row_sums in zip(tensors, counts, sums, strict=True):
        indices = assign_bins(tensor, grid)
        assert_array_equal(row, np.bincount(indices, minlength=grid.n_bins))
        for j in np.unique(indices):
            members = tensor[indices == j].astype(np.float64)
            error = abs(row_sums[j] - math.fsum(members))
            assert error <= 1e-15 * math.fsum(abs(members))
        assert (row_sums[row == 0] == 0).all()


@given(some_tensors(), ks)
@settings(deadline=None, max_examples=30)
def test_a_clipped_grid_counts_the_clipped_weights_in_its_end_bins(tensors, k):
    statistics = BinStatistics.from_tensors(tensors)
    grid = Grid.spanning(-0.01, 0.02, k)
    for tensor, row in zip(tensors, statistics.counts(grid), strict=True):
        assert_array_equal(row, np.bincount(assign_bins(tensor, grid), minlength=grid.n_bins))


@pytest.mark.parametrize("n", [1, 5, 64, 200, 10_001])
def test_a_bin_of_equal_weights_sums_exactly_beside_large_ones(n):
    tiny = np.float32(1.2345678e-9)
    tensor = np.concatenate([np.full(n, tiny), np.full(333, 0.7), np.full(333, -0.9)])
    statistics = BinStatistics.from_tensors([tensor.astype(np.float32)])
    binning = uniform_codebook(statistics, Grid.spanning(-0.9, 0.7, 7))
    assert binning.codebook.entries.tolist() == np.float32([-0.9, tiny, 0.7]).tolist()
    assert binning.counts.tolist() == [[333, n, 333]]


def test_prefix_sums_survive_a_large_prefix():
    """333,000 weights of -1e6 come before the tiny ones, in the very same sorted array."""
    rng = np.random.default_rng(0)
    tiny = rng.uniform(1e-9, 2e-9, 1000)
    tensor = np.concatenate([-1e6 * rng.uniform(0.5, 1, 333_000), tiny])
    statistics = BinStatistics.from_tensors([tensor])
    sums = statistics.sums(Grid.spanning(0, 3e-9, 2))
    assert sums[0, 1] == pytest.approx(math.fsum(tiny[tiny >= 1.5e-9]), rel=1e-14)


def test_the_worked_example_of_the_method():
    statistics = BinStatistics.from_tensors([PAPER[:4], PAPER[4:]])
    means = uniform_codebook(statistics, own_grid(statistics, 8))
    mids = uniform_codebook(statistics, own_grid(statistics, 8), "midpoint")
    assert means.codebook.entries.tolist() == np.float32([-0.95, -0.15, 0.0375, 0.3, 1]).tolist()
    assert mids.codebook.entries.tolist() == [-0.875, -0.125, 0.125, 0.375, 0.875]
    assert means.counts.tolist() == [[2, 2, 0, 0, 0], [0, 0, 4, 1, 1]]
    indices = assign_bins(PAPER, own_grid(statistics, 8), lookup=means.lookup)
    assert indices.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 3, 4]


@given(some_tensors(), ks, st.booleans(), st.sampled_from(["mean", "midpoint"]))
@settings(deadline=None)
def test_a_binning_holds_together(tensors, k, aligned, centre):
    statistics = BinStatistics.from_tensors(tensors)
    grid = own_grid(statistics, k, aligned)
    binning = uniform_codebook(statistics, grid, centre)
    n_entries = len(binning.codebook)
    everything = np.concatenate([t.astype(np.float64) for t in tensors])
    assert n_entries <= min(grid.n_bins, np.unique(everything).size)
    assert binning.counts.sum() == everything.size
    assert (binning.counts.sum(axis=0) > 0).all()
    assert binning.lookup.shape == (grid.n_bins,) and binning.lookup.max() == n_entries - 1
    for tensor, row in zip(tensors, binning.counts, strict=True):
        indices = assign_bins(tensor, grid, lookup=binning.lookup)
        assert_array_equal(row, np.bincount(indices, minlength=n_entries))
    if grid.zero_bin is not None and (assign_bins(everything, grid) == grid.zero_bin).any():
        zero = binning.codebook.entries[binning.lookup[grid.zero_bin]]
        assert zero == 0 and not np.signbit(zero)


@pytest.mark.slow
@given(some_tensors(), ks)
@settings(deadline=None)
def test_means_have_no_more_squared_error_than_midpoints(tensors, k):
    statistics = BinStatistics.from_tensors(tensors)
    grid = own_grid(statistics, k)
    weights = np.concatenate([t.astype(np.float64) for t in tensors])
    error = {}
    for centre in ("mean", "midpoint"):
        binning = uniform_codebook(statistics, grid, centre)
        indices = assign_bins(weights, grid, lookup=binning.lookup)
        error[centre] = ((weights - binning.codebook.entries[indices]) ** 2).sum()
    rounding = 1e-6 * (weights**2).sum()  # entries are float32
    assert error["mean"] <= error["midpoint"] + rounding


@given(some_tensors(), st.integers(1, 300), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_one_tensor_of_all_weights_in_any_order_gives_the_same_codebook(tensors, k, random):
    parts = BinStatistics.from_tensors([t.astype(np.float64) for t in tensors])
    everything = np.concatenate(parts.ordered)
    random.shuffle(everything)
    whole = BinStatistics.from_tensors([everything])
    grid = own_grid(whole, k)
    assert_array_equal(parts.counts(grid).sum(axis=0), whole.counts(grid)[0])
    a, b = uniform_codebook(parts, grid).codebook, uniform_codebook(whole, grid).codebook
    np.testing.assert_allclose(a.entries, b.entries, rtol=1e-6, atol=1e-12)


def test_one_bin_stands_for_the_mean_of_all_weights():
    weights = np.random.default_rng(1).normal(0.5, 1, 10_000).astype(np.float32)
    statistics = BinStatistics.from_tensors([weights])
    entries = uniform_codebook(statistics, own_grid(statistics, 1)).codebook.entries
    assert entries.tolist() == [np.float32(weights.mean(dtype=np.float64))]


def test_a_huge_k_loses_nothing_when_every_value_has_its_own_bin():
    weights = np.random.default_rng(1).integers(-500, 500, 3000).astype(np.float32) / 64
    statistics = BinStatistics.from_tensors([weights])
    grid = own_grid(statistics, 1 << 17)
    binning = uniform_codebook(statistics, grid)
    indices = assign_bins(weights, grid, lookup=binning.lookup)
    assert_array_equal(binning.codebook.entries[indices], weights)
    assert len(binning.codebook) == np.unique(weights).size


def test_a_constant_tensor_is_one_entry():
    statistics = BinStatistics.from_tensors([np.full(50, 0.1, np.float32)])
    for zero_aligned in (False, True):
        binning = uniform_codebook(statistics, own_grid(statistics, 16, zero_aligned))
        assert binning.codebook.entries.tolist() == [np.float32(0.1)]
        assert binning.counts.tolist() == [[50]]


def test_centres_equal_in_float32_become_one_entry():
    weights = np.array([1.0, 1.0 + 1e-9, 1.0 + 2e-9, 2.0])
    statistics = BinStatistics.from_tensors([weights])
    grid = Grid.spanning(1.0, 1.0 + 4e-9, 4)  # 2.0 is clipped into the last bin
    binning = uniform_codebook(statistics, grid)
    assert binning.codebook.entries.tolist() == [1.0, 2.0]
    assert binning.counts.tolist() == [[3, 1]]
    assert binning.lookup.tolist() == [0, 0, 0, 1]


def test_negative_zero_is_no_entry():
    statistics = BinStatistics.from_tensors([np.array([-0.0, -1e-60, 1.0])])
    entries = uniform_codebook(statistics, own_grid(statistics, 4)).codebook.entries
    assert entries.tolist() == [0, 1] and not np.signbit(entries).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_weight_is_refused_with_its_tensor(bad):
    good = np.zeros(3, np.float32)
    with pytest.raises(NonFiniteWeightError, match=r"parameter '#1' has 2 .* of 4"):
        BinStatistics.from_tensors([good, np.array([0, bad, 1, bad])])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "no weights to share"),
        ([np.empty(0, np.float32)], "no weights to share"),
        ([np.arange(3)], "'#0' is int64"),
    ],
)
def test_what_cannot_be_counted_is_refused(tensors, message):
    with pytest.raises(InputError, match=message):
        BinStatistics.from_tensors(tensors)


def test_a_centre_too_large_for_float32_is_refused():
    statistics = BinStatistics.from_tensors([np.array([-1e300, 1e300])])
    with pytest.raises(InputError, match="too large for float32"):
        uniform_codebook(statistics, own_grid(statistics, 2))
    with pytest.raises(InputError, match="centre='median'"):
        uniform_codebook(statistics, own_grid(statistics, 2), "median")


def test_the_weights_given_are_not_touched():
    weights = np.array([3.0, 1.0, 2.0], np.float32)
    BinStatistics.from_tensors([weights])
    assert weights.tolist() == [3, 1, 2]
