"""Everything that decides a file's size: sections, tables, streams.

Encoding and sizing go through the same :class:`Plan`, so that they cannot disagree. With tables it
follows from counts alone; the adaptive coder has to run to know its size. A study plans thousands
of candidates of one network: what does not change between them (the directory, the kept tensors)
is planned once and remembered by content.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from moeash.codec import adaptive, codebooks, directory
from moeash.codec.pools import Coding, PoolPlan, coding_of, plan_pool
from moeash.codec.tables import FRACTION_BITS
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights
from moeash.core.trellis import N_STATES, followed
from moeash.errors import InputError

PREFIX_BYTES = 8
CHECKSUM_BYTES = 8

TRELLIS_BITS = 2
"""Bits that say which of the trellises an adaptively coded tensor follows."""

assert len(N_STATES) == 1 << TRELLIS_BITS

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """Remembers the last few results by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[object, _Value] = OrderedDict()

    def get(self, key: object, make: Callable[[], _Value]) -> _Value:
        """Return the remembered value of ``key``, or make it."""
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = make()
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value


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
        return directory.numpy_dtype(self.stored).itemsize


def shared_sources(entries: directory.Entries, n_codebooks: int) -> list[list[int]]:
    """Return, for every codebook, the positions of the shared tensors with weights."""
    pools: list[list[int]] = [[] for _ in range(n_codebooks)]
    for position, entry in enumerate(entries):
        if entry.kind == "shared" and entry.size:
            pools[entry.codebook].append(position)
    return pools


def kept_sources(entries: directory.Entries) -> list[list[KeptGroup]]:
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
        for stored in sorted(groups, key=directory.DTYPES.index)
    ]


def group_bytes(shared: SharedWeights, group: KeptGroup) -> NDArray[np.uint8]:
    """Return ``(elements, n_planes)`` the little-endian bytes of a group."""
    dtype = directory.numpy_dtype(group.stored)
    chunks = []
    for position in group.positions:
        tensor = shared.tensors[position]
        assert isinstance(tensor, KeptTensor)
        chunks.append(np.ascontiguousarray(tensor.values, dtype=dtype).tobytes())
    return np.frombuffer(b"".join(chunks), dtype=np.uint8).reshape(-1, dtype.itemsize)


@dataclass(frozen=True, eq=False)
class KeptPlan:
    """The pools of the kept tensors.

    Attributes:
        groups: per stored dtype, its groups.
        pools: per stored dtype, one pool per byte plane.
    """

    groups: list[list[KeptGroup]]
    pools: list[list[PoolPlan]]

    @cached_property
    def table_bits(self) -> int:
        """Bits of all tables."""
        return sum(_pool_table_bits(pool) for planes in self.pools for pool in planes)

    @cached_property
    def payload(self) -> int:
        """Cost of all bytes, 2**-16 bits."""
        return sum(int(pool.payload.sum()) for planes in self.pools for pool in planes)

    @cached_property
    def n_coded(self) -> int:
        """Number of coded bytes."""
        return sum(pool.n_coded for planes in self.pools for pool in planes)


def _pool_table_bits(pool: PoolPlan) -> int:
    return pool.pool_bits + int(pool.table_bits.sum())


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
    stream: adaptive.Stream

    @property
    def section(self) -> bytes:
        """The stream as the file holds it, after its length."""
        return directory.varint(len(self.stream.data)) + self.stream.data


