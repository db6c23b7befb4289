import pytest
import torch
from torch import nn

from moeash.methods.patches import groups_of, outputs, patches, rows_of

LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 6)),
    "linear over tokens": (nn.Linear(6, 4), (3, 5, 6)),
    "1d dilated": (nn.Conv1d(4, 6, 3, stride=2, dilation=2, padding=2), (3, 4, 11)),
    "2d": (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)), (3, 3, 7, 6)),
    "2d grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 5, 5)),
    "2d depthwise": (nn.Conv2d(4, 4, 3, groups=4), (3, 4, 5, 5)),
    "2d same, dilated": (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 2, 6, 6)),
    "2d valid": (nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 6, 6)),
    "2d circular": (nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 2, 6, 6)),
    "2d reflect": (nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 2, 6, 6)),
    "1d replicate, same": (nn.Conv1d(2, 3, 4, padding="same", padding_mode="replicate"), (2, 2, 9)),
    "3d": (nn.Conv3d(2, 4, (1, 2, 3), groups=2, padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_rows_are_the_layers_outputs(name):
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = layer(inputs) - _bias(layer)
        rows = rows_of(layer.weight, groups_of(layer))
        product = torch.einsum("blgd,grd->blgr", patches(layer, inputs), rows)
        torch.testing.assert_close(product, outputs(layer, bare), atol=1e-5, rtol=1e-5)


def _bias(layer):
    if isinstance(layer, nn.Linear):
        return layer.bias
    return layer.bias.reshape(-1, *[1] * len(layer.kernel_size))
