"""Read ``.moeash`` files back into arrays, torch modules and safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from moeash.codec.container import read as read_container
from moeash.errors import ExportError
from moeash.files import replacing, write_flushed
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
        ExportError: the target cannot be written, or safetensors cannot hold the tensors; an
            existing file is kept.
    """
    arrays = read_container(path).shared.decoded()
    with replacing(to) as temporary:
        write_flushed(temporary, _safetensors(arrays))
        _check_safetensors(temporary, arrays)
    return arrays


def _safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    from safetensors import SafetensorError
    from safetensors.numpy import save

    if "__metadata__" in arrays:
        raise ExportError(
            "safetensors cannot hold a tensor named '__metadata__'; read the file with "
            "moeash.read, which gives its arrays by name"
        )
    try:
        # Copies: safetensors takes arrays in C order that own their memory.
        content: bytes = save({name: array.copy() for name, array in arrays.items()})
    except (SafetensorError, KeyError, ValueError, TypeError) as exc:
        raise ExportError(
            f"safetensors cannot hold these tensors: {exc}; read the file with moeash.read"
        ) from exc
    return content


def _check_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Read a file back and compare it with what it should hold.

    Raises:
        ExportError: it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        written = load_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError) as exc:
        raise ExportError(f"the safetensors file written cannot be read: {exc}") from exc
    for name, array in arrays.items():
        other = written.get(name)
        if (
            other is None
            or (other.dtype, other.shape) != (array.dtype, array.shape)
            or other.tobytes() != array.tobytes()
        ):
            raise ExportError(f"the safetensors file written does not hold {name!r} as decoded")
    if len(written) != len(arrays):
        raise ExportError("the safetensors file written holds other tensors than were decoded")
