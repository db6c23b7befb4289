"""Kept tensors that float16 does not suit keep their precision, and only those."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from moeash.compression.narrowing import HARMLESS, without_harmful
from moeash.compression.probing import OutputProbe
from moeash.core.codebook import keep_all
from moeash.core.kept import Keeping
from moeash.data.unlabelled import Unlabelled
from moeash.networks.network import Network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from moeash.networks.sameness import distance
from moeash.networks.writing.inplace import WeightWriter


def network(centre):
    """Two layers and norms; the first layer's outputs are so many spreads away from 0."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6)
    )
    module.eval()
    with torch.no_grad():
        centres = centre * torch.linspace(0.9, 1.1, 6)  # which float16 does not hold exactly
        module[0].bias += centres
        module[1].running_mean += centres
    return module


def inputs(seed=1):
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(seed))


def chosen(module, norms=()):
    state = read_state(module)
    made = Network(module, state, "test")
    writer = WeightWriter(module, state)
    given = Unlabelled(inputs(), at_most=32, network=module)
    probe = OutputProbe(made, writer, given, batch_size=8, device="cpu")
    found = without_harmful(probe, keep_all(state), Keeping("float16", norms))
    writer.restore()
    return found


def moved(module, keeping):
    twin = copy.deepcopy(module)
    state = read_state(twin)
    WeightWriter(twin, state).write_kept(keeping.stored(keep_all(state)).values())
    with torch.no_grad():
        return distance(module(inputs(2)), twin(inputs(2)))


def test_tensors_that_float16_suits_are_narrowed_without_a_word():
    keeping, notes = chosen(network(1.0))
    assert keeping == Keeping("float16") and notes == ()


@pytest.mark.parametrize("two_vectors", [False, True])
def test_only_large_values_that_cancel_keep_their_precision_and_a_note_names_them(two_vectors):
    module = network(3000.3)
    norms = find_norms(module, read_state(module)) if two_vectors else ()
    assert moved(module, Keeping("float16", norms)) > 10 * HARMLESS
    keeping, (note,) = chosen(module, norms)
    cancelling = {"0.bias", "1.bias" if two_vectors else "1.running_mean"}
    assert set(keeping.exact) == cancelling
    assert all(name in note for name in cancelling) and "keep float32" in note
    assert moved(module, keeping) < 2 * HARMLESS
    stored = keeping.stored(keep_all(read_state(module)))
    assert stored["4.bias"].values.dtype == np.float16


def test_tensors_named_exact_before_stay_so():
    module = network(3000.3)
    module.register_buffer("table", torch.ones(3))
    state = read_state(module)
    made = Network(module, state, "test")
    given = Unlabelled(inputs(), at_most=32, network=module)
    writer = WeightWriter(module, state)
    probe = OutputProbe(made, writer, given, batch_size=8, device="cpu")
    keeping, _ = without_harmful(probe, keep_all(state), Keeping("float16", exact=("table",)))
    assert "table" in keeping.exact and "0.bias" in keeping.exact
