"""Read ``.moeash`` files back into torch modules."""

from pathlib import Path

from torch import nn

from moeash.codec.container import read as read_container
from moeash.networks.loading.checkpoints import rename
from moeash.networks.writing.inplace import load_into as load_arrays


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
