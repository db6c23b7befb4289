"""Which layers the calibrated methods handle, and the rows and columns of their weights.

A layer is a linear map from patches to outputs: one row per output neuron (a whole filter over all
its input channels), one column per weight of a row, in the C order of the weight tensor. A grouped
convolution is one such map per group.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYER_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

PATCH_ELEMENTS = 1 << 24
"""Elements of the largest temporary patch matrix: 64 MiB in float32."""


def find_layers(network: nn.Module) -> dict[str, Layer]:
    """Return the layers that can be handled by ``state_dict`` key of their weight, found by type.

    A weight shared by several layers appears once, under its first name.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in network.named_modules():
        if isinstance(module, LAYER_TYPES) and "weight" in module._parameters:
            if id(module.weight) in seen:
                continue
            seen.add(id(module.weight))
            found[f"{name}.weight" if name else "weight"] = module
    return found


def groups_of(layer: Layer) -> int:
    """Return the number of independent linear maps of a layer."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def rows_of(weight: Tensor, groups: int) -> Tensor:
    """Return ``(groups, rows, columns)``, a view of a weight tensor ``(groups * rows, ...)``."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def patches(layer: Layer, inputs: Tensor) -> Tensor:
    """Return what the rows of a layer are multiplied with.

    Args:
        layer: a linear or convolution layer; stride, dilation, groups and padding mode are its own.
        inputs: one batch as the layer receives it.

    Returns:
        ``(batch, positions, groups, columns)``. A linear layer has one position per element of its
        middle dimensions.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(inputs.shape[0], -1, 1, layer.in_features)
    dims = len(layer.kernel_size)
    inputs = _padded(layer, inputs)
    for axis, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        reach = dilation * (size - 1) + 1
        inputs = inputs.unfold(axis + 2, reach, stride)[..., ::dilation]
    # (batch, channels, *positions, *kernel) -> (batch, *positions, channels, *kernel)
    places = range(2, 2 + dims)
    inputs = inputs.permute(0, *places, 1, *range(2 + dims, 2 + 2 * dims))
    columns = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return inputs.reshape(inputs.shape[0], -1, layer.groups, columns)


def outputs(layer: Layer, values: Tensor) -> Tensor:
    """Return a layer's output, or its gradient, as ``(batch, positions, groups, rows)``."""
    if isinstance(layer, nn.Linear):
        return values.reshape(values.shape[0], -1, 1, layer.out_features)
    rows = layer.out_channels // layer.groups
    return values.flatten(2).transpose(1, 2).reshape(values.shape[0], -1, layer.groups, rows)


def images_per_piece(layer: Layer, positions: int) -> int:
    """Return how many images to take at once so that temporaries stay within PATCH_ELEMENTS.

    Args:
        layer: the layer.
        positions: its patches per image.
    """
    groups, weight = groups_of(layer), layer.weight
    columns = groups * weight[0].numel()
    # Per image: the patches, and the weight gradient, which is as large as the weight.
    largest = max(positions * columns, weight.numel(), positions * weight.shape[0], 1)
    return max(1, PATCH_ELEMENTS // largest)


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    if isinstance(layer.padding, str):
        # "same" puts the odd element behind, as torch does; "valid" pads nothing.
        totals = [
            dilation * (size - 1) if layer.padding == "same" else 0
            for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
        ]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(width, width) for width in layer.padding]
    if not any(any(side) for side in sides):
        return inputs
    flat = [width for side in reversed(sides) for width in side]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, flat, mode=mode)
