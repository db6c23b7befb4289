"""Writing shared weights into a network's own memory, thousands of times without allocating it."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    SharedTensor,
    SharedWeights,
    State,
    TiedTensor,
)
from moeash.errors import InputError
from moeash.networks import memory
from moeash.networks.loading.checkpoints import write_tensors
from moeash.networks.parameters import dtype_name
from moeash.networks.writing.places import Places

CHUNK = 1 << 16
"""Weights gathered at a time: NumPy widens indices to 8 bytes, and this many stay in cache."""


class _Slot(Protocol):
    """One tensor of the network, ready to be overwritten."""

    def gather(self, codebook: Codebook, indices: NDArray[Any]) -> None:
        """Set every weight to its codebook entry."""
        ...

    def put(self, values: NDArray[Any]) -> None:
        """Set every element to its value, converted to the network's dtype."""
        ...


class WeightWriter:
    """Overwrites the weights of one network in place.

    After :meth:`write` every parameter and buffer equals :meth:`SharedWeights.decoded`, converted
    to the network's dtype (which only bfloat16 needs), bit for bit. Tied parameters stay tied.

    Nobody else may write to the network between two calls: a kept tensor whose array is the one
    written last time is not written again.

    Args:
        module: the network ``state`` was read from. Its parameters must stay where they are, which
            is checked: ``module.to(device)`` needs a new writer.
        state: its float weights, for :meth:`restore`.

    Raises:
        InputError: ``state`` does not describe ``module``.
    """

    def __init__(self, module: nn.Module, state: State) -> None:
        tensors = memory.own_tensors(module)
        tied = memory.ties(tensors)
        here = [(n, tuple(t.shape), dtype_name(t), tied.get(n)) for n, t in tensors.items()]
        there = [(p.name, p.shape, p.dtype, p.target) for p in state]
        if here != there:
            differs = next(
                (
                    f"{h} in the network, {t} in the state"
                    for h, t in zip(here, there, strict=False)
                    if h != t
                ),
                f"{len(here)} tensors in the network, {len(there)} in the state",
            )
            raise InputError(f"the state is not that of this {type(module).__name__}: {differs}")
        self._module, self._state = module, state
        self._places = Places.of(module)
        self._slots: dict[str, _Slot] = {
            name: slot(tensor) for name, tensor in tensors.items() if name not in tied
        }
        self._outline = [(p.name, p.shape, p.dtype, p.target) for p in state]
        self._last_kept: dict[str, NDArray[Any]] = {}

    def write(self, weights: SharedWeights) -> None:
        """Set the network's weights to ``weights``.

        Raises:
            InputError: ``weights`` has other tensors than the network; nothing is written.
            EvaluationError: the network's tensors have moved; likewise.
        """
        if [self._outline_of(t) for t in weights.tensors] != [
            (name, None, None, target) if target else (name, shape, dtype, None)
            for name, shape, dtype, target in self._outline
        ]:
            raise InputError("these shared weights belong to another network: tensors differ")
        self._places.check(f"what ran {type(self._module).__name__}")
        for tensor in weights.tensors:
            if isinstance(tensor, SharedTensor):
                self._slots[tensor.name].gather(weights.codebooks[tensor.codebook], tensor.indices)
                self._last_kept.pop(tensor.name, None)
        self._put(weights.kept)

    def write_kept(self, tensors: Iterable[KeptTensor]) -> None:
        """Set kept tensors and leave all others as they are.

        Args:
            tensors: of this network.

        Raises:
            EvaluationError: the network's tensors have moved; nothing is written.
        """
        self._places.check(f"what ran {type(self._module).__name__}")
        self._put(tensors)

    def _put(self, tensors: Iterable[KeptTensor]) -> None:
        for tensor in tensors:
            if self._last_kept.get(tensor.name) is not tensor.values:
                self._slots[tensor.name].put(tensor.decoded())
                self._last_kept[tensor.name] = tensor.values

    def restore(self) -> None:
        """Set the network's weights back to the float state, wherever they are now.

        Tensors that somebody has moved meanwhile are found by their names: the views of where they
        were may show memory that is no longer theirs.
        """
        if self._places.moved():
            write_float(self._module, self._state)
        else:
            for parameter in self._state:
                if parameter.values is not None:
                    self._slots[parameter.name].put(parameter.values)
        self._last_kept.clear()

    @staticmethod
    def _outline_of(
        tensor: SharedTensor | KeptTensor | TiedTensor,
    ) -> tuple[str, tuple[int, ...] | None, str | None, str | None]:
        if isinstance(tensor, TiedTensor):
            return tensor.name, None, None, tensor.target
        return tensor.name, tensor.shape, tensor.dtype, None


