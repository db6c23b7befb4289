"""Networks as people bring them: untrained ones, whose scales span many orders of magnitude."""

import pytest
import torch
import torchvision

import moeash


def mobilenet():
    """As deep as it is meant, for depth is what spreads the scales, and half as wide."""
    return torchvision.models.mobilenet_v3_small(weights=None, width_mult=0.5, num_classes=10)


@pytest.mark.slow(seconds=70)
def test_an_untrained_mobilenet_with_statistics_of_noise_compresses(tmp_path):
    torch.manual_seed(0)
    network = mobilenet().train()
    x = torch.randn(24, 3, 32, 32)
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
    other = moeash.load(path, into=mobilenet()).eval()
    with torch.no_grad():
        expected, got = (net(x).log_softmax(1) for net in (network, other))
    divergence = float((expected.exp() * (expected - got)).sum(1).mean())
    assert abs(divergence) < 1e-6, "its outputs are all but constant"
