"""Read ``.moeash`` files back into torch modules."""

import os
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from moeash.codec.container import read as read_container
from moeash.errors import InputError
from moeash.names import contained
from moeash.networks.devices import usable_device
from moeash.networks.loading.fitting import Own
from moeash.networks.loading.weights import Fitted, fit_weights
from moeash.networks.writing.decoding import tensors_of, write_weights
from moeash.options.arguments import checked

Network = TypeVar("Network", bound=nn.Module)


@overload
def load(
    path: str | Path,
    *,
    into: Network,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> Network: ...


@overload
def load(
    path: str | Path,
    *,
    into: None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> dict[str, Tensor]: ...


@contained()
@checked("into", "dtype", "max_bytes")
def load(
    path: str | Path,
    *,
    into: nn.Module | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> nn.Module | dict[str, Tensor]:
    """Load a ``.moeash`` file into a network of the same architecture, in place, or as tensors.

    The network and the one in the file may each be wrapped, by DataParallel or torch.compile for
    example, whatever the other is. Weights are decoded into the network's own memory, one tensor
    after another.

    Args:
        path: the file.
        into: the network.
        device: where the tensors go; default: where the network is, without one the CPU.
        dtype: of floating tensors; default: the network's, without one that of each tensor in the
            file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Returns:
        The network; without one every tensor by name, in state order, tied names as one tensor.

    Raises:
        ContainerError: the file is not readable.
        CheckpointError: it does not fit the network, which is left as it was; every kind of
            mismatch is named.
        InputError: there is no such device, or ``dtype`` is not a floating one.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> network = moeash.load(path, into=torch.nn.Linear(64, 32))
        >>> network.weight.unique().numel()
        4
        >>> sorted(moeash.load(path, dtype=torch.float16))
        ['bias', 'weight']
    """
    where = None if device is None else usable_device(device)
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype}; needed a floating one, such as torch.float16")
    shared = read_container(path, max_bytes=max_bytes).shared
    if into is None:
        return tensors_of(shared, where, dtype)
    fitted = fit_weights(into, shared, repr(os.fspath(path)))
    if where is not None or dtype is not None:
        _move(into, where, dtype)
        fitted = Fitted(Own.of(into), fitted.stored)
    write_weights(fitted, shared)
    return into


def _move(module: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Move a network as ``module.to`` does, which would make complex tensors real ones."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    module._apply(move)  # type: ignore[no-untyped-call]
