"""Between a layout and the bytes: the sources of a file, their tables, the arrays they fill."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.codec.adaptive import coder as adaptive
from moeash.codec.adaptive.selection import TRELLIS_BITS, zero_entry
from moeash.codec.bits import BitReader, BitWriter, Cursor
from moeash.codec.entries import Entries, numpy_dtype
from moeash.codec.layout import Layout
from moeash.codec.pools import Coding, Pool
from moeash.codec.sources import (
    Coded,
    KeptGroup,
    coded,
    group_bytes,
    kept_sources,
    shared_sources,
)
from moeash.codec.static.tables import Rows, Table
from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    SharedTensor,
    SharedWeights,
    Tensor,
    TiedTensor,
    index_dtype,
)
from moeash.core.trellis import N_STATES
from moeash.errors import CorruptContainerError, InputError

_CHUNK = 1 << 20

Source = tuple[Callable[[], NDArray[np.int32]], Table, int]


def write_tables(bits: BitWriter, layout: Layout) -> list[Coded]:
    """Write all tables and return the sources they are of, in file order."""
    coding = layout.coding
    with_resolution = len(coding.RESOLUTIONS) > 1
    sources: list[Coded] = []
    if layout.has_choices:
        bits.fixed(int(layout.on_trellises), 1)
    for positions, pool_plan, part in zip(
        layout.sources, layout.pools, layout.adaptive, strict=True
    ):
        taken = dict(zip(part.positions, part.trellises, strict=True)) if part else {}
        if layout.has_choices:
            for position in sorted([*positions, *taken]):
                bits.fixed(int(position in taken), 1)
                if position in taken and layout.on_trellises:
                    bits.fixed(N_STATES.index(taken[position]), TRELLIS_BITS)
        if pool_plan is None:
            continue
        pool = pool_plan.build(coding)
        pool.write(bits, with_resolution=with_resolution)
        sources += [coded(pool, i, (position,), None) for i, position in enumerate(positions)]
    for groups, planes in zip(layout.kept.groups, layout.kept.pools, strict=True):
        for plane, pool_plan in enumerate(planes):
            pool = pool_plan.build(coding)
            pool.write(bits, with_resolution=with_resolution)
            sources += [coded(pool, i, g.positions, plane) for i, g in enumerate(groups)]
    return sources


def symbols_of(
    shared: SharedWeights, kept: Sequence[Sequence[KeptGroup]], sources: Sequence[Coded]
) -> list[Source]:
    """Return what the payload of a network in memory is coded from, without constants.

    Args:
        shared: the network.
        kept: groups of its kept tensors.
        sources: from :func:`write_tables`.

    Raises:
        InputError: a tensor's counts are not those of its indices.
    """
    for counted in shared.shared:
        _check_counts(counted)
    groups = {group.positions: group for of_dtype in kept for group in of_dtype}
    rows: dict[tuple[int, ...], NDArray[np.uint8]] = {}
    found: list[Source] = []
    for source in sources:
        if source.plane is None:
            tensor = shared.tensors[source.positions[0]]
            assert isinstance(tensor, SharedTensor)
            symbols: NDArray[Any] = tensor.indices
        else:
            if source.positions not in rows:
                rows[source.positions] = group_bytes(shared, groups[source.positions])
            symbols = rows[source.positions][:, source.plane]
        if source.table is not None:
            found.append((_ranker(symbols, source.table), source.table, source.size))
    return found


def _ranker(symbols: NDArray[Any], table: Table) -> Callable[[], NDArray[np.int32]]:
    return lambda: np.take(ranks_of(table), symbols)


def ranks_of(table: Table) -> NDArray[np.int32]:
    """Return ``(alphabet,)`` the rank of every symbol of a table, -1 for those it has not."""
    rank = np.full(table.alphabet, -1, dtype=np.int32)
    rank[table.symbols] = np.arange(table.symbols.size, dtype=np.int32)
    return rank


def _check_counts(tensor: SharedTensor) -> None:
    # The size promised was computed from counts; indices that do not have them cannot keep it.
    if not np.array_equal(_histogram(tensor.indices, tensor.counts.size), tensor.counts):
        raise InputError(f"{tensor.name!r} has counts that are not those of its indices")


def _histogram(indices: NDArray[Any], n_entries: int) -> NDArray[np.int64]:
    counts = np.zeros(n_entries, dtype=np.int64)
    for begin in range(0, indices.size, _CHUNK):
        part = np.bincount(indices[begin : begin + _CHUNK], minlength=n_entries)
        if part.size > n_entries:
            return part
        counts += part
    return counts


@dataclass(frozen=True)
class Taken:
    """The shared tensors of one codebook that the adaptive coder took.

    Attributes:
        codebook: its position.
        trellises: by position in the directory, states of the trellis a tensor follows, 0 for none.
    """

    codebook: int
    trellises: dict[int, int]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of a file being read, by position in the directory.

    Attributes:
        indices: ``(n,)`` of every shared tensor with weights.
        groups: groups of kept tensors and their bytes, ``(elements, n_planes)``.
        counts: of every shared tensor with weights, once it is decoded.
        targets: in file order, the table and the array of every source that is coded.
        tensors: positions of the shared tensors that the targets are; None for bytes.
        adaptive: what the adaptive coder took, codebook by codebook.
    """

    indices: dict[int, NDArray[Any]] = field(default_factory=dict)
    groups: list[tuple[KeptGroup, NDArray[np.uint8]]] = field(default_factory=list)
    counts: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    targets: list[tuple[Table, NDArray[Any]]] = field(default_factory=list)
    tensors: list[int | None] = field(default_factory=list)
    adaptive: list["Taken"] = field(default_factory=list)

    def add(self, source: Coded, out: NDArray[Any]) -> None:
        """Let a source fill ``out``; a source of one symbol is filled at once."""
        if source.table is None:
            out[:] = source.constant
        else:
            self.targets.append((source.table, out))
            self.tensors.append(source.positions[0] if source.plane is None else None)

    def fill(self, coding: Coding, payload: bytes, salt: int) -> None:
        """Decode the payload into the arrays.

        Raises:
            CorruptContainerError: the payload is no stream of these tables.
        """
        sizes = [(table, out.size) for table, out in self.targets]
        check_length(coding, sizes, len(payload))
        found = coding.fill(payload, salt, self.targets)
        for position, (table, _), counts in zip(self.tensors, self.targets, found, strict=True):
            if position is not None:
                self.counts[position] = np.zeros(table.alphabet, dtype=np.int64)
                self.counts[position][table.symbols] = counts

    def fill_adaptive(
        self, section: Cursor, entries: Entries, books: tuple[Codebook, ...], *, in_units: bool
    ) -> None:
        """Decode the adaptive coder's section.

        Raises:
            CorruptContainerError: it is not the streams of these tensors.
        """
        shifts = []
        for taken in self.adaptive:
            book = books[taken.codebook]
            shifts.append(section.take(1)[0] if in_units else 0)
            if shifts[-1] > adaptive.MAX_SHIFT:
                raise CorruptContainerError(f"the file claims units of 2**{shifts[-1]}")
            decoded = adaptive.decode(
                section.take(section.varint()),
                [entries[position].shape for position in taken.trellises],
                len(book),
                zero_entry(book),
                list(taken.trellises.values()),
                shift=shifts[-1],
            )
            self.indices.update(zip(taken.trellises, decoded, strict=True))
        if in_units and not any(shifts):
            raise CorruptContainerError("the file claims units, but no stream is in any")
        if section.remaining:
            raise CorruptContainerError(f"{section.remaining} bytes follow the adaptive streams")


