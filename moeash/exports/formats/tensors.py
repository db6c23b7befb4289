"""Decoded tensors with the dtypes they have in the network, and their bits."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights, TiedTensor
from moeash.errors import ExportError


def tensor_of(weights: SharedWeights, tensor: SharedTensor | KeptTensor) -> Tensor:
    """Return one decoded tensor, C order; bfloat16 is bfloat16, as in the network's memory."""
    values = torch.from_numpy(np.asarray(weights.values(tensor), order="C"))
    return values.to(torch.bfloat16) if tensor.dtype == "bfloat16" else values


def decoded_tensors(weights: SharedWeights) -> dict[str, Tensor]:
    """Return every decoded tensor by name, in state order; tied names share one."""
    tensors: dict[str, Tensor] = {}
    for tensor in weights.tensors:
        tensors[tensor.name] = (
            tensors[tensor.target] if isinstance(tensor, TiedTensor) else tensor_of(weights, tensor)
        )
    return tensors


def stored(weights: SharedWeights) -> dict[str, SharedTensor | KeptTensor]:
    """Return what stands behind every name, in state order: a tied name has its target's."""
    found: dict[str, SharedTensor | KeptTensor] = {}
    for tensor in weights.tensors:
        found[tensor.name] = found[tensor.target] if isinstance(tensor, TiedTensor) else tensor
    return found


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
    expected = stored(weights)
    if set(read) != expected.keys():
        raise ExportError(f"{what} written holds other names than decoded")
    for name, tensor in expected.items():
        if not same(read[name], tensor_of(weights, tensor)):
            raise ExportError(f"{what} written holds another {name!r}")
