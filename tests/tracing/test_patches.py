import pytest
import torch
from torch import nn

from moeash.tracing.patches import (
    n_positions,
    patch_columns,
    patches,
    per_row,
    row_values,
    rows_of,
)
from moeash.tracing.uses import watch_uses

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
    "1d even, same": (nn.Conv1d(2, 3, 4, padding="same", dilation=2), (2, 2, 9)),
    "1d replicate, same": (nn.Conv1d(2, 3, 4, padding="same", padding_mode="replicate"), (2, 2, 9)),
    "3d": (nn.Conv3d(2, 4, (1, 2, 3), groups=2, padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
}

TRANSPOSED = {
    "1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (3, 4, 7)),
    "2d": (nn.ConvTranspose2d(3, 5, (3, 2), stride=(2, 1), padding=1, dilation=2), (2, 3, 4, 5)),
    "2d grouped": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (2, 4, 3, 3)),
    "3d": (nn.ConvTranspose3d(2, 3, 2, padding=(0, 1, 0)), (2, 2, 3, 4, 3)),
    "embedding": (nn.Embedding(7, 5), (3, 6)),
}


def used(layer, shape):
    """Return the one use of a layer, its inputs and its outputs."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Embedding):
        inputs = torch.randint(0, layer.num_embeddings, shape, generator=generator)
    else:
        inputs = torch.randn(shape, generator=generator)
    seen = []
    with watch_uses(layer, lambda *use: seen.append(use)):
        layer(inputs)
    (use,) = seen
    return use


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_rows_are_the_layers_outputs(name):
    layer, shape = LAYERS[name]
    use, inputs, outputs = used(layer, shape)
    with torch.no_grad():
        bare = outputs - _bias(layer)
        rows = rows_of(layer.weight, use.map.groups)
        product = torch.einsum("blgd,grd->blgr", patches(use.map, inputs), rows)
        torch.testing.assert_close(product, per_row(use.map, bare), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [LAYERS, TRANSPOSED], ids=["rows out", "rows in"])
def test_rows_times_patches_are_the_weights_gradient(layers):
    """What the curvature is made of, against autograd; of outputs where rows are inputs."""
    for layer, shape in layers.values():
        use, inputs, outputs = used(layer, shape)
        gradient = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
        (expected,) = torch.autograd.grad(outputs, layer.weight, gradient)
        values, others = (gradient, inputs) if use.map.rows_are_inputs else (inputs, gradient)
        product = torch.einsum("blgr,blgd->grd", per_row(use.map, others), patches(use.map, values))
        torch.testing.assert_close(product.reshape(expected.shape), expected)


@pytest.mark.parametrize("layers", [LAYERS, TRANSPOSED], ids=["rows out", "rows in"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_are_the_patches_and_rows_the_outputs_the_other_way_round(layers, dtype):
    for layer, shape in layers.values():
        use, inputs, outputs = used(layer, shape)
        values, others = (outputs, inputs) if use.map.rows_are_inputs else (inputs, outputs)
        values = values.detach().to(dtype)
        columns = patch_columns(use.map, values, constant=3.0)
        assert columns.dtype == torch.float32
        expected = patches(use.map, values).permute(0, 2, 3, 1).float()
        assert torch.equal(columns[:, :, :-1], expected)
        assert n_positions(use.map, values) == columns.shape[3]
        assert (columns[:, :, -1] == 3.0).all()
        assert torch.equal(patch_columns(use.map, values), expected)
        both = [others, others.flip(0)]
        rows = [per_row(use.map, each).permute(0, 2, 3, 1).float() for each in both]
        assert torch.equal(row_values(use.map, both), torch.cat(rows, 2))


def _bias(layer):
    if isinstance(layer, nn.Linear):
        return layer.bias
    return layer.bias.reshape(-1, *[1] * len(layer.kernel_size))
