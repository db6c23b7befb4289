import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from moeash.core.trellis import levels_of
from moeash.errors import InputError
from moeash.methods.feedback.balancing import Balancing
from moeash.methods.feedback.columns import nearest, zero_aligned_entries
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, nearest_only, prepare


class Net(nn.Module):
    """A biased and an unbiased convolution before BatchNorms, one without, a head, an embedding."""

    def __init__(self, leak=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 24, 1, bias=False)
        self.head = nn.Linear(24, 10)
        self.table = nn.Embedding(3, 10)
        self.leak = leak
        for norm in (self.norm1, self.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.2, 3)
            norm.weight.data.uniform_(0.2, 2)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        y = self.mix(x)
        x = torch.relu(self.norm2(y)) + self.leak * y
        return self.head(torch.relu(self.point(x)).mean((2, 3))) + self.table.weight[1]


def images(n=64, seed=0):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) + 0.5


def outputs(network, values, x):
    twin = copy.deepcopy(network).eval()
    twin.load_state_dict(twin.state_dict() | values)
    with torch.no_grad():
        return twin(x)


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


def test_only_absorbers_and_statistics_change_among_the_kept(prepared):
    assert set(prepared.kept) == {
        "stem.bias",
        "head.bias",
        *(f"norm{i}.running_{what}" for i in (1, 2) for what in ("mean", "var")),
    }
    assert set(compress(prepared, 12, 0.0).kept) == set(prepared.kept)


def test_the_same_candidate_gives_the_same_indices(network, prepared):
    first = compress(prepared, 12, 0.05)
    again = compress(prepare(network, images().split(16)), 12, 0.05)
    assert all(torch.equal(first.indices[name], again.indices[name]) for name in first.indices)
    assert all(torch.equal(first.kept[name], again.kept[name]) for name in first.kept)


def test_what_has_no_curvature_is_named_and_rounded(network):
    shared = ["mix.weight", "table.weight", "head.bias"]
    prepared = prepare(network, [images()], shared=shared)
    assert [factor.name for factor in prepared.factors] == ["mix.weight"]
    assert prepared.n_calibrated == 16 * 8 * 9
    assert prepared.reasons == {
        "table.weight": "its layer was not called by the calibration run",
        "head.bias": "it is not the weight of a layer",
    }
    result = compress(prepared, 9, 0.0)
    assert set(result.indices) == set(shared)
    weight = network.table.weight.detach()
    step = (prepared.span[1] - prepared.span[0]) / 9
    assert (
        float((result.entries[result.indices["table.weight"]] - weight).abs().max()) < 0.51 * step
    )


def test_a_shared_bias_absorbs_nothing(network):
    prepared = prepare(network, [images()], shared=["stem.weight", "stem.bias"])
    assert prepared.kept == {}
    assert prepared.factors[0].absorber is None


def test_without_absorbers_no_kept_tensor_changes(network):
    prepared = prepare(network, [images()], Settings(absorb=False))
    assert len(prepared.factors) == 4
    assert prepared.kept == {}
    assert all(f.absorber is None and not f.absorbed.any() for f in prepared.factors)


def test_a_codebook_of_ones_own_takes_the_place_of_the_grid(prepared):
    entries = torch.tensor([-0.21, -0.05, 0.02, 0.3])
    result = compress(prepared, 12, 0.05, entries=entries)
    assert torch.isin(result.entries, entries).all()
    grid = compress(prepared, 12, 0.05)
    low, high = prepared.span
    again = compress(prepared, 12, 0.05, entries=zero_aligned_entries(low, high, 12))
    assert all(torch.equal(again.indices[name], i) for name, i in grid.indices.items())


def test_rescaling_is_refused_when_somebody_else_reads_the_layer():
    leaky = Net(leak=0.5).eval()
    for balance in (0.25, 0.0):  # even unbalanced, the running mean could not take up a shift
        with pytest.raises(InputError, match="through_norms=False"):
            prepare(leaky, [images()], Settings(balancing=Balancing(balance)))
    prepared = prepare(leaky, [images()], Settings(balancing=Balancing(through_norms=False)))
    assert set(prepared.kept) == {"stem.bias", "head.bias"}


def test_bad_calls_are_refused_with_the_reason(network, prepared):
    with pytest.raises(InputError, match=r"no parameter 'mix\.wait'"):
        prepare(network, [images()], shared=["mix.wait"])
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


@pytest.mark.parametrize("kind", ["gradients", "inputs"])
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


def test_a_fine_grid_reproduces_a_transformer(transformer):
    result = compress(prepare(transformer, [pictures(20, 0)]), 100_000, 0.0)
    x = pictures(10, 1)
    got, expected = outputs(transformer, result.values, x), outputs(transformer, {}, x)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
