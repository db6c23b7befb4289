from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moeash.compression.weights.choosing import choice_for_error, k_for_bits
from moeash.compression.weights.sketch import Sketch
from moeash.compression.weights.survey import Surveyed
from moeash.core.bins import Grid, assign_bins
from moeash.errors import InputError
from moeash.networks.streaming.floats import PATTERNS, from_patterns, to_patterns
from moeash.networks.streaming.header import StoredTensor


def surveyed(name, weights):
    raw = to_patterns(weights)
    weights = from_patterns(raw).astype(np.float64)
    sketch = Sketch.of_patterns(np.bincount(raw, minlength=PATTERNS), "bfloat16")
    tensor = StoredTensor(name, "bfloat16", (1, weights.size), Path("x"), 0)
    squares = float((weights**2).sum())
    return Surveyed(tensor, weights.min(), weights.max(), squares, sketch)


def normal(name, n=50_000, scale=0.02, seed=0):
    return surveyed(name, np.random.default_rng(seed).normal(0, scale, n).astype(np.float32))


def errors(shared, k):
    """The relative error of every tensor, with bins' means for entries, by the definition."""
    grid = Grid.spanning(min(s.low for s in shared), max(s.high for s in shared), k)
    values = [np.repeat(s.sketch.values, s.sketch.counts) for s in shared]
    bins = [assign_bins(v, grid).astype(np.intp) for v in values]
    every, where = np.concatenate(values), np.concatenate(bins)
    counts = np.bincount(where, minlength=grid.n_bins)
    means = np.bincount(where, weights=every, minlength=grid.n_bins) / np.maximum(counts, 1)
    return [
        np.linalg.norm(v - means[b]) / np.linalg.norm(v) for v, b in zip(values, bins, strict=True)
    ]


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_the_bins_take_about_the_bits_asked_for_and_their_neighbours_are_no_nearer(bits):
    shared = [normal("a"), normal("b", scale=0.01, seed=1)]
    k = k_for_bits(shared, bits)

    def at(k):
        grid = Grid.spanning(min(s.low for s in shared), max(s.high for s in shared), k)
        return sum(s.sketch.entropy_bits(grid) for s in shared) / 100_000

    assert abs(at(k) - bits) < max(0.3, 2 / k)
    assert abs(at(k) - bits) <= min(abs(at(n) - bits) for n in (max(k - 1, 1), k + 1))


def test_bits_that_no_number_of_bins_takes_are_refused_with_the_most_there_are():
    for bits in (0, -1, float("nan"), 12):
        with pytest.raises(InputError, match=r"at most \d+\.\d\d, which 65536 bins take"):
            k_for_bits([normal("a")], bits)


@pytest.mark.parametrize("allowed", [0.5, 0.1, 0.02])
def test_every_tensor_meets_the_error_and_a_few_bins_less_would_not_do(allowed):
    shared = [normal("a"), normal("b", scale=0.01, seed=1)]
    choice = choice_for_error(shared, allowed)
    assert choice.shared == tuple(shared) and not choice.kept
    assert max(errors(shared, choice.k)) <= allowed
    assert max(errors(shared, int(choice.k * 0.97) - 1)) > allowed


def test_a_tensor_that_would_cost_the_others_more_than_itself_is_kept():
    shared = [normal("large"), normal("tiny", n=100, scale=1e-5, seed=1)]
    choice = choice_for_error(shared, 0.1)
    assert choice.kept == ("tiny",)
    assert [one.tensor.name for one in choice.shared] == ["large"]
    assert max(errors(list(choice.shared), choice.k)) <= 0.1
    # As large as the other, it is worth many bins.
    both = choice_for_error([normal("large", scale=0.02), normal("small", scale=2e-3)], 0.1)
    assert not both.kept


def test_an_error_that_no_tensor_meets_is_refused_with_what_to_do():
    one = normal("a")
    rough = replace(one.sketch, widths=np.abs(one.sketch.values) / 128)  # as if it were of float32
    with pytest.raises(InputError, match="by 65536 bins or fewer; allow more"):
        choice_for_error([replace(one, sketch=rough)], 1e-5)
