"""The rate-distortion bound of the comparison, on sources whose bits are known."""

import numpy as np
import pytest
import torch
from torch import nn

from moeash.methods.feedback.curvature.measuring import measure_curvature


@pytest.fixture
def bound(script):
    return script("bound")


@pytest.mark.slow
def test_equal_gaussians_take_half_a_bit_for_every_halving_of_the_cost(bound):
    sources = bound.Sources(np.full(1000, 0.25), 1000)
    for halvings in (2, 4, 10):
        least, scalar = sources.bits(250 / 2**halvings)
        assert least == pytest.approx(500 * halvings, rel=1e-6)
        # Zador: a uniform quantiser with an entropy coder takes log2(2 pi e / 12) / 2 = .254 more.
        assert (scalar - least) / 1000 < 0.2547
    assert (scalar - least) / 1000 == pytest.approx(0.2546, abs=2e-3)


@pytest.mark.slow
def test_water_is_filled_from_the_dearest_source_on(bound):
    sources = bound.Sources(np.array([8.0, 1.0, 1.0]), 3)
    # At a level of 2 the first alone is coded: log2(8 / 2) / 2 bits, for a cost of 2 + 1 + 1.
    assert sources.bits(4.0)[0] == pytest.approx(1.0)
    # At a level of 1/2 all are: log2(16) / 2 + 2 log2(2) / 2.
    assert sources.bits(1.5)[0] == pytest.approx(3.0)


def test_a_linear_network_costs_what_the_model_says(bound):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4, bias=False)).eval()
    images = [torch.randn(200, 6), torch.randn(200, 6)]
    halves = [
        measure_curvature(network, [half], temperature=1.0, sketches=64, seed=7).layers
        for half in images
    ]
    model = bound.Model(halves, ["0.weight"])
    moved = network[0].weight.detach() + 0.02 * torch.randn(4, 6)
    with torch.inference_mode():
        exact, outputs = network(torch.cat(images)), torch.cat(images) @ moved.T
    kl = bound.divergence(exact, outputs)
    assert model.cost({"0.weight": moved}) == pytest.approx(kl, rel=0.15)
    assert model.cost({"0.weight": network[0].weight.detach()}) == 0.0
    assert model.sources().n == 24
