"""The weights of a checkpoint on one grid: counts, codebook, errors, and the indices when asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.codec.entries import Entries, Entry, numpy_dtype
from moeash.codec.layout import plan_kept
from moeash.codec.sources import KeptGroup
from moeash.codec.streaming.writing import CODER, Counted
from moeash.compression.weights.survey import (
    Survey,
    Surveyed,
    Tick,
    read_ahead,
    runs_of,
    ticking,
)
from moeash.core.bins import Grid, Indices, assign_bins
from moeash.core.codebook import Codebook
from moeash.core.progress import Progress
from moeash.core.statistics import codebook_of
from moeash.networks.streaming.checkpoint import Checkpoint
from moeash.networks.streaming.floats import all_values, as_floats, from_patterns, to_patterns
from moeash.networks.streaming.header import StoredTensor


@dataclass(frozen=True, eq=False)
class InBins:
    """The weights of one tensor by bins of a grid, those without weights left out.

    Attributes:
        bins: ``(n,)`` bins with weights.
        counts: ``(n,)`` weights in each.
        sums: ``(n,)`` their sums.
    """

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sharing:
    """The shared tensors of a checkpoint on one grid.

    Attributes:
        grid: the bins.
        codebook: of all tensors.
        lookup: the entry of each bin.
        counts: by name, how often each entry occurs.
        errors: by name, the norm of what the weights move by, relative to that of the weights.
    """

    grid: Grid
    codebook: Codebook
    lookup: Indices
    counts: Mapping[str, NDArray[np.int64]]
    errors: Mapping[str, float]


def grid_over(shared: Sequence[Surveyed], k: int) -> Grid:
    """Return k bins over the weights of some tensors.

    Raises:
        InputError: float64 cannot hold the bins.
    """
    return Grid.spanning(min(s.low for s in shared), max(s.high for s in shared), k)


def share(
    checkpoint: Checkpoint,
    shared: Sequence[Surveyed],
    k: int,
    *,
    n_threads: int,
    progress: Progress,
) -> Sharing:
    """Count some tensors on one grid of k bins; those of 16 bits are not read again.

    Raises:
        InputError: float64 or float32 cannot hold the bins.
    """
    grid = grid_over(shared, k)
    read = [one for one in shared if one.tensor.width > 2]
    total = sum(one.tensor.size_bytes for one in read)
    tick = ticking("counting weights in bins, MB", total, progress)
    counts = np.zeros(grid.n_bins, dtype=np.int64)
    sums = np.zeros(grid.n_bins)
    found: list[InBins] = []
    for one in shared:
        own = (
            _sketched(one, grid)
            if one.tensor.width == 2
            else _counted(checkpoint, one.tensor, grid, n_threads, tick)
        )
        counts[own.bins] += own.counts
        sums[own.bins] += own.sums
        found.append(own)
    binning = codebook_of(grid, counts[np.newaxis], sums)
    return Sharing(
        grid,
        binning.codebook,
        binning.lookup,
        {
            one.tensor.name: _by_entry(own, binning.lookup, len(binning.codebook), own.counts)
            for one, own in zip(shared, found, strict=True)
        },
        {
            one.tensor.name: _error(one, own, binning.codebook, binning.lookup)
            for one, own in zip(shared, found, strict=True)
        },
    )


def _sketched(one: Surveyed, grid: Grid) -> InBins:
    assert one.sketch is not None and one.sketch.is_exact
    bins = assign_bins(one.sketch.values, grid)
    counts = np.zeros(grid.n_bins, dtype=np.int64)
    np.add.at(counts, bins, one.sketch.counts)
    sums = np.zeros(grid.n_bins)
    np.add.at(sums, bins, one.sketch.counts * one.sketch.values)
    return _occupied(counts, sums)


def _counted(
    checkpoint: Checkpoint, tensor: StoredTensor, grid: Grid, n_threads: int, tick: Tick
) -> InBins:
    counts = np.zeros(grid.n_bins, dtype=np.int64)
    sums = np.zeros(grid.n_bins)
    for raw in read_ahead(checkpoint, tensor, tick):
        weights = as_floats(raw, tensor.dtype)
        bins = assign_bins(weights, grid, n_threads=n_threads)
        counts += np.bincount(bins, minlength=grid.n_bins)
        sums += np.bincount(bins, weights=weights, minlength=grid.n_bins)
    return _occupied(counts, sums)


def _occupied(counts: NDArray[np.int64], sums: NDArray[np.float64]) -> InBins:
    bins = np.flatnonzero(counts)
    return InBins(bins, counts[bins], sums[bins])


def _by_entry(own: InBins, lookup: Indices, n_entries: int, values: Any) -> NDArray[Any]:
    found = np.zeros(n_entries, dtype=values.dtype)
    np.add.at(found, lookup[own.bins], values)
    return found


def _error(one: Surveyed, own: InBins, codebook: Codebook, lookup: Indices) -> float:
    """Return the error of a tensor, of what its entries are in its dtype."""
    if not one.squares:
        moved = _as_stored(codebook, one.tensor.dtype)[lookup[own.bins]]
        return float(np.inf) if moved.any() else 0.0
    entries = _as_stored(codebook, one.tensor.dtype)[lookup[own.bins]]
    squared = one.squares - 2 * float(entries @ own.sums) + float((entries**2) @ own.counts)
    return float(np.sqrt(max(squared, 0.0) / one.squares))


def _as_stored(codebook: Codebook, dtype: str) -> NDArray[np.float64]:
    """Return the entries as a network of a dtype gets them."""
    entries = codebook.entries
    if dtype == "bfloat16":
        return from_patterns(to_patterns(entries)).astype(np.float64)
    if dtype == "float16":
        return entries.astype(np.float16).astype(np.float64)
    return entries.astype(np.float64)


class CheckpointContents:
    """The tensors of a checkpoint as its file holds them, read when they are asked for."""

    def __init__(self, checkpoint: Checkpoint, sharing: Sharing, *, n_threads: int) -> None:
        self._checkpoint = checkpoint
        self._sharing = sharing
        self._n_threads = n_threads
        self._by_pattern: dict[str, Indices] = {}

    def indices(self, position: int, begin: int, end: int) -> Indices:
        """Return the entries that weights of a shared tensor are nearest to."""
        tensor = self._checkpoint.tensors[position]
        raw = self._checkpoint.read(tensor, begin, end)
        if tensor.width == 2:
            table = self._by_pattern.get(tensor.dtype)
            if table is None:
                table = self._by_pattern[tensor.dtype] = self._of_patterns(tensor.dtype)
            return np.take(table, raw.view(np.uint16))
        return assign_bins(
            as_floats(raw, tensor.dtype),
            self._sharing.grid,
            lookup=self._sharing.lookup,
            n_threads=self._n_threads,
        )

    def _of_patterns(self, dtype: str) -> Indices:
        values = all_values(dtype)
        # No weight is infinite or NaN, but they are patterns too.
        finite = np.where(np.isfinite(values), values, np.float32(0))
        return assign_bins(finite, self._sharing.grid, lookup=self._sharing.lookup)

    def stored(self, position: int, begin: int, end: int) -> NDArray[Any]:
        """Return elements of a kept tensor; bfloat16 is stored as float32."""
        tensor = self._checkpoint.tensors[position]
        raw = self._checkpoint.read(tensor, begin, end)
        return from_patterns(raw) if tensor.dtype == "bfloat16" else raw


def counted(checkpoint: Checkpoint, survey: Survey, sharing: Sharing) -> Counted:
    """Return what the size of the file of a checkpoint follows from; kept tensors are read once.

    Args:
        checkpoint: the checkpoint.
        survey: which of its tensors are tied.
        sharing: which are shared, and how; all others are kept.
    """
    entries = _entries(checkpoint, survey, sharing)

    def byte_counts(group: KeptGroup) -> list[NDArray[np.int64]]:
        planes = np.zeros((group.n_planes, 256), dtype=np.int64)
        for position in group.positions:
            for begin, end in runs_of(checkpoint.tensors[position]):
                values = contents.stored(position, begin, end).astype(numpy_dtype(group.stored))
                rows = values.view(np.uint8).reshape(-1, group.n_planes)
                for plane in range(group.n_planes):
                    planes[plane] += np.bincount(rows[:, plane], minlength=256)
        return list(planes)

    contents = CheckpointContents(checkpoint, sharing, n_threads=1)
    counts = {
        position: sharing.counts[entry.name]
        for position, entry in enumerate(entries)
        if entry.kind == "shared"
    }
    kept = plan_kept(CODER, entries, byte_counts)
    return Counted(entries, (sharing.codebook,), counts, kept, checkpoint.notes)


def _entries(checkpoint: Checkpoint, survey: Survey, sharing: Sharing) -> Entries:
    positions = {tensor.name: i for i, tensor in enumerate(checkpoint.tensors)}
    entries = []
    for tensor in checkpoint.tensors:
        name, shape, dtype = tensor.name, tensor.shape, tensor.dtype
        if name in survey.tied:
            entries.append(Entry(name, "tied", target=positions[survey.tied[name]]))
        elif name in sharing.counts:
            entries.append(Entry(name, "shared", shape, dtype))
        else:
            stored = "float32" if dtype == "bfloat16" else dtype
            entries.append(Entry(name, "kept", shape, dtype, stored))
    return tuple(entries)
