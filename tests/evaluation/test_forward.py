import pytest
import torch
from torch import nn

from moeash.errors import EvaluationError
from moeash.evaluation.forward import Forward


class Network(nn.Module):
    """A convolution and a classifier on its flattened feature maps."""

    def __init__(self, flatten=lambda x: x.flatten(1), channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(channels, 4, 3)
        self.classifier = nn.Linear(4 * 36, 5)
        self.flatten = flatten
        self.strides = []

    def forward(self, x):
        self.strides.append(x.stride())
        return self.classifier(self.flatten(self.convolution(x).relu()))


def images(channels=3):
    return torch.randn(6, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def test_convolutions_are_given_images_with_channels_last_and_say_the_same():
    network, x = Network().eval(), images()
    plain = Forward(network, "cpu")
    fastest = plain.fastest(x)
    assert fastest == Forward(network, "cpu", channels_last=True)
    del network.strides[:]
    outputs = fastest(x)
    assert network.strides == [(192, 1, 24, 3)]
    assert torch.allclose(outputs, plain(x), rtol=1e-5, atol=1e-6)
    assert x.is_contiguous()


def view(x):
    return x.view(len(x), -1)  # cannot be had of feature maps with channels last


def by_memory(x):
    return torch.as_strided(x, (len(x), 144), (144, 1))  # takes whatever lies there


@pytest.mark.parametrize("flatten", [view, by_memory])
def test_networks_that_need_the_other_layout_are_given_it(flatten):
    network = Network(flatten).eval()
    forward = Forward(network, "cpu").fastest(images())
    assert not forward.channels_last
    assert forward(images()).shape == (6, 5)


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), images()),
        (Network(channels=1), images(1)),
        (nn.Sequential(nn.Conv1d(3, 2, 3), nn.Flatten(), nn.Linear(12, 5)), torch.zeros(6, 3, 8)),
    ],
    ids=["no convolution", "one channel", "no images"],
)
def test_where_nothing_is_gained_nothing_is_tried(network, x):
    calls = []
    network.register_forward_pre_hook(lambda *given: calls.append(given))
    assert not Forward(network.eval(), "cpu").fastest(x).channels_last
    assert not calls


def test_a_network_whose_outputs_are_chance_is_left_alone():
    network = nn.Sequential(Network(), nn.Dropout(0.5)).train()
    assert not Forward(network, "cpu").fastest(images()).channels_last


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_any_arithmetic_gives_float32_scores(precision):
    forward = Forward(Network().eval(), "cpu", precision).fastest(images())
    assert forward.channels_last
    assert forward(images()).dtype == torch.float32


def test_images_a_network_cannot_take_are_named():
    forward = Forward(Network().eval(), "cpu")
    with pytest.raises(EvaluationError, match=r"cannot take images of shape \(6, 2, 8, 8\)"):
        forward.first(images(2))
    with pytest.raises(EvaluationError, match="class scores are needed"):
        Forward(nn.Sequential(Network(), Text()), "cpu")(images())


class Text(nn.Module):
    def forward(self, x):
        return "a cat"
