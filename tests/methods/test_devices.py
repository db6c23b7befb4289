"""Calibrated methods where the network is: on the host, or on a GPU."""

import pytest
import torch
from torch import nn

from moeash.methods.feedback.columns import assign_feedback
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.methods.gpfq.layers import quantise_gpfq, symmetric_alphabet
from moeash.networks.loading.builtin import DigitsCNN

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def images(n=60):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(device):
    torch.manual_seed(0)
    return DigitsCNN().eval().to(device)


@pytest.fixture
def no_weight_leaves(monkeypatch):
    """Refuse to bring anything as large as a weight matrix to the host."""

    def guarded(name):
        original = getattr(torch.Tensor, name)

        def call(self, *args, **kwargs):
            assert self.numel() < 2000, f"{name} of {tuple(self.shape)}"
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, call)

    for name in ("cpu", "numpy", "tolist", "__array__"):
        guarded(name)


def assign_there(factor, entries, price):
    return assign_feedback(factor, entries, price=price)


@pytest.mark.parametrize("device", DEVICES)
def test_feedback_stays_on_the_networks_device(device, no_weight_leaves):
    settings = Settings(sketches=1, rows="independent")
    prepared = prepare(network(device), images().split(30), settings)
    # On the host the kernel would assign, which needs no device.
    rule = assign_there if device == "cpu" else None
    result = compress(prepared, 20, 0.05, assign=rule)
    assert {f.coupling.device.type for f in prepared.factors} == {device}
    assert {chosen.device.type for chosen in result.indices.values()} == {device}
    assert {value.device.type for value in result.kept.values()} == {device}


@pytest.mark.parametrize("device", DEVICES)
def test_gpfq_stays_on_the_networks_device(device, no_weight_leaves):
    layers = quantise_gpfq(
        network(device), images().split(30), lambda w: symmetric_alphabet(w, levels=4)
    )
    assert {layer.indices.device.type for layer in layers} == {device}


def test_the_guard_would_notice(no_weight_leaves):
    with pytest.raises(AssertionError, match="cpu of"):
        nn.Linear(100, 100).weight.cpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_assigns_nearly_all_weights_as_the_cpu_does():
    one, other = (
        compress(prepare(network(device), images().split(30), Settings(sketches=1)), 20, 0.0)
        for device in ("cpu", "cuda")
    )
    for name, chosen in one.indices.items():
        a, b = one.entries[chosen], other.entries.cpu()[other.indices[name].cpu()]
        assert float((a == b).float().mean()) > 0.9
