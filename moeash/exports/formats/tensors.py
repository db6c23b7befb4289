"""The bits of decoded tensors."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.codebook import SharedWeights
from moeash.errors import ExportError
from moeash.networks.loading.weights import stored_tensors
from moeash.networks.writing.decoding import tensor_of


def bits(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in C order."""
    flat = tensor.detach().contiguous().reshape(-1)
    array: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return array.data


def same(one: Tensor, other: Tensor) -> bool:
    """Compare bit for bit: NaN equals itself, and 0 is not -0."""
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and bits(one) == bits(other)


def check_tensors(weights: SharedWeights, read: Mapping[str, Tensor], what: str) -> None:
    """Compare tensors that were read back with those of the network.

    Args:
        weights: the network.
        read: by name, each looked up once.
        what: they were read from, for the message.

    Raises:
        ExportError: a name or a bit differs.
    """
    expected = stored_tensors(weights)
    if set(read) != expected.keys():
        raise ExportError(f"{what} written holds other names than decoded")
    for name, tensor in expected.items():
        if not same(read[name], tensor_of(weights, tensor)):
            raise ExportError(f"{what} written holds another {name!r}")
