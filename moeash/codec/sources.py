"""Which symbols of a file are coded together, and in which order.

A *source* is a run of symbols with one table; a *pool* is all sources over one alphabet. Sources
come in one order everywhere: the shared tensors codebook by codebook, then the byte planes of the
kept tensors (specified in :mod:`moeash.codec.container`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.codec.entries import DTYPES, Entries, numpy_dtype
from moeash.codec.pools import PoolPlan, plan_pool
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


def shared_sources(entries: Entries, n_codebooks: int) -> list[list[int]]:
    """Return, for every codebook, the positions of the shared tensors with weights."""
    pools: list[list[int]] = [[] for _ in range(n_codebooks)]
    for position, entry in enumerate(entries):
        if entry.kind == "shared" and entry.size:
            pools[entry.codebook].append(position)
    return pools


def shared_pool(coder: str, shared: SharedWeights, positions: list[int]) -> PoolPlan | None:
    """Return the pool of shared tensors of one codebook, ``None`` without tensors.

    Raises:
        InputError: counts are negative.
    """
    if not positions:
        return None
    counts = []
    for position in positions:
        tensor = shared.tensors[position]
        assert isinstance(tensor, SharedTensor)
        if tensor.counts.min() < 0:
            raise InputError(f"{tensor.name!r} has negative counts")
        counts.append(tensor.counts)
    return plan_pool(coder, counts)


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
