"""Read ``.moeash`` files back into arrays, torch modules and safetensors."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from moeash.codec.container import read as read_container
from moeash.codec.replace import replace_file
from moeash.networks.inplace import load_into as load_arrays


def load_into(module: nn.Module, path: str | Path) -> nn.Module:
    """Load a ``.moeash`` file into a module of the same architecture, in place.

    Raises:
        ContainerError: the file is not readable.
        CheckpointError: it does not fit the module, which is left as it was.
    """
    load_arrays(module, read_container(path).shared.decoded())
    return module


def decompress(path: str | Path, to: str | Path) -> dict[str, NDArray[Any]]:
    """Write the decoded tensors of a ``.moeash`` file as safetensors, and return them.

    Tied tensors are written once under each name. bfloat16 tensors are written as float32.

    Raises:
        ContainerError: the file is not readable.
        ExportError: the target cannot be written; an existing file is kept.
    """
    from safetensors.numpy import save

    arrays = read_container(path).shared.decoded()
    replace_file(Path(to), save({name: array.copy() for name, array in arrays.items()}))
    return arrays