def slot(tensor: Tensor) -> _Slot:
    """Return the way to overwrite a tensor where it lives."""
    plain = tensor.detach()
    return _HostSlot(plain) if plain.device.type == "cpu" else _DeviceSlot(plain)


class _HostSlot:
    """A tensor in host memory, written through NumPy."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._dtype = tensor.dtype
        # NumPy has no bfloat16; its 16 bits are moved as they are.
        raw = tensor.view(torch.int16) if self._dtype is torch.bfloat16 else tensor
        self._view: NDArray[Any] = raw.numpy()
        self._flat = self._view.reshape(-1) if self._view.flags.c_contiguous else None

    def gather(self, codebook: Codebook, indices: NDArray[Any]) -> None:
        count_write(self._tensor)
        entries = self._convert(codebook.entries)
        if self._flat is None:  # e.g. channels_last; out= needs the memory's own order
            self._view[...] = entries[indices.reshape(self._view.shape)]
            return
        for start in range(0, indices.size, CHUNK):
            stop = start + CHUNK
            # mode="raise" would gather into a copy of out first.
            np.take(entries, indices[start:stop], out=self._flat[start:stop], mode="clip")

    def put(self, values: NDArray[Any]) -> None:
        count_write(self._tensor)
        self._view[...] = self._convert(values)

    def _convert(self, values: NDArray[Any]) -> NDArray[Any]:
        if self._dtype is torch.bfloat16:
            rounded = torch.tensor(values.astype(np.float32)).to(torch.bfloat16)
            return rounded.view(torch.int16).numpy()
        return values.astype(self._view.dtype, copy=False)


class _DeviceSlot:
    """A tensor in another device's memory: narrow indices and a small codebook are sent."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def gather(self, codebook: Codebook, indices: NDArray[Any]) -> None:
        target = self._tensor
        entries = torch.tensor(codebook.entries).to(target.device).to(target.dtype)
        weights = torch.index_select(entries, 0, widened(indices, target.device))
        target.copy_(weights.view(target.shape))

    def put(self, values: NDArray[Any]) -> None:
        self._tensor.copy_(torch.tensor(values))


def count_write(tensor: Tensor) -> None:
    """Count a write that torch does not see: what is derived from a tensor may be kept by it.

    Args:
        tensor: about to be written to through another view of its memory.
    """
    if not tensor.is_inference():  # nobody counts the writes to tensors made in inference mode
        torch.autograd.graph.increment_version(tensor)


def widened(indices: NDArray[Any], device: torch.device) -> Tensor:
    """Move indices at their own width, and widen them there to the int32 that torch looks up.

    uint16 and uint32 are barely supported by torch, so their bits travel as signed integers.
    """
    signed = {1: np.uint8, 2: np.int16, 4: np.int32}[indices.dtype.itemsize]
    moved = torch.tensor(indices.view(signed)).to(device)
    if indices.dtype.itemsize == 1:
        return moved.int()
    return moved.int().bitwise_and_(0xFFFF) if indices.dtype.itemsize == 2 else moved


def write_float(module: nn.Module, state: State) -> None:
    """Copy a float state into tensors of the same names and shapes, wherever they are."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    with torch.inference_mode():  # which tensors made in it may only be written to in
        for parameter in state:
            tensor = tensors.get(parameter.name)
            if parameter.values is None or tensor is None or tensor.shape != parameter.shape:
                continue
            tensor.copy_(torch.tensor(np.asarray(parameter.values)))


def load_into(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy decoded arrays, as a container gives them, into a network that fits.

    Args:
        module: any network with the same names and shapes, on any device; its dtypes may differ.
        arrays: by ``state_dict`` key; tied names hold equal arrays.

    Raises:
        CheckpointError: names or shapes differ; the network is unchanged.
    """
    tensors = {name: torch.tensor(np.asarray(values)) for name, values in arrays.items()}
    write_tensors(module, tensors, "the container")
