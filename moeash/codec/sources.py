"""Which symbols of a file are coded together, and in which order.

A *source* is a run of symbols with one table; a *pool* is all sources over one alphabet. Sources
come in one order everywhere: the shared tensors codebook by codebook, then the byte planes of the
kept tensors (specified in :mod:`moeash.codec.container`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.codec.entries import DTYPES, Entries, numpy_dtype
from moeash.codec.pools import Pool, PoolPlan, plan_pool
from moeash.codec.static.tables import Table
from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights
from moeash.errors import InputError


@dataclass(frozen=True)
class KeptGroup:
    """Kept tensors whose bytes are coded together.

    Attributes:
        stored: their dtype name in the file.
        positions: their positions in the directory.
    """

    stored: str
    positions: tuple[int, ...]

    @property
    def n_planes(self) -> int:
        """Bytes per element."""
        return numpy_dtype(self.stored).itemsize


@dataclass(frozen=True, eq=False)
class Coded:
    """One source of the payload, in file order.

    Attributes:
        positions: of the tensors whose elements it has, one after another.
        plane: which byte of the elements, from the lowest; None for indices.
        size: number of symbols.
        table: its table, one object for all its users; None for a constant, which takes no payload.
        constant: the only symbol, without a table.
    """

    positions: tuple[int, ...]
    plane: int | None
    size: int
    table: Table | None
    constant: int = 0


def coded(pool: Pool, source: int, positions: tuple[int, ...], plane: int | None) -> Coded:
    """Return a source of a pool."""
    size, constant = int(pool.sizes[source]), pool.constants.get(source, 0)
    return Coded(positions, plane, size, pool.table(source), constant)


def shared_sources(entries: Entries, n_codebooks: int) -> list[list[int]]:
    """Return, for every codebook, the positions of the shared tensors with weights."""
    pools: list[list[int]] = [[] for _ in range(n_codebooks)]
    for position, entry in enumerate(entries):
        if entry.kind == "shared" and entry.size:
            pools[entry.codebook].append(position)
    return pools


def shared_pool(coder: str, counts: Sequence[NDArray[np.int64]]) -> PoolPlan | None:
    """Return the pool of shared tensors of one codebook by their counts, ``None`` without any."""
    return plan_pool(coder, counts) if counts else None


def counts_of(shared: SharedWeights) -> dict[int, NDArray[np.int64]]:
    """Return the counts of every shared tensor by its position.

    Raises:
        InputError: counts are negative.
    """
    counts = {}
    for position, tensor in enumerate(shared.tensors):
        if isinstance(tensor, SharedTensor):
            if tensor.counts.min() < 0:
                raise InputError(f"{tensor.name!r} has negative counts")
            counts[position] = tensor.counts
    return counts


def kept_sources(entries: Entries) -> list[list[KeptGroup]]:
    """Return, for every stored dtype in the order of their codes, its groups.

    A group is the tensors of one dtype with one leaf name: all ``running_var`` of a network
    resemble each other more than they resemble its ``bias``.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for position, entry in enumerate(entries):
        if entry.kind == "kept" and entry.size:
            groups.setdefault(entry.stored, {}).setdefault(entry.leaf, []).append(position)
    return [
        [KeptGroup(stored, tuple(positions)) for positions in groups[stored].values()]
        for stored in sorted(groups, key=DTYPES.index)
    ]


def group_bytes(shared: SharedWeights, group: KeptGroup) -> NDArray[np.uint8]:
    """Return ``(elements, n_planes)`` the little-endian bytes of a group."""
    dtype = numpy_dtype(group.stored)
    chunks = []
    for position in group.positions:
        tensor = shared.tensors[position]
        assert isinstance(tensor, KeptTensor)
        chunks.append(np.ascontiguousarray(tensor.values, dtype=dtype).tobytes())
    return np.frombuffer(b"".join(chunks), dtype=np.uint8).reshape(-1, dtype.itemsize)
