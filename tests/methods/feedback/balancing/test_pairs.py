import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from moeash.errors import InputError
from moeash.methods.feedback.assignment.columns import Factor, rescaled
from moeash.methods.feedback.balancing.pairs import Pair, find_pairs, pair_scales, recolumned
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.networks.loading.builtin import CifarResNet, LeNet5, LeNet300
from tests.entropy import index_bits


class Chain(nn.Module):
    """Plain and grouped convolutions, functions and modules, pooling, two linear layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 3)
        self.mix = nn.Conv2d(8, 12, 3, groups=4, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(12 * 4, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(self.act(self.stem(x)), 2)
        x = torch.flatten(F.adaptive_avg_pool2d(F.leaky_relu(self.mix(x), 0.1), 2), 1)
        return self.head(F.dropout(self.fc(x).relu(), 0.5, self.training))


CHAIN = (
    Pair("stem.weight", "mix.weight"),
    Pair("mix.weight", "fc.weight"),
    Pair("fc.weight", "head.weight"),
)


def images(n=40, channels=1, size=14, seed=1):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def outputs(network, values, x):
    twin = copy.deepcopy(network).eval()
    twin.load_state_dict(twin.state_dict() | values)
    with torch.no_grad():
        return twin(x)


def written(prepared):
    weights = {f.name: f.weight.reshape(f.shape) for f in prepared.factors}
    return weights | prepared.kept


def test_pairs_run_through_relus_pooling_and_flattening():
    assert find_pairs(Chain(), images(2)) == CHAIN
    assert find_pairs(LeNet300(), images(2, size=28)) == (
        Pair("fc1.weight", "fc2.weight"),
        Pair("fc2.weight", "fc3.weight"),
    )
    assert find_pairs(LeNet5(), images(2, size=28)) == (
        Pair("conv1.weight", "conv2.weight"),
        Pair("conv2.weight", "fc1.weight"),
        Pair("fc1.weight", "fc2.weight"),
    )


def test_a_batchnorm_ends_a_pair():
    assert find_pairs(CifarResNet(depth=8), images(2, channels=3, size=32)) == ()


def test_looking_for_pairs_leaves_the_network_in_its_mode():
    network = Chain().train()
    network.head.eval()
    find_pairs(network, images(2))
    assert network.fc.training
    assert not network.head.training


class Two(nn.Module):
    """Two linear layers, what happens between them, and a third."""

    def __init__(self, between, width=6):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(width, 6)
        self.c = nn.Linear(6, 6)
        self.between = between

    def forward(self, x):
        return self.between(self, self.a(x))


def hidden(y):
    """Read a tensor as compiled code does, past what watches the functions of torch."""
    with torch._C.DisableTorchFunction():
        return 2 * y.abs()


@pytest.mark.parametrize(
    "between",
    [
        lambda net, y: net.b(torch.tanh(y)),
        lambda net, y: net.b(F.gelu(y)),
        lambda net, y: net.b(F.relu(y)) + y,
        lambda net, y: net.b(F.relu(y)) + F.relu(y),
        lambda net, y: net.b(F.relu(y)) + net.b(F.relu(-y)),
        lambda net, y: net.b(net.a(F.relu(y))),
        lambda net, y: torch.sigmoid(net.b(F.relu(y))) + net.c(F.relu(y)),
        lambda net, y: (lambda z: net.b(z) + net.c(z))(F.relu(y)),
        lambda net, y: net.b(F.relu(y + 1)),
        lambda net, y: net.b(torch.cat([y[:, :3], y[:, 3:]], 1)),
        lambda net, y: (net.b(F.relu(y)), y)[1],
        lambda net, y: net.b(F.relu(y)) * float(y.sum()),
        lambda net, y: net.b(F.relu(y)) + y.data,
        lambda net, y: net.b(F.max_pool1d(y, 1)),
        lambda net, y: net.b(F.relu(y)) * net.b.weight.sum(),
    ],
)
def test_what_cannot_undo_a_scale_is_no_pair(between):
    assert find_pairs(Two(between).eval(), torch.randn(4, 6)) == ()


def test_a_hidden_reader_is_noticed_by_the_outputs():
    network = Two(lambda net, y: net.b(F.relu(y)) + hidden(y)).eval()
    with pytest.raises(InputError, match="no row is balanced through pairs"):
        prepare(network, [torch.randn(30, 6)])
    prepared = prepare(
        network, [torch.randn(30, 6)], Settings(balancing=Balancing(through_pairs=False))
    )
    torch.testing.assert_close(prepared.factors[0].weight[0], network.a.weight.detach())


def test_positions_of_a_linear_layer_are_not_channels():
    # (batch, positions, channels): flattened, the channels of one position lie side by side.
    network = Two(lambda net, y: net.b(F.relu(y).flatten(1)), width=18).eval()
    assert find_pairs(network, torch.randn(4, 3, 6)) == ()
    network = Two(lambda net, y: net.b(F.relu(y)).sum(1)).eval()
    assert find_pairs(network, torch.randn(4, 3, 6)) == (Pair("a.weight", "b.weight"),)


@pytest.mark.parametrize("balance", [0.25, 0.5])
def test_balanced_pairs_are_the_same_network(balance):
    network = Chain().eval()
    with torch.no_grad():
        network.stem.weight.mul_(torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1))
    prepared = prepare(network, images().split(20), Settings(balancing=Balancing(balance)))
    moved = [
        float((f.weight.reshape(f.shape) - network.state_dict()[f.name]).abs().max())
        for f in prepared.factors
    ]
    assert min(moved) > 0.01
    assert set(prepared.kept) == {"stem.bias", "fc.bias", "head.bias"}
    x = images(seed=2)
    expected = outputs(network, {}, x)
    got = outputs(network, written(prepared), x)
    torch.testing.assert_close(got, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_a_shared_bias_keeps_its_layer_out_of_pairs():
    network = Chain().eval()
    names = [n for n, p in network.named_parameters() if p.ndim > 1] + ["fc.bias"]
    prepared = prepare(network, [images()], shared=names)
    x = images(seed=2)
    torch.testing.assert_close(
        outputs(network, written(prepared), x), outputs(network, {}, x), atol=1e-5, rtol=0
    )
    factors = {factor.name: factor for factor in prepared.factors}
    torch.testing.assert_close(factors["head.weight"].weight[0], network.head.weight.detach())


def random_factor(name, rows, columns, generator, groups=1):
    basis = torch.randn(groups, 3 * columns, columns, generator=generator, dtype=torch.float64)
    gram = basis.transpose(1, 2) @ basis
    upper = torch.linalg.cholesky(torch.linalg.inv(gram), upper=True)
    diagonal = upper.diagonal(dim1=1, dim2=2)
    return Factor(
        name,
        (groups * rows, columns),
        torch.randn(groups, rows, columns, generator=generator),
        torch.arange(columns).expand(groups, columns).contiguous(),
        (upper / diagonal.unsqueeze(2)).float(),
        diagonal.square().float(),
        torch.rand(groups, columns, generator=generator),
        torch.rand(groups, rows, generator=generator) + 0.5,
        None,
        torch.randn(groups, columns, generator=generator),
        None,
    ), gram


@given(seed=st.integers(0, 10**6), groups=st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=20)
def test_recolumned_factors_are_those_of_the_rescaled_curvature(seed, groups):
    generator = torch.Generator().manual_seed(seed)
    factor, gram = random_factor("w", 3, 8, generator, groups)
    order = torch.stack([torch.randperm(8, generator=generator) for _ in range(groups)])
    ordered = torch.stack([g[o][:, o] for g, o in zip(gram, order, strict=True)])
    upper = torch.linalg.cholesky(torch.linalg.inv(ordered), upper=True)
    diagonal = upper.diagonal(dim1=1, dim2=2)
    factor = Factor(
        **{f: getattr(factor, f) for f in Factor.__dataclass_fields__}
        | {
            "order": order,
            "coupling": (upper / diagonal.unsqueeze(2)).float(),
            "variance": diagonal.square().float(),
        }
    )
    channels = torch.rand(groups * 4, generator=generator) + 0.3  # two columns a channel
    wide = channels.double().repeat_interleave(2).reshape(groups, 8)
    scaled = recolumned(factor, channels)
    for group in range(groups):
        here = order[group]
        root = scaled.coupling[group].double() * scaled.variance[group].double().sqrt()[:, None]
        expected = torch.linalg.inv(
            (wide[group][:, None] * gram[group] * wide[group])[here][:, here]
        )
        size = float(expected.abs().max())
        torch.testing.assert_close(root.T @ root, expected, atol=1e-4 * size, rtol=0)
    # What a change of the weights does to the outputs' constant part stays as well.
    torch.testing.assert_close(
        torch.einsum("grc,gc->gr", scaled.weight, scaled.absorbed),
        torch.einsum("grc,gc->gr", factor.weight, factor.absorbed),
    )


def test_scales_undo_an_earlier_rescaling():
    generator = torch.Generator().manual_seed(3)
    first, _ = random_factor("first", 6, 5, generator)
    second, _ = random_factor("second", 4, 12, generator)
    pairs = [Pair("first", "second")]
    plain = pair_scales([first, second], pairs, 0.5)["first"]
    planted = torch.tensor([[0.5, 2.0, 1.0, 3.0, 0.8, 1.5]])
    moved = [rescaled(first, planted), recolumned(second, planted)]
    again = pair_scales(moved, pairs, 0.5)["first"]
    torch.testing.assert_close(again * planted, plain, rtol=1e-3, atol=0)
    half = pair_scales([first, second], pairs, 0.25)["first"]
    assert 0 < float(half.log().std()) < float(plain.log().std())


def test_theory_asks_for_the_same_distortion_of_rows_and_columns():
    # One row of 12 weights against 12 columns of 1: at the optimum their mean distortions agree.
    generator = torch.Generator().manual_seed(5)
    first, _ = random_factor("first", 6, 12, generator)
    second, _ = random_factor("second", 12, 6, generator)
    scale = pair_scales([first, second], [Pair("first", "second")], 0.5)["first"]
    rows = (first.sensitivity / scale.square())[0] * first.variance.reciprocal().sum()
    columns = (scale.square() / second.variance)[0] * second.sensitivity.sum()
    torch.testing.assert_close(rows, columns, rtol=1e-3, atol=0)


def test_no_exponent_scales_nothing():
    generator = torch.Generator().manual_seed(4)
    factors = [random_factor("a", 6, 5, generator)[0], random_factor("b", 4, 6, generator)[0]]
    scale = pair_scales(factors, [Pair("a", "b")], 0.0)["a"]
    torch.testing.assert_close(scale, torch.ones(1, 6))


def test_balancing_buys_more_for_the_same_bits():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(30, 60), nn.ReLU(), nn.Linear(60, 8)).eval()
    spread = torch.logspace(-1, 1, 60)[torch.randperm(60)]
    with torch.no_grad():  # the same function, badly scaled
        network[0].weight.mul_(spread[:, None])
        network[0].bias.mul_(spread)
        network[2].weight.div_(spread)
    x, unseen = torch.randn(500, 30), torch.randn(300, 30)
    expected = outputs(network, {}, unseen)

    def costs(prepared, ks):
        for k in ks:
            result = compress(prepared, k, 0.02)
            error = (outputs(network, result.values, unseen) - expected).square().mean()
            yield sum(index_bits(i) for i in result.indices.values()), float(error)

    plain = list(
        costs(prepare(network, x.split(100), Settings(balancing=Balancing(0.0))), (80, 160))
    )
    balanced = list(costs(prepare(network, x.split(100)), range(16, 80, 4)))
    for bits, error in plain:
        assert min(e for b, e in balanced if b <= bits) < 0.7 * error
