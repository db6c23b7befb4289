import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from moeash.core.trellis import levels_of
from moeash.errors import InputError
from moeash.methods.feedback.columns import nearest, zero_aligned_entries
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, nearest_only, prepare
from tests.marks import slow
from tests.methods.feedback.networks import Net, images, outputs


@pytest.fixture(scope="module")
def network():
    return Net().eval()


@pytest.fixture(scope="module")
def prepared(network):
    return prepare(network, images().split(16))


def test_a_fine_grid_reproduces_the_network(network, prepared):
    result = compress(prepared, 20_000, 0.0)
    expected = outputs(network, {}, images(seed=1))
    got = outputs(network, result.values, images(seed=1))
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def test_every_weight_is_an_entry_in_use_and_zero_is_one(prepared):
    result = compress(prepared, 12, 0.05)
    assert (result.entries == 0).any()
    counts = sum(
        torch.bincount(i.flatten(), minlength=len(result.entries)) for i in result.indices.values()
    )
    assert counts.shape == result.entries.shape
    assert (counts > 0).all()


@pytest.fixture(scope="module")
def in_one_order(network):
    shared = ["stem.weight", "mix.weight", "point.weight", "head.weight", "table.weight"]
    return prepare(network, images().split(16), Settings(common_order=True), shared=shared)


@pytest.mark.parametrize("n_states", [4, 8, 16])
def test_every_tensor_follows_the_trellis_and_no_entry_between_is_missing(in_one_order, n_states):
    assert set(in_one_order.plain) == {"table.weight"}
    result = compress(in_one_order, 40, 0.05, trellis=n_states)
    zero = int(result.entries.abs().argmin())
    steps = result.entries.double().diff()
    assert float(result.entries[zero]) == 0
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-5, atol=0)
    for name, indices in result.indices.items():
        values = (indices.numpy() - zero).astype(np.int32)
        assert levels_of(values.ravel(), values.shape, n_states) is not None, name


def test_zero_stays_an_entry_of_a_trellis_nothing_falls_on(network):
    positive = copy.deepcopy(network)
    with torch.no_grad():
        positive.table.weight.copy_(torch.linspace(5, 6, 30).reshape(3, 10))
    prepared = nearest_only(positive, ["table.weight"])
    result = compress(prepared, 60, 0.0, trellis=4)
    assert float(result.entries[0]) == 0
    assert int(result.indices["table.weight"].min()) > 40


def test_feedback_moves_the_outputs_less_than_nearest_bins(network, prepared):
    x = images(200, seed=2)
    expected = outputs(network, {}, x)
    got = (outputs(network, compress(prepared, 12, 0.0).values, x) - expected).square().mean()
    weights = {f.name: network.state_dict()[f.name] for f in prepared.factors}
    low, high = (
        f([float(f_(w)) for w in weights.values()])
        for f, f_ in ((min, torch.min), (max, torch.max))
    )
    grid = zero_aligned_entries(low, high, 12)
    rounded = {name: grid[nearest(w, grid)] for name, w in weights.items()}
    assert float(got) < 0.5 * float((outputs(network, rounded, x) - expected).square().mean())


def test_the_same_candidate_gives_the_same_indices(network, prepared):
    first = compress(prepared, 12, 0.05)
    again = compress(prepare(network, images().split(16)), 12, 0.05)
    assert all(torch.equal(first.indices[name], again.indices[name]) for name in first.indices)
    assert all(torch.equal(first.kept[name], again.kept[name]) for name in first.kept)


def test_a_codebook_of_ones_own_takes_the_place_of_the_grid(prepared):
    entries = torch.tensor([-0.21, -0.05, 0.02, 0.3])
    result = compress(prepared, 12, 0.05, entries=entries)
    assert torch.isin(result.entries, entries).all()
    grid = compress(prepared, 12, 0.05)
    low, high = prepared.span
    again = compress(prepared, 12, 0.05, entries=zero_aligned_entries(low, high, 12))
    assert all(torch.equal(again.indices[name], i) for name, i in grid.indices.items())


def test_bad_calls_are_refused_with_the_reason(network, prepared):
    with pytest.raises(InputError, match="rate -1"):
        compress(prepared, 9, -1)
    with pytest.raises(InputError, match="no weight to share"):
        compress(prepare(network, [images()], shared=[]), 9, 0.0)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10).eval()
    nn.init.normal_(network.heads.head.weight, std=0.3)  # torchvision begins with zeros
    nn.init.normal_(network.class_token)
    return network


def pictures(n, seed):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["gradients", slow("inputs")])
def test_feedback_moves_a_transformers_outputs_less_than_nearest_bins(transformer, kind):
    shared = [name for name, p in transformer.named_parameters() if p.ndim >= 2]
    ours = prepare(transformer, pictures(200, 0).split(50), Settings(kind=kind), shared=shared)
    assert set(ours.reasons) == {"class_token", "encoder.pos_embedding"}
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_bias" in ours.kept
    x = pictures(100, 1)
    expected = outputs(transformer, {}, x)
    moved = [
        float((outputs(transformer, compress(p, 40, 0.0).values, x) - expected).square().mean())
        for p in (ours, nearest_only(transformer, shared))
    ]
    assert moved[0] < 0.6 * moved[1]


@pytest.mark.slow
def test_a_fine_grid_reproduces_a_transformer(transformer):
    result = compress(prepare(transformer, [pictures(20, 0)]), 100_000, 0.0)
    x = pictures(10, 1)
    got, expected = outputs(transformer, result.values, x), outputs(transformer, {}, x)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
