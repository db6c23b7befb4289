"""Which shared tensors the adaptive coder takes, along which trellises and in which units."""

from dataclasses import dataclass

import numpy as np

from moeash.codec.adaptive import coder
from moeash.codec.bits import varint
from moeash.codec.pools import PoolPlan
from moeash.codec.sources import counts_of, shared_pool
from moeash.codec.static.tables import FRACTION_BITS
from moeash.core.codebook import Codebook, SharedTensor, SharedWeights
from moeash.core.trellis import N_STATES, followed

TRELLIS_BITS = 2
"""Bits that say which of the trellises an adaptively coded tensor follows."""

assert len(N_STATES) == 1 << TRELLIS_BITS


@dataclass(frozen=True, eq=False)
class AdaptivePlan:
    """The shared tensors of one codebook that the adaptive coder takes.

    Attributes:
        positions: their positions in the directory, in order.
        trellises: states of the trellis each is coded along, 0 for none.
        shift: their magnitudes are in units of 2**shift.
        stream: their coded indices.
    """

    positions: tuple[int, ...]
    trellises: tuple[int, ...]
    shift: int
    stream: coder.Stream

    @property
    def section(self) -> bytes:
        """The stream as the file holds it, after its length and without its shift."""
        return varint(len(self.stream.data)) + self.stream.data


Selection = tuple[list[int], PoolPlan | None, AdaptivePlan | None]
"""Positions of the tensors that keep tables, their pool, and what the adaptive coder takes."""


def zero_entry(codebook: Codebook) -> int:
    """Return the entry nearest 0, the lower of two: where the adaptive coder counts from."""
    return int(np.abs(codebook.entries).argmin())


def select(shared: SharedWeights, positions: list[int], pool: PoolPlan) -> Selection:
    """Divide the tensors of one codebook between tables and the adaptive coder.

    Three ways are compared by their exact bits: all tables, all adaptive, and tables for just those
    tensors that cost the adaptive coder more.

    Args:
        shared: the network.
        positions: of the tensors of the codebook that have weights.
        pool: their tables.
    """
    everyone = _taken(shared, positions)
    table_bits = pool.payload / (1 << FRACTION_BITS) + pool.table_bits
    cheaper = table_bits < 8 * np.array(everyone.stream.tensor_bytes)
    ways: list[Selection] = [([], None, everyone), (positions, pool, None)]
    if cheaper.any() and not cheaper.all():
        losers = [p for p, lost in zip(positions, cheaper, strict=True) if lost]
        rest = [p for p, lost in zip(positions, cheaper, strict=True) if not lost]
        counts = counts_of(shared)
        tables = shared_pool("adaptive", [counts[position] for position in losers])
        ways.append((losers, tables, _taken(shared, rest)))
    return min(ways, key=_bits)


def _bits(way: Selection) -> float:
    _, tables, part = way
    total = 8.0 * len(part.section) if part else 0.0
    if tables:
        total += int(tables.payload.sum()) / (1 << FRACTION_BITS) + tables.all_table_bits
    return total


def _taken(shared: SharedWeights, positions: list[int]) -> AdaptivePlan:
    tensors = []
    trellises = []
    codebook = 0
    for position in positions:
        tensor = shared.tensors[position]
        assert isinstance(tensor, SharedTensor)
        codebook = tensor.codebook
        tensors.append((tensor.indices, tensor.shape))
        zero = zero_entry(shared.codebooks[codebook])
        values = tensor.indices.astype(np.int32) - np.int32(zero)
        trellises.append(followed(values, tensor.shape))
    book = shared.codebooks[codebook]
    zero = zero_entry(book)
    shift = coder.choose_shift(tensors, zero, trellises)
    stream = coder.encode_stream(tensors, len(book), zero, trellises, shift=shift)
    return AdaptivePlan(tuple(positions), tuple(trellises), shift, stream)
