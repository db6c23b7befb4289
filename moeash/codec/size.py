"""The exact size of a file, from counts, with what each part and tensor costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moeash.codec.layout import CHECKSUM_BYTES, Layout, lay_out
from moeash.codec.pools import KIND_NAMES, PoolPlan
from moeash.codec.static.tables import FRACTION_BITS
from moeash.core.codebook import SharedWeights, entropy, n_used

NAMES_SHOWN = 3
"""Names of a group that a line shows."""


@dataclass(frozen=True)
class TensorSize:
    """What one shared tensor, or one group of kept tensors coded together, costs.

    Attributes:
        names: full names of its tensors; those of a group end alike, as all biases do.
        role: ``"shared"`` or ``"kept"``.
        n_elements: number of elements.
        bits: payload and own tables; the pool's table belongs to no tensor.
        table: ``"own"``, ``"global"``, ``"flat"``, ``"constant"``, or ``"adaptive"`` without one;
            one per byte plane if kept.
    """

    names: tuple[str, ...]
    role: Literal["shared", "kept"]
    n_elements: int
    bits: float
    table: str

    @property
    def name(self) -> str:
        """The full names in one line; of many tensors the first few."""
        if len(self.names) <= NAMES_SHOWN + 1:
            return ", ".join(self.names)
        more = len(self.names) - NAMES_SHOWN
        return f"{', '.join(self.names[:NAMES_SHOWN])} and {more} more"

    @property
    def size_bytes(self) -> float:
        """Bytes; a fraction, as tensors share one stream."""
        return self.bits / 8

    @property
    def bits_per_weight(self) -> float:
        """Bits per element."""
        return self.bits / self.n_elements


@dataclass(frozen=True)
class SizeReport:
    """The exact size of a file and where it goes; the parts sum to ``total``.

    Attributes:
        total: bytes of the file.
        header: bytes of prefix, section lengths and directory.
        codebooks: bytes of the codebooks.
        tables: bytes of the shared tensors' tables.
        indices: bytes of the coded indices, with the stream's slack and padding.
        kept: bytes of the kept tensors, with their tables.
        checksum: bytes of the checksum.
        tensors: what each shared tensor, then each group of kept tensors costs.
        n_shared: number of shared weights.
        n_kept: number of kept elements.
        n_entries: codebook entries that some weight uses.
        entropy: of order 0, in bits per shared weight, see :func:`moeash.core.codebook.entropy`;
            ``bits_per_weight`` is what the coder made of it.
        original_bytes: bytes of the same state with floats as float32.
        coder: the entropy coder.
        notes: short texts stored along.
    """

    total: int
    header: int
    codebooks: int
    tables: int
    indices: int
    kept: int
    checksum: int
    tensors: tuple[TensorSize, ...]
    n_shared: int
    n_kept: int
    n_entries: int
    entropy: float
    original_bytes: int
    coder: str
    notes: Mapping[str, str]

    @property
    def ratio(self) -> float:
        """Bytes of the same state with floats as float32, over the bytes of the file."""
        return self.original_bytes / self.total

    @property
    def bits_per_weight(self) -> float:
        """Bits of indices and their tables per shared weight; 0 without shared weights."""
        return 8 * (self.tables + self.indices) / self.n_shared if self.n_shared else 0.0


def size(
    shared: SharedWeights, *, coder: str = "ans", notes: Mapping[str, str] | None = None
) -> SizeReport:
    """Return the exact size of the file :func:`moeash.codec.container.encode` makes.

    Only counts are read, never indices: cost does not grow with the number of weights. The adaptive
    coder alone has to run, at some 5 million weights a second.

    Args:
        shared: the network.
        coder: ``"ans"``, ``"huffman"`` or ``"adaptive"``.
        notes: as given to ``encode``.

    Raises:
        InputError: as ``encode``.
    """
    layout = lay_out(shared, coder=coder, notes=notes)
    contents = Totals(
        shared.n_shared, shared.n_kept, shared.usage(), shared.original_bytes, notes or {}
    )
    return report_of(layout, contents)


@dataclass(frozen=True)
class Totals:
    """What a network holds in all; the other attributes are those of :class:`SizeReport`.

    Attributes:
        usage: per codebook how many weights use each entry.
    """

    n_shared: int
    n_kept: int
    usage: Sequence[NDArray[np.int64]]
    original_bytes: int
    notes: Mapping[str, str]


def report_of(layout: Layout, totals: Totals) -> SizeReport:
    """Return the sizes of a file by its layout."""
    n_shared = totals.n_shared
    kept_payload = layout.kept.payload >> FRACTION_BITS
    kept_stream = kept_payload // 8 if n_shared else layout.payload_bytes
    codebooks = layout.codebook_bits // 8
    kept_tables = layout.kept.table_bits // 8
    return SizeReport(
        total=layout.total_bytes,
        header=layout.header_bytes,
        codebooks=codebooks,
        tables=layout.model_bytes - codebooks - kept_tables,
        indices=layout.payload_bytes - kept_stream + len(layout.adaptive_section),
        kept=kept_stream + kept_tables,
        checksum=CHECKSUM_BYTES,
        tensors=(*_shared_sizes(layout), *_kept_sizes(layout)),
        n_shared=n_shared,
        n_kept=totals.n_kept,
        n_entries=n_used(totals.usage),
        entropy=entropy(totals.usage),
        original_bytes=totals.original_bytes,
        coder=layout.coder,
        notes=dict(totals.notes),
    )


def _shared_sizes(layout: Layout) -> list[TensorSize]:
    found: dict[int, tuple[float, str]] = {}
    for positions, pool in zip(layout.sources, layout.pools, strict=True):
        if pool is not None:
            kinds = [KIND_NAMES[kind] for kind in pool.kinds]
            found.update(zip(positions, zip(_bits(pool), kinds, strict=True), strict=True))
    for part in filter(None, layout.adaptive):
        for position, n_bytes in zip(part.positions, part.stream.tensor_bytes, strict=True):
            found[position] = 8.0 * n_bytes, "adaptive"
    return [
        TensorSize((layout.entries[p].name,), "shared", layout.entries[p].size, *found[p])
        for p in sorted(found)
    ]


def _kept_sizes(layout: Layout) -> list[TensorSize]:
    sizes = []
    for groups, planes in zip(layout.kept.groups, layout.kept.pools, strict=True):
        by_plane = [_bits(pool) for pool in planes]
        for source, group in enumerate(groups):
            entries = [layout.entries[position] for position in group.positions]
            names = tuple(entry.name for entry in entries)
            n = sum(entry.size for entry in entries)
            kinds = "/".join(KIND_NAMES[pool.kinds[source]] for pool in planes)
            bits = sum(plane[source] for plane in by_plane)
            sizes.append(TensorSize(names, "kept", n, bits, kinds))
    return sizes


def _bits(pool: PoolPlan) -> list[float]:
    bits = pool.payload / (1 << FRACTION_BITS) + pool.table_bits
    out: list[float] = bits.tolist()
    return out
