"""Between a layout and the bytes: the sources of a file, their tables, the arrays they fill."""

from collections.abc import Callable
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
from moeash.codec.sources import KeptGroup, group_bytes, kept_sources, shared_sources
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

Source = tuple[Callable[[], NDArray[np.int32]], Table]


def write_tables(bits: BitWriter, layout: Layout) -> list[Source]:
    """Write all tables and return what the payload is coded from.

    Raises:
        InputError: a tensor's counts are not those of its indices.
    """
    shared, coding = layout.shared, layout.coding
    with_resolution = len(coding.RESOLUTIONS) > 1
    sources: list[Source] = []
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
        for position in taken:
            tensor = shared.tensors[position]
            assert isinstance(tensor, SharedTensor)
            _check_counts(tensor)
        if pool_plan is None:
            continue
        pool = pool_plan.build(coding)
        pool.write(bits, with_resolution=with_resolution)
        for source, position in enumerate(positions):
            tensor = shared.tensors[position]
            assert isinstance(tensor, SharedTensor)
            _check_counts(tensor)
            table = pool.table(source)
            if table is not None:
                sources.append((_ranker(tensor.indices, table), table))
    for groups, planes in zip(layout.kept.groups, layout.kept.pools, strict=True):
        rows = [group_bytes(shared, group) for group in groups]
        for plane, pool_plan in enumerate(planes):
            pool = pool_plan.build(coding)
            pool.write(bits, with_resolution=with_resolution)
            for source, row in enumerate(rows):
                table = pool.table(source)
                if table is not None:
                    sources.append((_ranker(row[:, plane], table), table))
    return sources


def _ranker(symbols: NDArray[Any], table: Table) -> Callable[[], NDArray[np.int32]]:
    def ranks() -> NDArray[np.int32]:
        rank = np.full(table.alphabet, -1, dtype=np.int32)
        rank[table.symbols] = np.arange(table.symbols.size, dtype=np.int32)
        return np.take(rank, symbols)

    return ranks


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
        targets: in file order, the table and the array of every source that is coded.
        adaptive: what the adaptive coder took, codebook by codebook.
        occurrences: of coded sources, by the ``id`` of their array: symbols and how often each is
            in it.
    """

    indices: dict[int, NDArray[Any]] = field(default_factory=dict)
    groups: list[tuple[KeptGroup, NDArray[np.uint8]]] = field(default_factory=list)
    targets: list[tuple[Table, NDArray[Any]]] = field(default_factory=list)
    adaptive: list["Taken"] = field(default_factory=list)
    occurrences: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict
    )

    def add(self, pool: Pool, source: int, out: NDArray[Any]) -> None:
        """Let a source of a pool fill ``out``; a source of one symbol is filled at once."""
        table = pool.table(source)
        if table is None:
            out[:] = pool.constants[source]
        else:
            self.targets.append((table, out))

    def fill(self, coding: Coding, payload: bytes, salt: int) -> None:
        """Decode the payload into the arrays.

        Raises:
            CorruptContainerError: the payload is no stream of these tables.
        """
        least = self._least_bytes(coding)
        if len(payload) < least:
            raise CorruptContainerError(
                f"the coded indices take {least} bytes at least, but the file has {len(payload)}"
            )
        found = coding.decode(payload, salt, self.targets)
        self.occurrences.update(
            (id(out), (table.symbols, counts))
            for (table, out), counts in zip(self.targets, found, strict=True)
        )

    def counts(self, position: int, n_entries: int) -> NDArray[np.int64]:
        """Return ``(n_entries,)`` how often each entry occurs in a shared tensor with weights."""
        indices = self.indices[position]
        if id(indices) not in self.occurrences:  # a constant, or what the adaptive coder took
            return _histogram(indices, n_entries)
        symbols, found = self.occurrences[id(indices)]
        counts = np.zeros(n_entries, dtype=np.int64)
        counts[symbols] = found
        return counts

    def _least_bytes(self, coding: Coding) -> int:
        """Return the bytes of the payload if every symbol were the cheapest of its table."""
        coded = [(table, out.size) for table, out in self.targets if table.symbols.size > 1]
        cheapest: dict[int, int] = {}
        for resolution in coding.RESOLUTIONS:
            tables = list({id(t): t for t, _ in coded if t.resolution == resolution}.values())
            if tables:
                rows = Rows.listed(tables)
                levels = np.concatenate([table.levels for table in tables])
                least = np.minimum.reduceat(coding.costs(rows, levels, resolution), rows.starts)
                cheapest.update(zip(map(id, tables), least.tolist(), strict=True))
        total = sum(size * cheapest[id(table)] for table, size in coded)
        return coding.payload_bytes(total, sum(size for _, size in coded))

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


def read_tables(
    bits: BitReader,
    entries: Entries,
    books: tuple[Codebook, ...],
    coding: Coding,
    *,
    has_choices: bool,
) -> Arrays:
    """Read all tables and allocate the arrays, whose sizes were checked before.

    Args:
        bits: the model, behind the codebooks.
        entries: the directory.
        books: the codebooks.
        coding: of the tables.
        has_choices: whether every shared tensor says if the adaptive coder took it.

    Raises:
        CorruptContainerError: the bits are no such tables.
    """
    arrays = Arrays()
    on_trellises = bool(has_choices and bits.fixed(1))
    for codebook, positions in enumerate(shared_sources(entries, len(books))):
        if has_choices:
            taken = {
                position: N_STATES[bits.fixed(TRELLIS_BITS) if on_trellises else 0]
                for position in positions
                if bits.fixed(1)
            }
            if taken:
                arrays.adaptive.append(Taken(codebook, taken))
            positions = [position for position in positions if position not in taken]
        if not positions:
            continue
        sizes = [entries[position].size for position in positions]
        n_entries = len(books[codebook])
        pool = Pool.read(bits, n_entries, sizes, coding)
        for source, position in enumerate(positions):
            out = np.empty(sizes[source], dtype=index_dtype(n_entries))
            arrays.indices[position] = out
            arrays.add(pool, source, out)
    if on_trellises and not any(any(taken.trellises.values()) for taken in arrays.adaptive):
        raise CorruptContainerError("the file claims trellises, but no tensor follows one")
    for groups in kept_sources(entries):
        sizes = [sum(entries[position].size for position in group.positions) for group in groups]
        rows = [np.empty((size, groups[0].n_planes), dtype=np.uint8) for size in sizes]
        for plane in range(groups[0].n_planes):
            pool = Pool.read(bits, 256, sizes, coding)
            for source, row in enumerate(rows):
                arrays.add(pool, source, row[:, plane])
        arrays.groups.extend(zip(groups, rows, strict=True))
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
            arrays.indices.setdefault(position, np.empty(0, dtype=index_dtype(n_entries)))
            indices, counts = arrays.indices[position], arrays.counts(position, n_entries)
            tensors.append(
                SharedTensor(entry.name, entry.shape, entry.dtype, entry.codebook, indices, counts)
            )
    try:
        return SharedWeights(books, tuple(tensors))
    except InputError as exc:
        raise CorruptContainerError(f"the file holds no valid network: {exc}") from exc
