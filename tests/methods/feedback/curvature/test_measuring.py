import copy
import math

import pytest
import torch
from torch import nn

from moeash.errors import DataError, InputError
from moeash.methods.feedback.curvature.measuring import measure_curvature


def images(n=12, shape=(2, 6, 6), seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A stem with BatchNorm, a layer used twice, an unused one and an embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.unused = nn.Linear(3, 3)
        self.table = nn.Embedding(4, 5)
        self.head = nn.Linear(4 * 9, 5)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.head(x.flatten(1)) + self.table.weight[0]


def test_layers_come_in_execution_order_and_the_rest_is_named():
    curvature = measure_curvature(Net(), [images()])
    assert [layer.name for layer in curvature.layers] == [
        "stem.weight",
        "twice.weight",
        "head.weight",
    ]
    assert curvature.left_out == {
        "unused.weight": "its layer was not called by the calibration run",
        "table.weight": "its layer was not called by the calibration run",
    }
    assert curvature.n_weights == 36 + 144 + 180
    assert curvature.images == 12


def test_constant_changes_go_to_the_bias_or_to_the_batchnorm_that_reads_the_layer():
    absorbers = {
        layer.name: (layer.absorber, layer.norm)
        for layer in measure_curvature(Net(), [images()]).layers
    }
    assert absorbers == {
        "stem.weight": ("norm.running_mean", "norm"),
        "twice.weight": ("twice.bias", None),
        "head.weight": ("head.bias", None),
    }


@pytest.mark.parametrize("kind", ["gradients", "inputs"])
def test_batches_of_any_size_give_the_same_curvature(kind):
    network, x = Net(), images()
    # One sketch of one image does not depend on the batch it came in only if the signs line up:
    # they are drawn image by image.
    whole = measure_curvature(network, [x], kind=kind, sketches=1)
    pieces = measure_curvature(network, x.split(5), kind=kind, sketches=1)
    for one, other in zip(whole.layers, pieces.layers, strict=True):
        torch.testing.assert_close(one.gram, other.gram, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(one.sensitivity, other.sensitivity, rtol=1e-4, atol=1e-7)


def test_the_network_is_left_as_it_was():
    network = Net().train()
    before = copy.deepcopy(network.state_dict())
    measure_curvature(network, [images()])
    assert network.training and network.norm.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_frozen_networks_are_measured_too():
    network = Net().requires_grad_(False)
    thawed = Net()
    for one, other in zip(
        measure_curvature(network, [images()]).layers,
        measure_curvature(thawed, [images()]).layers,
        strict=True,
    ):
        torch.testing.assert_close(one.gram, other.gram)


class Softmax(nn.Module):
    """One linear layer: the Fisher matrix is known in closed form."""

    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 4, bias=bias)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.slow
def test_sketched_curvature_approaches_the_fisher_matrix_of_softmax_regression():
    network, x = Softmax(bias=False), images(40, (3,))
    (layer,) = measure_curvature(network, [x], sketches=4000, temperature=1.0).layers
    p = network(x).softmax(1).detach().double()
    # Diagonal block of row r: mean over images of p_r (1 - p_r) x x'. Rows are averaged in `gram`.
    weight = p * (1 - p)
    expected = torch.einsum("nr,ni,nj->ij", weight, x.double(), x.double()) / 40 / 4
    torch.testing.assert_close(layer.gram[0], expected, rtol=0.05, atol=0.01)
    rows = torch.einsum("nr,ni,ni->r", weight, x.double(), x.double()) / 40
    torch.testing.assert_close(
        layer.sensitivity[0] * layer.gram[0].trace(), rows, rtol=0.05, atol=0.01
    )


def test_with_a_bias_constant_inputs_cost_nothing():
    network = Softmax(bias=True)
    x = images(40, (3,))
    x[:, 1] = 2.5
    (layer,) = measure_curvature(network, [x], sketches=2).layers
    assert float(layer.gram[0, 1].abs().max()) < 1e-6
    # And what the bias must add when such a weight is lost is the weight times that constant.
    assert math.isclose(float(layer.absorbed[0, 1]), 2.5, rel_tol=1e-6)


@pytest.mark.parametrize("channels, size", [(2, 12), (24, 3)])
def test_both_ways_to_sum_gradients_agree_with_autograd(channels, size):
    """Many positions and few rows go one way, few positions and many rows the other."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, channels, 3, padding=1, bias=False)
    network = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(channels * size * size, 3))
    x = images(4, (2, size, size))
    (layer, _) = measure_curvature(network, [x], sketches=2, temperature=1.0, seed=9).layers
    generator = torch.Generator().manual_seed(9)
    logits = network(x)
    p = logits.detach().softmax(1)
    total = torch.zeros(18, 18)
    for _ in range(2):
        signs = torch.randint(0, 2, p.shape, generator=generator).float() * 2 - 1
        root = p.sqrt() * signs
        sketch = root - p * root.sum(1, keepdim=True)
        for i in range(4):
            (g,) = torch.autograd.grad(logits[i] @ sketch[i], conv.weight, retain_graph=True)
            total += g.flatten(1).T @ g.flatten(1)
    expected = total.double() / (4 * 2 * channels)
    torch.testing.assert_close(layer.gram[0], expected, rtol=1e-3, atol=1e-7)


def test_a_grouped_layer_has_one_matrix_per_group():
    layer = measure_curvature(Net(), [images()]).layers[0]
    assert layer.gram.shape == (2, 9, 9)
    assert layer.weight.shape == (2, 2, 9)
    assert layer.sensitivity.shape == (2, 2)


def test_bad_calls_are_refused_with_the_reason():
    network = Net()
    with pytest.raises(DataError, match="at least one image"):
        measure_curvature(network, [])
    with pytest.raises(InputError, match="not one of gradients, inputs"):
        measure_curvature(network, [images()], kind="weights")
    with pytest.raises(InputError, match="0 sketches"):
        measure_curvature(network, [images()], sketches=0)
    with pytest.raises(InputError, match="temperature 0"):
        measure_curvature(network, [images()], temperature=0)
    with pytest.raises(InputError, match=r"\(n, t, classes\)"):
        measure_curvature(nn.Sequential(nn.Conv2d(2, 3, 1)), [images()])
