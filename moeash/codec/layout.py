"""Everything that decides a file's size: sections, tables, streams.

Encoding and sizing go through the same :class:`Layout`, so that they cannot disagree. With tables
it follows from counts alone; the adaptive coder has to run to know its size. A study sizes
thousands of candidates of one network: what does not change between them (the directory, the kept
tensors) is laid out once and remembered by content.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from moeash.codec import codebooks, directory
from moeash.codec.adaptive.selection import TRELLIS_BITS, AdaptivePlan, select
from moeash.codec.bits import varint
from moeash.codec.entries import MAX_CODEBOOKS, Entries, entries_of, notes_of
from moeash.codec.pools import Coding, PoolPlan, coding_of, plan_pool
from moeash.codec.sources import (
    KeptGroup,
    counts_of,
    group_bytes,
    kept_sources,
    shared_pool,
    shared_sources,
)
from moeash.core.codebook import Codebook, KeptTensor, SharedWeights
from moeash.errors import InputError

PREFIX_BYTES = 8
CHECKSUM_BYTES = 8

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
        return sum(pool.all_table_bits for planes in self.pools for pool in planes)

    @cached_property
    def payload(self) -> int:
        """Cost of all bytes, 2**-16 bits."""
        return sum(int(pool.payload.sum()) for planes in self.pools for pool in planes)

    @cached_property
    def n_coded(self) -> int:
        """Number of coded bytes."""
        return sum(pool.n_coded for planes in self.pools for pool in planes)


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of the file of one network.

    Attributes:
        coder: name of the entropy coder.
        entries: the network's directory.
        directory: the packed directory.
        codebook_bits: bits of all codebooks.
        sources: per codebook, positions of its shared tensors with weights that use tables.
        pools: per codebook with such tensors, its pool; ``None`` for the others.
        adaptive: per codebook, what the adaptive coder takes; ``None`` for nothing.
        kept: the pools of the kept tensors.
    """

    coder: str
    entries: Entries
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

    @property
    def has_choices(self) -> bool:
        """Whether every shared tensor says if the adaptive coder took it."""
        return self.coder == "adaptive"

    @cached_property
    def shared_table_bits(self) -> int:
        """Bits of the shared tensors' tables."""
        return sum(pool.all_table_bits for pool in self.pools if pool)

    @cached_property
    def choice_bits(self) -> int:
        """Bits that say which shared tensors the adaptive coder takes, and how."""
        if not self.has_choices:
            return 0
        n_taken = sum(len(part.positions) for part in self.adaptive if part)
        n_tensors = n_taken + sum(map(len, self.sources))
        return 1 + n_tensors + (TRELLIS_BITS * n_taken if self.on_trellises else 0)

    @cached_property
    def on_trellises(self) -> bool:
        """Whether a tensor follows a trellis."""
        return any(any(part.trellises) for part in self.adaptive if part)

    @cached_property
    def in_units(self) -> bool:
        """Whether a stream counts magnitudes in other units than one."""
        return any(part.shift for part in self.adaptive if part)

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
        if self.has_choices:
            sections.append(len(self.adaptive_section))
        return b"".join(map(varint, sections))

    @property
    def header_bytes(self) -> int:
        """Bytes before codebooks and tables."""
        return PREFIX_BYTES + len(self.lengths) + len(self.directory)

    @property
    def total_bytes(self) -> int:
        """Bytes of the file."""
        coded = self.payload_bytes + len(self.adaptive_section)
        return self.header_bytes + self.model_bytes + coded + CHECKSUM_BYTES


def lay_out(
    shared: SharedWeights, *, coder: str = "ans", notes: Mapping[str, str] | None = None
) -> Layout:
    """Return the layout of a file; without looking at an index unless the coder is adaptive.

    Args:
        shared: the network.
        coder: ``"ans"``, ``"huffman"`` or ``"adaptive"``.
        notes: short texts stored along, such as the network's name.

    Raises:
        InputError: a limit of the format is exceeded, or counts are negative.
    """
    coding_of(coder)
    entries = entries_of(shared)
    counts = counts_of(shared)
    layout = lay_out_counted(
        entries,
        shared.codebooks,
        counts,
        lambda: _plan_kept(coder, shared, entries),
        coder=coder,
        notes=notes,
    )
    if coder != "adaptive":
        return layout
    sources, pools, taken = list(layout.sources), list(layout.pools), list(layout.adaptive)
    for codebook, pool in enumerate(pools):
        if pool is not None:
            sources[codebook], pools[codebook], taken[codebook] = select(
                shared, sources[codebook], pool
            )
    return replace(layout, sources=sources, pools=pools, adaptive=taken)


def lay_out_counted(
    entries: Entries,
    books: Sequence[Codebook],
    counts: Mapping[int, NDArray[np.int64]],
    kept: Callable[[], KeptPlan],
    *,
    coder: str,
    notes: Mapping[str, str] | None,
) -> Layout:
    """Return the layout with tables of a network that is known by its counts alone.

    Args:
        entries: its directory.
        books: its codebooks.
        counts: by position, how often each entry occurs in every shared tensor; not negative.
        kept: plans the kept tensors.
        coder: as :func:`lay_out`; of ``"adaptive"`` only the part that tables take.
        notes: as :func:`lay_out`.

    Raises:
        InputError: a limit of the format is exceeded.
    """
    if len(books) > MAX_CODEBOOKS:
        raise InputError(f"a file holds at most {MAX_CODEBOOKS} codebooks, not {len(books)}")
    ordered = notes_of(notes)
    packed = _DIRECTORIES.get((entries, ordered), lambda: directory.pack(entries, ordered))
    sources = shared_sources(entries, len(books))
    pools = [shared_pool(coder, [counts[p] for p in positions]) for positions in sources]
    return Layout(
        coder,
        entries,
        packed,
        codebooks.count_bits(books),
        sources,
        pools,
        [None] * len(sources),
        kept(),
    )


_DIRECTORIES: Recent[bytes] = Recent(16)
_KEPT: Recent[KeptPlan] = Recent(16)


def _plan_kept(coder: str, shared: SharedWeights, entries: Entries) -> KeptPlan:
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


def _fresh_kept_plan(coder: str, shared: SharedWeights, entries: Entries) -> KeptPlan:
    def counts(group: KeptGroup) -> list[NDArray[np.int64]]:
        row = group_bytes(shared, group)
        return [np.bincount(row[:, plane], minlength=256) for plane in range(group.n_planes)]

    return plan_kept(coder, entries, counts)


def plan_kept(
    coder: str, entries: Entries, counts: Callable[[KeptGroup], Sequence[NDArray[np.int64]]]
) -> KeptPlan:
    """Return the pools of the kept tensors of a directory.

    Args:
        coder: name of the entropy coder.
        entries: the directory.
        counts: returns, for every byte plane of a group, how often each byte occurs.
    """
    groups = kept_sources(entries)
    pools = []
    for of_dtype in groups:
        rows = [counts(group) for group in of_dtype]
        pools.append(
            [
                plan_pool(coder, [row[plane] for row in rows])
                for plane in range(of_dtype[0].n_planes)
            ]
        )
    return KeptPlan(groups, pools)
