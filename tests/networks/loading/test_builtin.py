import pytest
import torch

from moeash.errors import InputError
from moeash.networks.loading.builtin import BUILTIN, SHIPPED

INPUT = {"digits-cnn": (1, 8, 8), "lenet300": (1, 28, 28), "lenet5": (1, 28, 28)}


def n_parameters(module, least_dims=1):
    return sum(p.numel() for p in module.parameters() if p.dim() >= least_dims)


@pytest.mark.parametrize("name", BUILTIN)
def test_every_network_maps_images_to_logits(name):
    module = BUILTIN[name](n_classes=7).eval()
    images = torch.zeros(2, *INPUT.get(name, (3, 32, 32)))
    with torch.inference_mode():
        assert module(images).shape == (2, 7)


@pytest.mark.parametrize(
    "name, count", [("digits-cnn", 55_066), ("lenet300", 266_610), ("lenet5", 431_080)]
)
def test_parameter_counts_are_those_stated(name, count):
    assert n_parameters(BUILTIN[name]()) == count


@pytest.mark.parametrize(
    "name, millions",
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)],
)
def test_cifar_resnets_have_the_size_of_table_6(name, millions):
    assert n_parameters(BUILTIN[name]()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_resnet20_has_268336_weights_in_convolutions_and_linear():
    assert n_parameters(BUILTIN["resnet20"](), least_dims=2) == 268_336


def test_the_shortcut_drops_every_other_pixel_and_pads_channels_evenly():
    block = BUILTIN["resnet20"]().layer2[0].eval()
    torch.nn.init.zeros_(block.conv2.weight)  # leaves relu(shortcut)
    x = torch.rand(1, 16, 4, 4)
    with torch.inference_mode():
        out = block(x)
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_shipped_networks_are_built_in():
    assert set(SHIPPED) <= set(BUILTIN)


@pytest.mark.parametrize("depth", [-4, 0, 2, 21])
def test_a_depth_that_makes_no_three_stages_is_refused(depth):
    with pytest.raises(InputError, match=rf"got depth {depth}, needed 6 n \+ 2"):
        BUILTIN["resnet20"](depth=depth)
