import numpy as np
import pytest

from moeash.compression.weights.sketch import Sketch
from moeash.core.bins import Grid, assign_bins
from moeash.networks.streaming.floats import PATTERNS, as_floats, to_patterns

RNG = np.random.default_rng(0)
WEIGHTS = (RNG.standard_t(5, 200_000) * 0.02).astype(np.float32)


def sketch_of(dtype):
    """Return the sketch of the weights in a dtype, and the weights it is of."""
    if dtype == "float32":
        heads = (WEIGHTS.view(np.uint32) >> 16).astype(np.uint16)
        return Sketch.of_heads(np.bincount(heads, minlength=PATTERNS)), WEIGHTS
    raw = to_patterns(WEIGHTS) if dtype == "bfloat16" else WEIGHTS.astype(np.float16)
    counts = np.bincount(raw.view(np.uint16), minlength=PATTERNS)
    return Sketch.of_patterns(counts, dtype), as_floats(raw, dtype)


def truth(weights, grid):
    bins = assign_bins(weights, grid)
    counts = np.bincount(bins, minlength=grid.n_bins)
    sums = np.bincount(bins, weights=weights, minlength=grid.n_bins)
    centres = np.where(counts, sums / np.maximum(counts, 1), grid.midpoints)
    filled = counts[counts > 0]
    bits = float((filled * np.log2(weights.size / filled)).sum())
    error = float(((weights - centres[bins]) ** 2).sum())
    return counts, sums, centres, bits, error


def grid_of(weights, k):
    return Grid.spanning(float(weights.min()), float(weights.max()), k)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("k", [1, 2, 37, 5000])
def test_of_16_bits_everything_is_exact(dtype, k):
    sketch, weights = sketch_of(dtype)
    grid = grid_of(weights, k)
    counts, sums, centres, bits, error = truth(weights.astype(np.float64), grid)
    got_counts, got_sums = np.zeros(grid.n_bins), np.zeros(grid.n_bins)
    sketch.add_to(grid, got_counts, got_sums)
    assert sketch.is_exact and sketch.size == weights.size
    np.testing.assert_array_equal(got_counts, counts)
    np.testing.assert_allclose(got_sums, sums, rtol=1e-12, atol=1e-12)
    assert sketch.entropy_bits(grid) == pytest.approx(bits, abs=1e-6)
    assert sketch.squared_error(grid, centres) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 37, 500, 5000])
def test_of_float32_it_is_close(k):
    sketch, weights = sketch_of("float32")
    grid = grid_of(weights, k)
    counts, _, centres, bits, error = truth(weights.astype(np.float64), grid)
    got_counts, got_sums = np.zeros(grid.n_bins), np.zeros(grid.n_bins)
    sketch.add_to(grid, got_counts, got_sums)
    assert not sketch.is_exact
    assert got_counts.sum() == pytest.approx(counts.sum())
    if k <= 500:  # beyond, bins hold a few weights each, and an even spread is another one
        assert sketch.entropy_bits(grid) == pytest.approx(bits, rel=0.01, abs=1)
    means = np.where(got_counts > 0, got_sums / np.maximum(got_counts, 1e-9), grid.midpoints)
    assert np.sqrt(sketch.squared_error(grid, means)) == pytest.approx(np.sqrt(error), rel=0.03)
    assert np.abs(means - centres)[counts > 100].max() < max(grid.step / 4, 1e-4)


def test_a_kept_tensor_costs_what_its_bytes_do():
    sketch, _ = sketch_of("bfloat16")
    patterns = to_patterns(WEIGHTS)
    planes = [patterns & 255, patterns >> 8]
    shares = [np.unique(plane, return_counts=True)[1] / WEIGHTS.size for plane in planes]
    wanted = WEIGHTS.size * sum(float(-(p * np.log2(p)).sum()) for p in shares)
    assert sketch.plain_bits == pytest.approx(wanted)
    whole, _ = sketch_of("float32")
    assert whole.plain_bits > sketch.plain_bits + 15.9 * WEIGHTS.size


def test_a_tensor_of_one_value_lies_in_one_bin():
    counts = np.bincount(to_patterns(np.full(5, 0.5, np.float32)), minlength=PATTERNS)
    sketch = Sketch.of_patterns(counts, "bfloat16")
    grid = Grid.spanning(0.5, 0.5, 7)
    assert sketch.entropy_bits(grid) == 0
    assert sketch.squared_error(grid, np.array([0.5])) == 0