def check_length(coding: Coding, sources: Sequence[tuple[Table, int]], n_bytes: int) -> None:
    """Refuse a payload shorter than if every symbol were the cheapest of its table.

    Raises:
        CorruptContainerError: it is.
    """
    coded = [(table, size) for table, size in sources if table.symbols.size > 1]
    cheapest: dict[int, int] = {}
    for resolution in coding.RESOLUTIONS:
        tables = list({id(t): t for t, _ in coded if t.resolution == resolution}.values())
        if tables:
            rows = Rows.listed(tables)
            levels = np.concatenate([table.levels for table in tables])
            costs = np.minimum.reduceat(coding.costs(rows, levels, resolution), rows.starts)
            cheapest.update(zip(map(id, tables), costs.tolist(), strict=True))
    total = sum(size * cheapest[id(table)] for table, size in coded)
    least = coding.payload_bytes(total, sum(size for _, size in coded))
    if n_bytes < least:
        raise CorruptContainerError(
            f"the coded indices take {least} bytes at least, but the file has {n_bytes}"
        )


def read_sources(
    bits: BitReader,
    entries: Entries,
    books: Sequence[Codebook],
    coding: Coding,
    *,
    has_choices: bool,
) -> tuple[list[Coded], list[Taken]]:
    """Read all tables; nothing is allocated for what they code.

    Args:
        bits: the model, behind the codebooks.
        entries: the directory.
        books: the codebooks.
        coding: of the tables.
        has_choices: whether every shared tensor says if the adaptive coder took it.

    Returns:
        The sources in file order, and what the adaptive coder took, codebook by codebook.

    Raises:
        CorruptContainerError: the bits are no such tables.
    """
    sources: list[Coded] = []
    adaptive: list[Taken] = []
    on_trellises = bool(has_choices and bits.fixed(1))
    for codebook, positions in enumerate(shared_sources(entries, len(books))):
        if has_choices:
            taken = {
                position: N_STATES[bits.fixed(TRELLIS_BITS) if on_trellises else 0]
                for position in positions
                if bits.fixed(1)
            }
            if taken:
                adaptive.append(Taken(codebook, taken))
            positions = [position for position in positions if position not in taken]
        if not positions:
            continue
        sizes = [entries[position].size for position in positions]
        pool = Pool.read(bits, len(books[codebook]), sizes, coding)
        sources += [coded(pool, i, (position,), None) for i, position in enumerate(positions)]
    if on_trellises and not any(any(taken.trellises.values()) for taken in adaptive):
        raise CorruptContainerError("the file claims trellises, but no tensor follows one")
    for groups in kept_sources(entries):
        sizes = [sum(entries[position].size for position in group.positions) for group in groups]
        for plane in range(groups[0].n_planes):
            pool = Pool.read(bits, 256, sizes, coding)
            sources += [coded(pool, i, g.positions, plane) for i, g in enumerate(groups)]
    return sources, adaptive


