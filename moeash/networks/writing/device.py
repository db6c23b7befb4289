"""Bins assigned and weights written where the network lives, without a trip through the host.

The float weights are copied to the device once per study. For each candidate a codebook of a few
hundred entries travels, nothing else; indices come back only when a solution's fingerprint is
wanted. Every index is the one :func:`moeash.core.bins.assign_bins` gives: the same definition, in
float64, one IEEE operation a kernel, so that nothing is contracted.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moeash.core.bins import Grid, Indices
from moeash.core.codebook import Codebook, KeptTensor, State, index_dtype
from moeash.errors import InputError
from moeash.networks import memory
from moeash.networks.writing.inplace import slot

CHUNK = 1 << 24
"""Weights binned at a time: 128 MiB as float64, whatever the size of the network."""


def assign_bins_on_device(weights: Tensor, grid: Grid) -> Tensor:
    """Return the bin of each weight, as :func:`moeash.core.bins.assign_bins` defines it.

    Args:
        weights: ``(n,)`` float16, float32 or float64, finite, on any device.
        grid: the bins.

    Returns:
        ``(n,)`` int64 on the same device.
    """
    position = weights.double() - grid.origin
    position *= grid.per_width
    # fmax, not max: far outside a grid of one bin is infinity times 0, and still in that bin.
    zero = position.new_zeros(())
    position = torch.fmin(torch.fmax(position, zero), zero + (grid.n_bins - 1.0))
    return position.long()  # truncates


class DeviceWriter:
    """Writes candidates of one grid into a network on its device.

    Args:
        module: the network ``state`` was read from, where it will stay.
        state: its float weights.
        kept: its kept parameters as they are stored, the same for every candidate.

    Raises:
        InputError: a shared weight is not finite, or ``state`` is not that of ``module``.
    """

    def __init__(self, module: nn.Module, state: State, kept: Mapping[str, KeptTensor]) -> None:
        tensors = memory.own_tensors(module)
        self._kept = kept
        self._slots = {name: slot(tensors[name]) for name in kept}
        self._targets: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        for parameter in state:
            if parameter.role != "shared":
                continue
            assert parameter.values is not None
            target = tensors[parameter.name].detach()
            if tuple(target.shape) != parameter.shape:
                raise InputError(f"{parameter.name!r} has another shape in the network")
            weights = torch.tensor(np.ravel(parameter.values)).to(target.device)
            if not bool(torch.isfinite(weights).all()):
                raise InputError(f"{parameter.name!r} holds NaN or infinity")
            self._targets[parameter.name] = target
            self._weights[parameter.name] = weights
        self._kept_written = False

    def forget(self) -> None:
        """Write kept parameters anew next time: somebody else has written to the network."""
        self._kept_written = False

    def write(self, grid: Grid, lookup: Indices, codebook: Codebook) -> None:
        """Set every shared weight to the entry of its bin, and kept parameters as stored.

        Args:
            grid: the bins.
            lookup: ``(grid.n_bins,)`` entry of each bin.
            codebook: the entries.
        """
        if not self._kept_written:
            for name, tensor in self._kept.items():
                self._slots[name].put(tensor.decoded())
            self._kept_written = True
        by_bin = torch.tensor(codebook.entries[lookup])
        for name, target in self._targets.items():
            values = by_bin.to(target.device).to(target.dtype)
            if target.is_contiguous():
                flat = target.view(-1)
                for part, bins in self._bins(name, grid):
                    torch.index_select(values, 0, bins, out=flat[part])
            else:  # e.g. channels_last: gathered in C order, then copied into the memory's own
                gathered = torch.cat([values[bins] for _, bins in self._bins(name, grid)])
                target.copy_(gathered.view(target.shape))

    def indices(self, grid: Grid, lookup: Indices, n_entries: int) -> dict[str, NDArray[Any]]:
        """Return every shared weight's entry on the host, in the narrowest dtype."""
        dtype = index_dtype(n_entries)
        # torch has no arithmetic for uint16 and uint32; their bits travel as signed integers.
        signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
        table = torch.tensor(lookup.astype(np.int64))
        found = {}
        for name, target in self._targets.items():
            entry = table.to(target.device)
            parts = [entry[bins].to(signed) for _, bins in self._bins(name, grid)]
            found[name] = (
                torch.cat(parts).cpu().numpy().view(dtype) if parts else np.empty(0, dtype)
            )
        return found

    def _bins(self, name: str, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
        weights = self._weights[name]
        for start in range(0, weights.numel(), CHUNK):
            part = slice(start, min(start + CHUNK, weights.numel()))
            yield part, assign_bins_on_device(weights[part], grid)
