"""Networks as people bring them: untrained ones, whose scales span many orders of magnitude."""

import pytest
import torch
import torchvision

import moeash


@pytest.mark.slow
def test_an_untrained_mobilenet_with_statistics_of_noise_compresses(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(weights=None).train()
    x = torch.randn(24, 3, 64, 64)
    with torch.no_grad():
        for _ in range(2):
            network(x)
    path = tmp_path / "s.moeash"
    moeash.compress(
        network.eval(),
        path,
        candidate={"k": 64, "rate": 0.05},
        method={"name": "feedback", "images": 24},
        calibration=x,
        progress=False,
    )
    other = torchvision.models.mobilenet_v3_small(weights=None)
    other = moeash.load_into(other, path).eval()
    with torch.no_grad():
        expected, got = (net(x).log_softmax(1) for net in (network, other))
    divergence = float((expected.exp() * (expected - got)).sum(1).mean())
    assert abs(divergence) < 1e-6, "its outputs are all but constant"
