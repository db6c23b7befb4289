"""What is measured of rows, and what it is worth in a whole network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from moeash.data.arrays import torchvision_source
from moeash.errors import InputError
from moeash.methods.feedback.assignment import rows as module
from moeash.methods.feedback.assignment.columns import (
    prepare_feedback,
)
from moeash.methods.feedback.assignment.rows import Sample, measure_between
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.curvature.measuring import measure_curvature
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.networks.loading.sources import load_network
from tests.entropy import index_bits


class Net(nn.Module):
    """Few rows at many positions, many rows at one, groups, and a layer used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.twice = nn.Linear(64, 64, bias=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x)).flatten(1)
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


def images(n=10, seed=0):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) + 0.3


def test_what_is_measured_is_the_covariance_of_what_columns_leave_of_the_gradients():
    """Reference: per-image weight gradients by autograd, of the same sketches.

    The head's sums go through positions, the stem's through gradients.
    """
    network, x = Net(), images()
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    found = measure_between(network, [x], factors, sketches=2, temperature=4.0, seed=7)
    assert set(found) == {"stem.weight", "twice.weight", "head.weight"}
    expected = {name: torch.zeros_like(total) for name, total in found.items()}
    generator = torch.Generator().manual_seed(7)
    p = (network(x) / 4.0).softmax(1).detach()
    for _ in range(2):
        root = p.sqrt() * (torch.randint(0, 2, p.shape, generator=generator) * 2 - 1)
        sketch = root - p * root.sum(1, keepdim=True)
        for i in range(len(x)):
            for factor in factors:
                if factor.name == "twice.weight":
                    continue  # sums its uses without the terms between them
                weight = network.get_parameter(factor.name)
                bias = network.get_parameter(str(factor.absorber))
                scalar = (network(x[i : i + 1]) * sketch[i]).sum()
                gradient, constant = torch.autograd.grad(scalar, [weight, bias])
                shape = factor.weight.shape
                left = gradient.reshape(shape) - constant.reshape(shape[:2]).unsqueeze(
                    2
                ) * factor.absorbed.unsqueeze(1)
                for g in range(shape[0]):
                    residual = (left[g][:, factor.order[g]] @ factor.coupling[g].T).double()
                    expected[factor.name][i % 2, g] += residual @ residual.T
    for name in ("stem.weight", "head.weight"):
        size = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5 * size)


def test_batches_of_any_even_size_give_the_same():
    """Sketches are drawn image by image, and every other image counts towards a half."""
    network, x = Net(), images(12)
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    whole = measure_between(network, [x], factors, sketches=1)
    pieces = measure_between(network, x.split(4), factors, sketches=1)
    assert set(whole) == {"stem.weight", "twice.weight", "head.weight"}
    for name, total in whole.items():
        size = float(total.abs().max())
        assert size > 0
        torch.testing.assert_close(pieces[name], total, rtol=1e-3, atol=1e-5 * size)


def test_wide_layers_and_embeddings_are_left_out(monkeypatch):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(20, 6)
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            return self.head(torch.tanh(self.table(x).mean(1)))

    network = Words()
    x = torch.randint(0, 20, (12, 3), generator=torch.Generator().manual_seed(0))
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    assert set(measure_between(network, [x], factors)) == {"head.weight"}
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    assert measure_between(network, [x], factors) == {}
    prepared = prepare(network, x.split(4))
    assert all(factor.rows is None for factor in prepared.factors)


@pytest.mark.parametrize(
    ("n_images", "batch", "least", "most"),
    [
        (1, 1, 1, 1),
        (100, 7, 100, 100),
        (300, 50, 150, 150),
        (5000, 100, 1250, 1250),
        (4999, 77, 1250, 1250),
    ],
)
def test_the_images_kept_are_spread_evenly(n_images, batch, least, most):
    sample = Sample()
    stream = torch.arange(n_images)[:, None]
    assert torch.equal(torch.cat(list(sample.watch(stream.split(batch)))), stream)
    kept = torch.cat(list(sample.batches(64))).flatten()
    assert least <= len(kept) == len(sample) <= most
    assert kept[0] == 0
    assert len(kept) == 1 or len(kept.diff().unique()) == 1


def test_few_large_images_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MOST_ELEMENTS", 10 * 50)
    sample = Sample()
    list(sample.watch(torch.zeros(200, 50).split(8)))
    assert 5 <= len(sample) <= 10


# ------------------------------------------------------------------ the whole network


def test_preparing_couples_rows_or_leaves_them():
    network = Net().eval()
    alone = prepare(network, images(40).split(8), Settings(rows="independent"))
    assert all(factor.rows is None for factor in alone.factors)
    together = prepare(network, images(40).split(8))
    assert [factor.rows is None for factor in together.factors][1:] == [False, False]
    for one, other in zip(alone.factors, together.factors, strict=True):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.coupling, other.coupling)
    on_trellises = prepare(network, images(40).split(8), Settings(common_order=True))
    for factor in on_trellises.factors[1:]:
        assert (factor.rows.order.diff(dim=1) == 1).all()


def test_the_same_images_give_the_same_indices():
    network = Net().eval()
    first, again = (compress(prepare(network, images(40).split(8)), 20, 0.05) for _ in range(2))
    for name, indices in first.indices.items():
        assert torch.equal(indices, again.indices[name])


def test_another_word_for_rows_is_refused():
    with pytest.raises(InputError, match="coupled or independent, got 'both'"):
        Settings(rows="both")


def log_probabilities(network, values, x):
    """Log probabilities of the network with some tensors replaced."""
    twin = copy.deepcopy(network).eval()
    twin.load_state_dict(twin.state_dict() | values)
    with torch.no_grad():
        return twin(x).double().log_softmax(1)


@pytest.mark.realdata
def test_coupled_rows_bring_lenet300_nearer_to_the_float_network_at_equal_bits(real_data):
    source = torchvision_source("MNIST", root=real_data / "mnist", preset="mnist", n_classes=10)
    calibration = source.images("train", np.arange(2000))
    seen = source.images("train", np.arange(55_000, 60_000))
    network = load_network("lenet300", checkpoint=real_data / "models/lenet300.safetensors")
    exact = log_probabilities(network, {}, seen)
    points = {}
    for rows in ("coupled", "independent"):
        settings = Settings(rows=rows, sketches=2, damping=0.1)
        prepared = prepare(network, calibration.split(100), settings)
        points[rows] = []
        for k in range(28, 44, 2):
            result = compress(prepared, k, 0.05)
            bits = sum(index_bits(indices) for indices in result.indices.values())
            found = log_probabilities(network, result.values, seen)
            kl = float((exact.exp() * (exact - found)).sum(1).mean())
            points[rows].append((np.log(kl), bits))
    # Bits on the line through the points, at a KL both reach.
    bits = {
        rows: np.polyval(np.polyfit(*zip(*found, strict=True), 1), np.log(0.006))
        for rows, found in points.items()
    }
    assert bits["coupled"] < 0.95 * bits["independent"]