def read_tables(
    bits: BitReader,
    entries: Entries,
    books: tuple[Codebook, ...],
    coding: Coding,
    *,
    has_choices: bool,
) -> Arrays:
    """Read all tables and allocate the arrays, whose sizes were checked before.

    Raises:
        CorruptContainerError: as :func:`read_sources`.
    """
    sources, adaptive = read_sources(bits, entries, books, coding, has_choices=has_choices)
    arrays = Arrays(adaptive=adaptive)
    groups = {group.positions: group for of_dtype in kept_sources(entries) for group in of_dtype}
    rows = {
        positions: np.empty(
            (sum(entries[position].size for position in positions), group.n_planes), dtype=np.uint8
        )
        for positions, group in groups.items()
    }
    arrays.groups.extend((group, rows[positions]) for positions, group in groups.items())
    for source in sources:
        if source.plane is None:
            (position,) = source.positions
            n_entries = len(books[entries[position].codebook])
            out = arrays.indices[position] = np.empty(source.size, dtype=index_dtype(n_entries))
            arrays.add(source, out)
        else:
            arrays.add(source, rows[source.positions][:, source.plane])
    return arrays


def assemble(entries: Entries, books: tuple[Codebook, ...], arrays: Arrays) -> SharedWeights:
    """Return the network the arrays hold.

    Raises:
        CorruptContainerError: names repeat, or values that no array of their dtype holds.
    """
    values: dict[int, NDArray[Any]] = {}
    for group, row in arrays.groups:
        little = row.reshape(-1).view(numpy_dtype(group.stored))
        if group.stored == "bool" and row.max() > 1:
            raise CorruptContainerError("a kept bool is neither 0 nor 1; the file is damaged")
        flat = little.astype(np.dtype(group.stored), copy=False)
        begin = 0
        for position in group.positions:
            entry = entries[position]
            values[position] = flat[begin : begin + entry.size].reshape(entry.shape)
            begin += entry.size
    tensors: list[Tensor] = []
    for position, entry in enumerate(entries):
        if entry.kind == "tied":
            tensors.append(TiedTensor(entry.name, entries[entry.target].name))
        elif entry.kind == "kept":
            array = values.get(position, np.empty(entry.shape, dtype=np.dtype(entry.stored)))
            tensors.append(KeptTensor(entry.name, entry.shape, entry.dtype, array, entry.exponent))
        else:
            n_entries = len(books[entry.codebook])
            indices = arrays.indices.get(position, np.empty(0, dtype=index_dtype(n_entries)))
            counts = arrays.counts.get(position)
            if counts is None:
                counts = _histogram(indices, n_entries)
            tensors.append(
                SharedTensor(entry.name, entry.shape, entry.dtype, entry.codebook, indices, counts)
            )
    try:
        return SharedWeights(books, tuple(tensors))
    except InputError as exc:
        raise CorruptContainerError(f"the file holds no valid network: {exc}") from exc
