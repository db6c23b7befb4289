"""The rows and columns of a weight, and what they are multiplied with.

A layer is a linear map from patches to outputs: one row per output neuron (a whole filter over all
its input channels), one column per weight of a row, in the C order of the weight tensor. A grouped
convolution is one such map per group. Transposed convolutions and embeddings store the other way
round: one row per *input*, one column per weight it sends to an output. For them patches are taken
of the outputs, and the inputs stand where the outputs of other layers do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH_ELEMENTS = 1 << 24
"""Elements of the largest temporary patch matrix: 64 MiB in float32."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """What a weight does where it is used.

    Attributes:
        weight: as applied, ``(groups * rows, ...)``.
        groups: number of independent maps.
        stride: per spatial dimension; empty for a matrix product.
        padding: likewise, (before, behind).
        dilation: likewise.
        transposed: a transposed convolution.
        lookup: an embedding: its inputs are row numbers.
    """

    weight: Tensor
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False
    lookup: bool = False

    @classmethod
    def of(
        cls,
        weight: Tensor,
        n_dims: int,
        *,
        groups: int = 1,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        transposed: bool = False,
        lookup: bool = False,
    ) -> "LinearMap":
        """Return the map of a call, its arguments as torch takes them."""
        dilations = _each(dilation, n_dims)
        if isinstance(padding, str):
            # "same" puts the odd element behind, as torch does; "valid" pads nothing.
            totals = [
                step * (size - 1) if padding == "same" else 0
                for size, step in zip(weight.shape[2:], dilations, strict=True)
            ]
            sides = tuple((total // 2, total - total // 2) for total in totals)
        else:
            sides = tuple((width, width) for width in _each(padding, n_dims))
        strides = _each(stride, n_dims)
        return cls(weight, groups, strides, sides, dilations, transposed, lookup)

    @property
    def rows_are_inputs(self) -> bool:
        """Whether a row belongs to an input, not to an output."""
        return self.transposed or self.lookup

    @property
    def n_rows(self) -> int:
        """Rows per group."""
        return self.weight.shape[0] // self.groups

    @property
    def n_columns(self) -> int:
        """Columns per group."""
        return math.prod(self.weight.shape[1:])


def _each(value: int | Sequence[int], n_dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n_dims if len(values) == 1 else values


def rows_of(weight: Tensor, groups: int) -> Tensor:
    """Return ``(groups, rows, columns)``, a view of a weight tensor ``(groups * rows, ...)``."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def patches(map_: LinearMap, values: Tensor) -> Tensor:
    """Return what the rows of a map are multiplied with.

    Args:
        map_: the map.
        values: one batch of its inputs; of outputs, where rows are inputs.

    Returns:
        ``(batch, positions, groups, columns)``. A matrix product has one position per element of
        its middle dimensions.
    """
    if not map_.stride:
        return values.reshape(values.shape[0], -1, 1, map_.n_columns)
    windows = _windows(map_, values)
    n_dims = len(map_.stride)
    # (batch, channels, *kernel, *positions) -> (batch, *positions, channels, *kernel)
    places = range(2 + n_dims, 2 + 2 * n_dims)
    values = windows.permute(0, *places, 1, *range(2, 2 + n_dims))
    return values.reshape(values.shape[0], -1, map_.groups, map_.n_columns)


