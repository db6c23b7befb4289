"""Histograms of weights."""

import numpy as np
import pytest

from moeash.core.histogram import BINS, Histogram


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_weight_is_in_the_bin_of_its_value(dtype):
    rng = np.random.default_rng(0)
    tensors = [rng.normal(size=(30, 7)).astype(dtype), np.empty(0, dtype), np.zeros(3, dtype)]
    got = Histogram.of(tensors)
    weights = np.concatenate([tensor.ravel() for tensor in tensors]).astype(np.float64)
    assert (got.low, got.high) == (weights.min(), weights.max())
    assert len(got.counts) == BINS and sum(got.counts) == len(weights)
    edges = np.linspace(got.low, got.high, BINS + 1)
    for i in (0, 100, 255):
        inside = (weights >= edges[i]) & ((weights < edges[i + 1]) | (i == BINS - 1))
        assert got.counts[i] == inside.sum()


def test_weights_of_one_value_are_counted():
    got = Histogram.of([np.full(5, 0.25, np.float32)], 4)
    assert (got.low, got.high, sum(got.counts)) == (0.25, 0.25, 5)
    assert got.as_dict() == {"low": 0.25, "high": 0.25, "counts": list(got.counts)}


def test_plain_values_give_it_back():
    got = Histogram.of([np.arange(12, dtype=np.float32)], 5)
    assert Histogram.from_dict(got.as_dict()) == got
