"""Tensors pickled as NumPy arrays, so that all workers on one machine share one copy.

A pickled torch tensor is bytes that every receiver copies; a NumPy array is a buffer beside the
pickle, which Ray keeps once a machine and maps, read-only, into every worker.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PickledAsArrays:
    """Pickles its CPU tensors, in fields and in dictionaries there, as arrays.

    What is unpickled may be read-only memory: its tensors must not be written to. They compute as
    those that were pickled did, see :func:`aligned`.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {name: _packed(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _unpacked(value) for name, value in state.items()})


def _packed(value: Any) -> Any:
    if isinstance(value, Tensor) and value.device.type == "cpu":
        return value.detach().numpy()
    if isinstance(value, dict):
        return {name: _packed(item) for name, item in value.items()}
    return value


ALIGNMENT = 64
"""Bytes that torch begins its tensors at multiples of."""


def aligned(tensor: Tensor) -> Tensor:
    """Return a tensor on the host where torch would have put it, a copy if it lies elsewhere.

    Kernels take other paths from other addresses and round sums differently: on an AMD EPYC
    products of matrices that begin 12 bytes behind a multiple of 64 have other last bits.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def read_only_tensor(values: NDArray[Any]) -> Tensor:
    """Return a tensor of ``values`` that nobody may write to, in their memory if it is aligned."""
    with warnings.catch_warnings():
        # Torch cannot mark a tensor read-only; whoever wrote to this one would be killed by the
        # kernel, not hurt others.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return aligned(torch.from_numpy(values))


def _unpacked(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return read_only_tensor(value)
    if isinstance(value, dict):
        return {name: _unpacked(item) for name, item in value.items()}
    return value
