"""Read ``.moeash`` files back into arrays, torch modules and safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from moeash.codec.container import read as read_container
from moeash.errors import ExportError
from moeash.files import replacing, write_flushed
from moeash.networks.loading.checkpoints import rename
from moeash.networks.writing.inplace import load_into as load_arrays

METADATA = "__metadata__"
"""The name under which safetensors keeps notes."""


def load_into(module: nn.Module, path: str | Path, *, max_bytes: int | None = None) -> nn.Module:
    """Load a ``.moeash`` file into a module of the same architecture, in place.

    Either may be wrapped, by DataParallel or torch.compile for example, and the other plain.

    Args:
        module: the network.
        path: the file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file is not readable.
        CheckpointError: it does not fit the module, which is left as it was.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> network = moeash.load_into(torch.nn.Linear(64, 32), path)
        >>> network.weight.unique().numel()
        4
    """
    arrays = read_container(path, max_bytes=max_bytes).shared.decoded()
    load_arrays(module, rename(arrays, module))
    return module


def decompress(
    path: str | Path, to: str | Path, *, max_bytes: int | None = None
) -> dict[str, NDArray[Any]]:
    """Write the decoded tensors of a ``.moeash`` file as safetensors, and return them.

    Tied tensors are written once under each name. bfloat16 tensors are written as float32. What was
    written is read back and compared before the file gets its name.

    Args:
        path: the file.
        to: target.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file is not readable.
        ExportError: the target cannot be written, or safetensors cannot hold the tensors; an
            existing file is kept.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> arrays = moeash.decompress(path, path + ".safetensors")
        >>> from safetensors.numpy import load_file
        >>> sorted(load_file(path + ".safetensors")) == sorted(arrays) == ["bias", "weight"]
        True
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    arrays = read_container(path, max_bytes=max_bytes).shared.decoded()
    if METADATA in arrays:
        raise ExportError(
            f"safetensors keeps the name {METADATA!r} for itself, but a tensor has it; use "
            "moeash.read, which gives the arrays by name"
        )
    try:
        content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except (SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise ExportError(
            f"safetensors cannot hold these tensors: {exc}; use moeash.read, which gives the "
            "arrays by name"
        ) from exc
    with replacing(to) as temporary:
        write_flushed(temporary, content)
        _check_safetensors(temporary, arrays)
    return arrays


def _check_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Read a file back, tensor by tensor, and compare it with what it should hold.

    Raises:
        ExportError: it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as written:
            if set(written.keys()) != arrays.keys():
                raise ExportError("the safetensors file written holds other names than decoded")
            for name, array in arrays.items():
                if not _same(written.get_tensor(name), array):
                    raise ExportError(f"the safetensors file written holds another {name!r}")
    except (SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise ExportError(f"the safetensors file written cannot be read: {exc}") from exc


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Compare bit for bit: NaN equals itself, and 0 is not -0."""
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and one.tobytes() == other.tobytes()