@dataclass(frozen=True, eq=False)
class Plan:
    """The layout of the file of one :class:`SharedWeights`.

    Attributes:
        coder: name of the entropy coder.
        shared: what will be encoded.
        entries: its directory.
        directory: the packed directory.
        codebook_bits: bits of all codebooks.
        sources: per codebook, positions of its shared tensors with weights that use tables.
        pools: per codebook with such tensors, its pool; ``None`` for the others.
        adaptive: per codebook, what the adaptive coder takes; ``None`` for nothing.
        kept: the pools of the kept tensors.
    """

    coder: str
    shared: SharedWeights
    entries: directory.Entries
    directory: bytes
    codebook_bits: int
    sources: list[list[int]]
    pools: list[PoolPlan | None]
    adaptive: list[AdaptivePlan | None]
    kept: KeptPlan

    @property
    def coding(self) -> Coding:
        """The coder's module."""
        return coding_of(self.coder)

    @cached_property
    def shared_table_bits(self) -> int:
        """Bits of the shared tensors' tables."""
        return sum(_pool_table_bits(pool) for pool in self.pools if pool)

    @cached_property
    def version(self) -> int:
        """The oldest version of the format that has what the file uses."""
        if self.in_units:
            return 4
        if self.on_trellises or directory.in_steps(self.entries):
            return 3
        return 2 if self.coder == "adaptive" else 1

    @cached_property
    def on_trellises(self) -> bool:
        """Whether a tensor follows a trellis."""
        return any(any(part.trellises) for part in self.adaptive if part)

    @cached_property
    def in_units(self) -> bool:
        """Whether a stream counts magnitudes in other units than one."""
        return any(part.shift for part in self.adaptive if part)

    @cached_property
    def choice_bits(self) -> int:
        """Bits that say which shared tensors the adaptive coder takes, along which trellis."""
        if self.coder != "adaptive":
            return 0
        taken = sum(len(part.positions) for part in self.adaptive if part)
        trellis_bits = TRELLIS_BITS * taken if self.on_trellises else 0
        flag = int(self.version >= 3)
        return flag + taken + trellis_bits + sum(map(len, self.sources))

    @cached_property
    def model_bytes(self) -> int:
        """Bytes of the section with codebooks and tables."""
        tables = self.shared_table_bits + self.kept.table_bits
        return -(-(self.codebook_bits + self.choice_bits + tables) // 8)

    @cached_property
    def adaptive_section(self) -> bytes:
        """The adaptive coder's streams, codebook by codebook."""
        return b"".join(
            (bytes([part.shift]) if self.in_units else b"") + part.section
            for part in self.adaptive
            if part
        )

    @cached_property
    def payload_bytes(self) -> int:
        """Bytes of the coded stream."""
        pools = [pool for pool in self.pools if pool]
        cost = sum(int(pool.payload.sum()) for pool in pools) + self.kept.payload
        n_coded = sum(pool.n_coded for pool in pools) + self.kept.n_coded
        return self.coding.payload_bytes(cost, n_coded)

    @property
    def lengths(self) -> bytes:
        """The section lengths as the file states them."""
        sections = [len(self.directory), self.model_bytes, self.payload_bytes]
        if self.coder == "adaptive":
            sections.append(len(self.adaptive_section))
        return b"".join(map(directory.varint, sections))

    @property
    def header_bytes(self) -> int:
        """Bytes before codebooks and tables."""
        return PREFIX_BYTES + len(self.lengths) + len(self.directory)

    @property
    def total_bytes(self) -> int:
        """Bytes of the file."""
        coded = self.payload_bytes + len(self.adaptive_section)
        return self.header_bytes + self.model_bytes + coded + CHECKSUM_BYTES


def plan(
    shared: SharedWeights, *, coder: str = "ans", notes: Mapping[str, str] | None = None
) -> Plan:
    """Return the layout of a file; without looking at an index unless the coder is adaptive.

    Args:
        shared: the network.
        coder: ``"ans"``, ``"huffman"`` or ``"adaptive"``.
        notes: short texts stored along, such as the network's name.

    Raises:
        InputError: a limit of the format is exceeded, or counts are negative.
    """
    coding_of(coder)
    if len(shared.codebooks) > directory.MAX_CODEBOOKS:
        raise InputError(
            f"a file holds at most {directory.MAX_CODEBOOKS} codebooks, not {len(shared.codebooks)}"
        )
    entries = directory.entries_of(shared)
    ordered = directory.notes_of(notes)
    packed = _DIRECTORIES.get((entries, ordered), lambda: directory.pack(entries, ordered))
    sources = shared_sources(entries, len(shared.codebooks))
    pools = [_plan_shared(coder, shared, positions) for positions in sources]
    taken: list[AdaptivePlan | None] = [None] * len(sources)
    if coder == "adaptive":
        for codebook, pool in enumerate(pools):
            if pool is not None:
                sources[codebook], pools[codebook], taken[codebook] = _choose_adaptive(
                    shared, sources[codebook], pool
                )
    return Plan(
        coder,
        shared,
        entries,
        packed,
        codebooks.count_bits(shared.codebooks),
        sources,
        pools,
        taken,
        _plan_kept(coder, shared, entries),
    )


_DIRECTORIES: Recent[bytes] = Recent(16)
_KEPT: Recent[KeptPlan] = Recent(16)


def _plan_shared(coder: str, shared: SharedWeights, positions: list[int]) -> PoolPlan | None:
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


def zero_entry(codebook: Codebook) -> int:
    """Return the entry nearest 0, the lower of two: where the adaptive coder counts from."""
    return int(np.abs(codebook.entries).argmin())


def _choose_adaptive(
    shared: SharedWeights, positions: list[int], pool: PoolPlan
) -> tuple[list[int], PoolPlan | None, AdaptivePlan | None]:
    """Return who keeps tables, their pool, and what the adaptive coder takes.

    Three ways are compared by their exact bits: all tables, all adaptive, and tables for just those
    tensors that cost the adaptive coder more.
    """
    everyone = _adaptive(shared, positions)
    table_bits = pool.payload / (1 << FRACTION_BITS) + pool.table_bits
    cheaper = table_bits < 8 * np.array(everyone.stream.tensor_bytes)
    ways: list[tuple[list[int], PoolPlan | None, AdaptivePlan | None]] = [
        ([], None, everyone),
        (positions, pool, None),
    ]
    if cheaper.any() and not cheaper.all():
        losers = [p for p, lost in zip(positions, cheaper, strict=True) if lost]
        rest = [p for p, lost in zip(positions, cheaper, strict=True) if not lost]
        ways.append((losers, _plan_shared("adaptive", shared, losers), _adaptive(shared, rest)))

    def bits(way: tuple[list[int], PoolPlan | None, AdaptivePlan | None]) -> float:
        _, tables, part = way
        total = 8.0 * len(part.section) if part else 0.0
        if tables:
            payload = int(tables.payload.sum()) / (1 << FRACTION_BITS)
            total += payload + _pool_table_bits(tables)
        return total

    return min(ways, key=bits)


def _adaptive(shared: SharedWeights, positions: list[int]) -> AdaptivePlan:
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
    shift = adaptive.choose_shift(tensors, zero, trellises)
    stream = adaptive.encode_stream(tensors, len(book), zero, trellises, shift=shift)
    return AdaptivePlan(tuple(positions), tuple(trellises), shift, stream)


def _plan_kept(coder: str, shared: SharedWeights, entries: directory.Entries) -> KeptPlan:
    digest = hashlib.blake2b(digest_size=16)
    described = []
    for entry, tensor in zip(entries, shared.tensors, strict=True):
        if isinstance(tensor, KeptTensor):
            described.append((entry.leaf, entry.stored, entry.size))
            digest.update(np.ascontiguousarray(tensor.values).reshape(-1).view(np.uint8).data)
    # Positions are part of the groups, so two states that interleave differently differ here.
    places = tuple(i for i, entry in enumerate(entries) if entry.kind == "kept")
    key = (coder, tuple(described), places, digest.digest())
    return _KEPT.get(key, lambda: _fresh_kept_plan(coder, shared, entries))


def _fresh_kept_plan(coder: str, shared: SharedWeights, entries: directory.Entries) -> KeptPlan:
    groups = kept_sources(entries)
    pools = []
    for of_dtype in groups:
        rows = [group_bytes(shared, group) for group in of_dtype]
        pools.append(
            [
                plan_pool(coder, [np.bincount(row[:, plane], minlength=256) for row in rows])
                for plane in range(of_dtype[0].n_planes)
            ]
        )
    return KeptPlan(groups, pools)