def patch_columns(map_: LinearMap, values: Tensor, *, constant: float | None = None) -> Tensor:
    """Return patches as columns of a matrix: the way they lie in memory at the least cost.

    A convolution's patches are copied along a row of positions, not a kernel's few elements at a
    time, and behind them there is room for a constant input.

    Args:
        map_: the map.
        values: as :func:`patches` takes them.
        constant: of an input to append, as a bias has one of 1; None: none.

    Returns:
        ``(batch, groups, columns, positions)`` float32, with one column more for the constant.
    """
    n_batch, n_columns = len(values), map_.n_columns
    if not map_.stride:
        values = values.reshape(n_batch, 1, -1, n_columns).float()
        if constant is not None:
            values = F.pad(values, (0, 1), value=constant)
        return values.transpose(2, 3)
    windows = torch.unflatten(_windows(map_, values), 1, (map_.groups, -1))
    positions = windows.shape[3 + len(map_.stride) :]
    made = torch.empty(
        (n_batch, map_.groups, n_columns + (constant is not None), math.prod(positions)),
        dtype=torch.float32,
        device=values.device,
    )
    own = torch.unflatten(made[:, :, :n_columns], 3, positions)
    torch.unflatten(own, 2, windows.shape[2 : -len(positions)]).copy_(windows)
    if constant is not None:
        made[:, :, n_columns] = constant
    return made


def side_by_side(columns: Tensor) -> Tensor:
    """Return the ``(groups, columns, batch * positions)`` of :func:`patch_columns`."""
    return columns.movedim(0, 2).flatten(2)


def _windows(map_: LinearMap, values: Tensor) -> Tensor:
    """Return a convolution's patches ``(batch, channels, *kernel, *positions)``, a view."""
    n_dims = len(map_.stride)
    if any(any(side) for side in map_.padding):
        values = F.pad(values, [width for side in reversed(map_.padding) for width in side])
    kernel = map_.weight.shape[2:]
    for axis, (size, stride, dilation) in enumerate(
        zip(kernel, map_.stride, map_.dilation, strict=True)
    ):
        reach = dilation * (size - 1) + 1
        values = values.unfold(axis + 2, reach, stride)[..., ::dilation]
    # (batch, channels, *positions, *kernel)
    return values.permute(0, 1, *range(2 + n_dims, 2 + 2 * n_dims), *range(2, 2 + n_dims))


def per_row(map_: LinearMap, values: Tensor) -> Tensor:
    """Return outputs, or their gradient, as ``(batch, positions, groups, rows)``.

    Where rows are inputs, inputs; of an embedding, whose inputs are row numbers, one-hot.
    """
    if map_.lookup:
        values = F.one_hot(values.reshape(values.shape[0], -1, 1), map_.n_rows).float()
    if not map_.stride:
        return values.reshape(values.shape[0], -1, 1, map_.n_rows)
    values = values.flatten(2).transpose(1, 2)
    return values.reshape(values.shape[0], -1, map_.groups, map_.n_rows)


def row_values(map_: LinearMap, several: Sequence[Tensor]) -> Tensor:
    """Return several outputs, or their gradients, as rows of one matrix, one behind the other.

    Args:
        map_: the map.
        several: as :func:`per_row` takes each.

    Returns:
        ``(batch, groups, len(several) * rows, positions)`` float32.
    """
    if not map_.stride or map_.lookup:
        rows = [per_row(map_, values).float().transpose(1, 2) for values in several]
        return torch.cat(rows, 3).transpose(2, 3)
    rows = [torch.unflatten(v.float().flatten(2), 1, (map_.groups, map_.n_rows)) for v in several]
    return torch.cat(rows, 2)


def n_positions(map_: LinearMap, values: Tensor) -> int:
    """Return how many patches an image has; none is made.

    Args:
        map_: the map.
        values: as :func:`patches` takes them.
    """
    one = values[:1]
    if not map_.stride:
        return one.numel() // map_.n_columns
    return math.prod(_windows(map_, one).shape[2 + len(map_.stride) :])


def images_per_piece(map_: LinearMap, positions: int) -> int:
    """Return how many images to take at once so that temporaries stay within PATCH_ELEMENTS.

    Args:
        map_: the map.
        positions: its patches per image.
    """
    columns = map_.groups * map_.n_columns
    # Per image: the patches, and the weight gradient, which is as large as the weight.
    largest = max(positions * columns, map_.weight.numel(), positions * len(map_.weight), 1)
    return max(1, PATCH_ELEMENTS // largest)
