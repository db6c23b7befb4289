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

    What is unpickled may be read-only memory: its tensors must not be written to.
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


def read_only_tensor(values: NDArray[Any]) -> Tensor:
    """Return a tensor in the memory of ``values``, which nobody may write to."""
    with warnings.catch_warnings():
        # Torch cannot mark a tensor read-only; whoever wrote to this one would be killed by the
        # kernel, not hurt others.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values)


def _unpacked(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return read_only_tensor(value)
    if isinstance(value, dict):
        return {name: _unpacked(item) for name, item in value.items()}
    return value
