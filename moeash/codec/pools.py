"""Which table each source uses: its own, one for its whole pool, the flat one, or none.

A *pool* is all sources over one alphabet: the shared tensors of one codebook, or one byte plane of
all kept tensors of one dtype. Everything is decided from counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from moeash.codec.bits import BitReader, BitWriter
from moeash.codec.static import ans
from moeash.codec.static.tables import FRACTION_BITS, Rows, Table, flat_table, symbol_width
from moeash.errors import InputError

GLOBAL, OWN, FLAT, CONSTANT = range(4)
KIND_NAMES = ("global", "own", "flat", "constant")
"""Table kinds by their code: the pool's table, the source's own, all equal, a single symbol."""

KIND_BITS_WITH_GLOBAL = np.array([1, 2, 3, 3])
KIND_BITS_WITHOUT = np.array([0, 1, 2, 2])

BLOCK = 1 << 21
REFITS = 3

Coder = Literal["ans", "huffman", "adaptive"]
CODERS: tuple[Coder, ...] = get_args(Coder)
"""Coders by their number in the file. What ``adaptive`` does not take, ``ans`` codes."""


class Coding(Protocol):
    """What :mod:`moeash.codec.static.ans` and :mod:`moeash.codec.static.huffman` both provide."""

    NAME: str
    RESOLUTIONS: tuple[int, ...]

    def levels(self, rows: Rows, resolution: int) -> NDArray[np.int64]:
        """Return the levels of every row's symbols."""

    def flat_levels(self, alphabet: int) -> NDArray[np.int64]:
        """Return the levels of the flat table."""

    def costs(self, rows: Rows, levels: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
        """Return the cost of coding each symbol once, in 2**-16 bits."""

    def payload_bytes(self, cost: int, n_symbols: int) -> int:
        """Return the bytes of the stream."""

    def encode(
        self, sources: Sequence[tuple[Callable[[], NDArray[np.int32]], Table, int]], reserved: int
    ) -> tuple[bytes, int]:
        """Return the stream and its salt."""

    def fill(
        self, payload: bytes, salt: int, targets: Sequence[tuple[Table, NDArray[Any]]]
    ) -> list[NDArray[np.int64]]:
        """Decode every source into its array, and return how often each of its symbols occurs."""


def coding_of(coder: str) -> Coding:
    """Return the table coder of a coder by name; bitarray is imported only for ``"huffman"``.

    Raises:
        InputError: there is no such coder.
    """
    if coder in ("ans", "adaptive"):
        return cast(Coding, ans)
    if coder == "huffman":
        from moeash.codec.static import huffman

        return cast(Coding, huffman)
    raise InputError(f"no coder {coder!r}; choose from {', '.join(CODERS)}")


@dataclass(frozen=True, eq=False)
class Fit:
    """The best table for each of ``S`` sources.

    Attributes:
        table_bits: ``(S,)`` bits of the table.
        payload: ``(S,)`` cost of the symbols, 2**-16 bits.
        resolution: ``(S,)`` see :class:`Table`; likewise the next two.
        predictor: ``(S,)``.
        order: ``(S,)``.
    """

    table_bits: NDArray[np.int64]
    payload: NDArray[np.int64]
    resolution: NDArray[np.int64]
    predictor: NDArray[np.int64]
    order: NDArray[np.int64]


def fit(coding: Coding, rows: Rows) -> Fit:
    """Choose resolution, predictor and order of every row's own table."""
    header = rows.support_bits + 3 + (2 if len(coding.RESOLUTIONS) > 1 else 0)
    best: Fit | None = None
    for resolution in coding.RESOLUTIONS:
        levels = coding.levels(rows, resolution)
        level_bits, predictor, order = rows.level_bits(levels)
        payload = rows.sums(rows.counts * coding.costs(rows, levels, resolution))
        table_bits = header + level_bits
        new = Fit(table_bits, payload, np.full_like(payload, resolution), predictor, order)
        best = new if best is None else _better(best, new)
    assert best is not None
    return best


def _better(old: Fit, new: Fit) -> Fit:
    cost_old = old.payload + (old.table_bits << FRACTION_BITS)
    cost_new = new.payload + (new.table_bits << FRACTION_BITS)
    take = cost_new < cost_old
    names = (field.name for field in fields(Fit))
    return Fit(*(np.where(take, getattr(new, name), getattr(old, name)) for name in names))


@dataclass(frozen=True, eq=False)
class Pool:
    """The tables of all sources of one alphabet.

    Attributes:
        alphabet: number of symbols.
        sizes: ``(S,)`` symbols of each source, at least 1.
        kinds: ``(S,)`` table kinds.
        own: ``{source: Table}`` of the sources with a table of their own.
        constants: ``{source: symbol}`` of the sources of a single symbol value.
        shared_table: the pool's table, or ``None``.
        flat: the flat table, one object for all its users, or ``None`` without any.
    """

    alphabet: int
    sizes: NDArray[np.int64]
    kinds: NDArray[np.int64]
    own: dict[int, Table]
    constants: dict[int, int]
    shared_table: Table | None
    flat: Table | None

    def table(self, source: int) -> Table | None:
        """Return the table of a source, ``None`` for a constant one."""
        kind = int(self.kinds[source])
        if kind == CONSTANT:
            return None
        if kind == OWN:
            return self.own[source]
        return self.flat if kind == FLAT else self.shared_table

    def write(self, bits: BitWriter, *, with_resolution: bool) -> None:
        """Write all tables of the pool."""
        if self.kinds.size > 1:
            bits.fixed(int(self.shared_table is not None), 1)
        if self.shared_table is not None:
            self.shared_table.write(bits, with_resolution=with_resolution)
        for source, kind in enumerate(self.kinds.tolist()):
            if self.shared_table is not None:
                bits.fixed(*((0, 1), (0b10, 2), (0b110, 3), (0b111, 3))[kind])
            else:
                bits.fixed(*((0, 0), (0, 1), (0b10, 2), (0b11, 2))[kind])
            if kind == OWN:
                self.own[source].write(bits, with_resolution=with_resolution)
            elif kind == CONSTANT:
                bits.fixed(self.constants[source], symbol_width(self.alphabet))

    @classmethod
    def read(cls, bits: BitReader, alphabet: int, sizes: Sequence[int], coding: Coding) -> "Pool":
        """Read what :meth:`write` wrote.

        Raises:
            CorruptContainerError: the bits are no such tables.
        """
        with_resolution = len(coding.RESOLUTIONS) > 1
        shared_table = None
        if len(sizes) > 1 and bits.fixed(1):
            shared_table = Table.read(bits, alphabet, sum(sizes), with_resolution=with_resolution)
        kinds = []
        own: dict[int, Table] = {}
        constants: dict[int, int] = {}
        for source, size in enumerate(sizes):
            if shared_table is not None and not bits.fixed(1):
                kind = GLOBAL
            elif not bits.fixed(1):
                kind = OWN
                own[source] = Table.read(bits, alphabet, size, with_resolution=with_resolution)
            else:
                kind = CONSTANT if bits.fixed(1) else FLAT
                if kind == CONSTANT:
                    constants[source] = bits.symbol(alphabet)
            kinds.append(kind)
        array = np.array(kinds, dtype=np.int64)
        flat = _flat(coding, alphabet, array)
        return cls(alphabet, np.array(sizes), array, own, constants, shared_table, flat)


@dataclass(frozen=True, eq=False)
class PoolPlan:
    """A pool with its exact cost, decided from counts; tables are built only to be written.

    Attributes:
        counts: ``S`` histograms ``(alphabet,)``.
        kinds: ``(S,)`` table kinds.
        table_bits: ``(S,)`` bits each source spends on its kind and table.
        pool_bits: bits of the flag and the pool's table.
        payload: ``(S,)`` cost of the symbols, 2**-16 bits.
        fit: the choices for own tables.
        members: histogram the pool's table is built from, or ``None`` without one.
        member_fit: the choices for the pool's table.
    """

    counts: tuple[NDArray[np.int64], ...]
    kinds: NDArray[np.int64]
    table_bits: NDArray[np.int64]
    pool_bits: int
    payload: NDArray[np.int64]
    fit: Fit
    members: NDArray[np.int64] | None
    member_fit: Fit | None

    @property
    def all_table_bits(self) -> int:
        """Bits of everything but the stream."""
        return self.pool_bits + int(self.table_bits.sum())

    @property
    def n_coded(self) -> int:
        """Number of symbols in the stream."""
        # Only a table of a single symbol makes it free, and then it is not in the stream.
        return sum(
            int(counts.sum())
            for counts, payload in zip(self.counts, self.payload.tolist(), strict=True)
            if payload
        )

    def build(self, coding: Coding) -> Pool:
        """Return the pool with its tables."""
        alphabet = self.counts[0].size
        own = {
            source: _table(coding, self.counts[source], self.fit, source)
            for source in np.flatnonzero(self.kinds == OWN).tolist()
        }
        constants = {
            source: int(np.flatnonzero(self.counts[source])[0])
            for source in np.flatnonzero(self.kinds == CONSTANT).tolist()
        }
        shared_table = None
        if self.members is not None:
            assert self.member_fit is not None
            shared_table = _table(coding, self.members, self.member_fit, 0)
        flat = _flat(coding, alphabet, self.kinds)
        sizes = np.array([int(counts.sum()) for counts in self.counts])
        return Pool(alphabet, sizes, self.kinds, own, constants, shared_table, flat)


def _flat(coding: Coding, alphabet: int, kinds: NDArray[np.int64]) -> Table | None:
    return flat_table(alphabet, coding.flat_levels(alphabet)) if (kinds == FLAT).any() else None


def _table(coding: Coding, counts: NDArray[np.int64], fit: Fit, source: int) -> Table:
    rows = Rows.of(counts[np.newaxis])
    resolution = int(fit.resolution[source])
    levels = coding.levels(rows, resolution)
    return Table(
        counts.size,
        rows.symbols,
        levels,
        resolution,
        int(fit.predictor[source]),
        int(fit.order[source]),
    )


def plan_pool(coder: str, counts: Sequence[NDArray[np.int64]]) -> PoolPlan:
    """Choose the tables of a pool so that tables and symbols together are smallest.

    One table for all, a table for each, and mixtures are compared: those who gain from the pool's
    table use it, it is built again from its users alone, and so on a few times.

    Args:
        coder: ``"ans"`` or ``"huffman"``.
        counts: at least one ``(alphabet,)`` int64 histogram, none of them empty.
    """
    coding = coding_of(coder)
    blocks = _blocks(counts)
    parts = [fit(coding, rows) for rows in blocks]
    own = Fit(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))
    alphabet = counts[0].size
    flat = _flat_costs(coding, alphabet)
    flat_payload = np.concatenate([rows.sums(rows.counts * flat[rows.symbols]) for rows in blocks])
    single = np.concatenate([rows.lengths for rows in blocks]) == 1
    zero = np.zeros_like(own.payload)
    payloads = np.stack([zero, own.payload, flat_payload, zero])
    tables = np.stack([zero, own.table_bits, zero, zero + symbol_width(alphabet)])
    impossible = np.iinfo(np.int64).max // 4

    def choose(with_global: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        bits = tables + (KIND_BITS_WITH_GLOBAL if with_global else KIND_BITS_WITHOUT)[:, np.newaxis]
        total = payloads + (bits << FRACTION_BITS)
        total[CONSTANT][~single] = impossible
        total[FLAT][single] = impossible
        if not with_global:
            total[GLOBAL] = impossible
        kinds = total.argmin(axis=0)
        return kinds, np.take_along_axis(total, kinds[np.newaxis], axis=0)[0]

    flag = int(len(counts) > 1)

    def planned(
        kinds: NDArray[np.int64],
        pool_bits: int,
        members: NDArray[np.int64] | None,
        member_fit: Fit | None,
    ) -> PoolPlan:
        kind_bits = KIND_BITS_WITHOUT if members is None else KIND_BITS_WITH_GLOBAL
        pick = kinds[np.newaxis]
        return PoolPlan(
            tuple(counts),
            kinds,
            np.take_along_axis(tables, pick, axis=0)[0] + kind_bits[kinds],
            pool_bits,
            np.take_along_axis(payloads, pick, axis=0)[0],
            own,
            members,
            member_fit,
        )

    kinds, total = choose(with_global=False)
    best, best_cost = planned(kinds, flag, None, None), int(total.sum())
    if len(counts) == 1:
        return best
    members = np.ones(len(counts), dtype=np.bool_)
    for attempt in range(1 + REFITS):
        # First every source has the same say, or one large outlier would keep the others away.
        merged = _merge(counts, members, equal=attempt == 0)
        rows = Rows.of(merged[np.newaxis])
        merged_fit = fit(coding, rows)
        resolution = int(merged_fit.resolution[0])
        each = np.full(alphabet, -1, dtype=np.int64)
        each[rows.symbols] = coding.costs(rows, coding.levels(rows, resolution), resolution)
        payloads[GLOBAL] = np.concatenate(
            [_global_payload(block, each, impossible) for block in blocks]
        )
        kinds, total = choose(with_global=True)
        pool_bits = flag + int(merged_fit.table_bits[0])
        cost = int(total.sum()) + (pool_bits << FRACTION_BITS)
        if cost < best_cost:
            best, best_cost = planned(kinds, pool_bits, merged, merged_fit), cost
        users = kinds == GLOBAL
        if attempt and np.array_equal(members, users):
            break
        if not users.any():
            # Nobody gains as it is: try the half that loses least, which excludes outliers.
            loss = payloads[GLOBAL] - payloads[OWN]
            users = loss <= np.median(loss)
        members = users
    return best


def _merge(
    counts: Sequence[NDArray[np.int64]], members: NDArray[np.bool_], *, equal: bool
) -> NDArray[np.int64]:
    merged = np.zeros(counts[0].size, dtype=np.int64)
    for source in np.flatnonzero(members).tolist():
        one = counts[source]
        # Integer shares of about 2**20, and never 0 for a symbol that occurs.
        merged += -(-(one << 20) // one.sum()) if equal else one
    return merged


def _columns(fit: Fit) -> tuple[NDArray[np.int64], ...]:
    return fit.table_bits, fit.payload, fit.resolution, fit.predictor, fit.order


def _blocks(counts: Sequence[NDArray[np.int64]]) -> list[Rows]:
    """Return the rows in blocks, so that what is computed at once stays bounded."""
    per_block = max(1, BLOCK // counts[0].size)
    return [
        Rows.of(np.stack(counts[begin : begin + per_block]))
        for begin in range(0, len(counts), per_block)
    ]


def _flat_costs(coding: Coding, alphabet: int) -> NDArray[np.int64]:
    everything = np.ones((1, alphabet), dtype=np.int64)
    return coding.costs(Rows.of(everything), coding.flat_levels(alphabet), 0)


def _global_payload(rows: Rows, each: NDArray[np.int64], impossible: int) -> NDArray[np.int64]:
    cost = each[rows.symbols]
    missing = rows.sums((cost < 0).astype(np.int64)) > 0
    return np.where(missing, impossible, rows.sums(rows.counts * cost))
