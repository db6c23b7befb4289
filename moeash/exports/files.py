"""Read ``.moeash`` files back into arrays, torch modules and safetensors."""

import os
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from moeash.codec.container import read as read_container
from moeash.errors import ExportError
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


def replace_file(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it.

    Raises:
        ExportError: it cannot be written; an existing file is kept.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
